"""The published code's golden numbers: tokens after every block, logits, gradients, BatchNorm statistics.

The fixtures come from the released Atlas run in float64. 'ref' is the released pairing of windows, 'fixed'
the true one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from atlas import Atlas, WindowBatch, load_reference
from atlas.layout import WindowTree
from atlas.reference import translate_key

NAMES = ["p256_s1_w16", "p256_s2_w4", "p512_s2_w8", "p256_s3_w4_r2", "p512_s3_w4_r4"]
CASES = [(n, m) for n in NAMES for m in ("ref", "fixed") if m == "ref" or "_s3_" in n]
TOKENS_TOLERANCE, LOGITS_TOLERANCE, FP32_TOLERANCE = 2e-6, 1e-10, 2e-4


@pytest.fixture(scope="module")
def parity(shared: Path) -> Path:
    torch.set_num_threads(1)
    return shared / "parity"


def full_batch(pixels_BCHW: torch.Tensor, window_px: int) -> WindowBatch:
    """All windows of square images, one image a case, in raster order."""
    b, c, height, width = pixels_BCHW.shape
    rows, cols = height // window_px, width // window_px
    windows = pixels_BCHW.view(b, c, rows, window_px, cols, window_px).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    image, row, col = torch.meshgrid(torch.arange(b), torch.arange(rows), torch.arange(cols), indexing="ij")
    size = torch.tensor([[height, width]]).expand(b, 2)
    return WindowBatch(
        windows, row.flatten(), col.flatten(), image.flatten(), size, torch.ones(b, 2), torch.arange(b)
    )  # fmt: skip


def raster(x_WTD: torch.Tensor, tree: WindowTree, level: int) -> torch.Tensor:
    """Tree order -> (image, row, col) order, only the tokens that exist."""
    scale = tree.scales[level]
    side = int(scale.row_W.max()) + 1
    order = torch.argsort((scale.image_W * side + scale.row_W) * side + scale.col_W)
    x_WTD, valid_WT = x_WTD[order], scale.valid_WT[order]
    return x_WTD[valid_WT].view(len(order), -1, x_WTD.shape[-1])


def relative_error(got: torch.Tensor, want: np.ndarray) -> float:
    want_t = torch.as_tensor(np.array(want)).double()
    assert got.shape == want_t.shape
    return float((got.detach().double() - want_t).norm() / want_t.norm())


def build(parity: Path, name: str, mode: str) -> tuple[Atlas, dict, dict]:
    meta = json.loads((parity / f"{name}.json").read_text())
    model = load_reference(
        parity / f"{name}.safetensors", meta["num_heads"], meta["window"], meta["downsample"],
        "released" if mode == "ref" else "spatial",
    )  # fmt: skip
    return model.double().eval(), meta, dict(np.load(parity / f"{name}.npz"))


def run_recorded(model: Atlas, batch: WindowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and the tokens at every place that the fixtures name (without the mode)."""
    tree, seen, hooks = WindowTree.of(batch, model.cfg), {}, []
    n_stages = len(model.stages)

    def record_scales(module, args, out):
        for level, x in enumerate(out):
            seen[f"init/scale{level}"] = raster(x, tree, level)

    def record(stage: int, block: int):
        def hook(module, args, out):
            for active, x in enumerate(out):
                seen[f"stage{stage}/block{block}/scale{active}"] = raster(
                    x, tree, min(stage + active, n_stages - 1)
                )

        return hook

    for i, stage in enumerate(model.stages):
        hooks += [block.register_forward_hook(record(i, j)) for j, block in enumerate(stage)]
    hooks.append(model.stem.register_forward_hook(lambda _m, _a, out: seen.__setitem__("stem", out)))
    hooks.append(
        model.head.norm.register_forward_hook(lambda _m, _a, out: seen.__setitem__("prelogits", out))
    )
    try:
        logits = model(batch).logits_BO
        record_scales(None, None, model.scale_up(seen["stem"], tree))
    finally:
        for hook in hooks:
            hook.remove()
    seen["stem"] = raster(seen["stem"], tree, 0)
    return logits, seen


def stem_windows(stem_BDhw: np.ndarray, k: int) -> np.ndarray:
    b, d, h, w = stem_BDhw.shape
    return stem_BDhw.reshape(b, d, h // k, k, w // k, k).transpose(0, 2, 4, 3, 5, 1).reshape(-1, k * k, d)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_every_array_in_float64(parity: Path, name: str, mode: str):
    model, meta, golden = build(parity, name, mode)
    batch = full_batch(torch.from_numpy(golden["input_u8"]).double() / 255, meta["window"] * 16)
    batch.pixels_NCHW.requires_grad_()
    logits, seen = run_recorded(model, batch)
    golden["ref/stem"] = stem_windows(golden["ref/stem"], meta["window"])
    compared = 0
    for key, want in golden.items():
        place, _, array = key.partition("/")
        if place != mode and not (place == "ref" and (array == "stem" or array.startswith("init"))):
            continue
        if array in seen:
            tolerance = LOGITS_TOLERANCE if want.dtype == np.float64 else TOKENS_TOLERANCE
            assert relative_error(seen[array], want) <= tolerance, key
            compared += 1
    assert compared >= 3 + sum(len(levels) * meta["depths"][i] for i, levels in enumerate(meta["layouts"]))
    assert relative_error(logits, golden[f"{mode}/logits"]) <= LOGITS_TOLERANCE

    (logits @ torch.from_numpy(golden["grad_vec"]).double()).sum().backward()
    std = 0.25  # the fixtures differentiate by the normalised input
    grad = unwindow(batch.pixels_NCHW.grad, batch.size_I2) * std
    assert relative_error(grad.norm(), golden[f"{mode}/input_grad_norm"]) <= TOKENS_TOLERANCE
    assert relative_error(grad[:, :, 40:56, 200:216], golden[f"{mode}/input_grad_crop"]) <= TOKENS_TOLERANCE
    norms = json.loads((parity / f"{name}.{mode}.gradnorms.json").read_text())
    check_gradient_norms(model, norms)


def unwindow(windows: torch.Tensor, size_I2: torch.Tensor) -> torch.Tensor:
    height, width = size_I2[0].tolist()
    c, px = windows.shape[1:3]
    grid = windows.view(len(size_I2), height // px, width // px, c, px, px)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(size_I2), c, height, width)


def check_gradient_norms(model: Atlas, norms: dict[str, float | None]) -> None:
    ours = {name: p.grad for name, p in model.named_parameters()}
    largest = max(v for v in norms.values() if v)
    for key, want in norms.items():
        name = translate_key(key)
        if name is None:
            assert want is None, f"{key} is used by the published code"
            continue
        got = ours.pop(name)
        got_norm = 0.0 if got is None else float(got.norm())
        assert abs(got_norm - (want or 0.0)) <= 1e-7 * max(want or 0.0, 1e-6 * largest), key
    assert not ours, f"parameters without a counterpart: {sorted(ours)}"


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_float32_logits(parity: Path, name: str, mode: str):
    model, meta, golden = build(parity, name, mode)
    batch = full_batch(torch.from_numpy(golden["input_u8"]), meta["window"] * 16)
    for backend in ("plain", "sdpa"):
        model.runtime.backend = backend
        logits = model.float()(batch).logits_BO
        assert logits.dtype == torch.float32
        assert relative_error(logits, golden[f"{mode}/logits"]) <= FP32_TOLERANCE


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_training_mode_statistics(parity: Path, name: str, mode: str):
    model, meta, golden = build(parity, name, mode)
    model.train()
    batch = full_batch(torch.from_numpy(golden["input_u8"]).double() / 255, meta["window"] * 16)
    logits = model(batch).logits_BO
    assert relative_error(logits, golden[f"{mode}/train_logits"]) <= LOGITS_TOLERANCE
    norm = model.stem.norm0a
    assert relative_error(norm.running_mean, golden[f"{mode}/train_conv0_1_running_mean"]) <= TOKENS_TOLERANCE
    assert relative_error(norm.running_var, golden[f"{mode}/train_conv0_1_running_var"]) <= TOKENS_TOLERANCE


def test_every_used_key_is_translated(parity: Path):
    for name in NAMES:
        state = load_file(parity / f"{name}.safetensors")
        dead = [k for k in state if translate_key(k) is None]
        assert all(".norm." in k or ".head." in k for k in dead)


def test_foreign_weights_are_refused():
    with pytest.raises(ValueError, match="published Atlas layout"):
        load_reference({"encoder.weight": torch.zeros(2, 2)}, heads=2)
