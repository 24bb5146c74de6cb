"""Write golden.json: numbers of this implementation, taken after the published fixtures were met
(test_parity.py).

    python tests/atlas/make_golden.py

Weights and pixels come from formulas, so the file holds results only and the test needs no other data. Make
it anew only when the model is meant to give other numbers, and say why in the commit.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import torch

from atlas import Atlas, WindowBatch, preset
from atlas.reference import reference_config

GOLDEN = Path(__file__).with_name("golden.json")
SMALL = {"window_tokens": 4, "downsample": 2, "position_hidden": 8, "evidence_hidden": 16}
CONFIGS = {
    "published pairing": reference_config(16, 2, (2, 1, 1), 3, 4, 2, "released"),
    "published, true parents": reference_config(16, 2, (2, 1, 1), 3, 4, 2, "spatial"),
    "slim": preset("tiny", task="multiclass", n_outputs=3, dim=16, heads=2, stem_width=8, **SMALL),
    "slim, attention read": preset(
        "tiny", task="ordinal", n_outputs=3, dim=16, heads=2, stem_width=8, context="attention",
        stem_blocks=(1, 1, 1), depths=(1, 1, 1), **SMALL,
    ),
}  # fmt: skip


def formula(name: str, shape: torch.Size) -> torch.Tensor:
    """Smooth, fixed values, twice the size of a usual start, so that attention is not flat."""
    index = torch.arange(shape.numel(), dtype=torch.float64)
    wave = torch.sin(0.37 * index + zlib.crc32(name.encode()) % 1000)
    size = 1.0 if len(shape) < 2 else (8.0 / shape[1:].numel()) ** 0.5
    return (size * wave).view(shape)


def build(name: str) -> Atlas:
    """A float64 model with weights by formula; normalisation gains around one."""
    model = Atlas(CONFIGS[name]).double().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            value = formula(key, p.shape)
            is_gain = "norm" in key and key.endswith("weight")
            p.copy_(1.0 + 0.1 * value if is_gain else 0.3 * value if p.ndim == 1 else value)
    return model


def batch(name: str) -> WindowBatch:
    """One square image with all windows (published pairing needs that) and, for ours, a ragged second one."""
    sizes = [(256, 256)] if name.startswith("published") else [(256, 256), (200, 130)]
    places = [
        (i, row, col)
        for i, (height, width) in enumerate(sizes)
        for row in range(-(-height // 64))
        for col in range(-(-width // 64))
        if i == 0 or (row + col) % 3
    ]
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    windows = [
        torch.stack(
            [(y * (3 + c) + x * (5 + row) + (y * x // 7) * (1 + col) + 31 * (c + i)) % 256 for c in range(3)]
        )
        for i, row, col in places
    ]
    image, row, col = torch.tensor(places).T
    return WindowBatch(
        torch.stack(windows).to(torch.uint8), row, col, image, torch.tensor(sizes),
        torch.full((len(sizes), 2), 0.5), torch.zeros(len(sizes), dtype=torch.long),
    )  # fmt: skip


def numbers(name: str) -> dict[str, object]:
    """Everything that is compared."""
    model = build(name)
    out = model(batch(name), maps=True)
    (out.logits_BO * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)).sum().backward()
    maps = out.contribution_NTO
    return {
        "logits": out.logits_BO.detach()[0].tolist(),
        "contribution_per_window": None if maps is None else maps.detach().sum((1, 2)).tolist(),
        "gradient_norm": {k: float(p.grad.norm()) for k, p in model.named_parameters() if p.grad is not None},
    }


def main() -> None:
    GOLDEN.write_text(json.dumps({name: numbers(name) for name in CONFIGS}, indent=1) + "\n")
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
