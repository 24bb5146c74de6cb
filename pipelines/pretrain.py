"""`atlas-path pretrain`: teach the stem its cohort's tissue before any label is looked at.

Two views of one window (turned, zoomed, stained and lit differently) must get the same description, while
descriptions of different windows stay apart and their components say different things: VICReg (Bardes, Ponce
and LeCun 2022). It needs no negatives, no second network and no large batches, so it works on a CPU; and it
makes the stem indifferent to stain, which is what a small cohort gets wrong first. Masked image modelling was
not chosen because a token of the slim stem sees little more than itself: what is masked could only be guessed
by the expensive part of the model.

Windows of test cases are not read. The result goes into a run by `model.init_from`.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas import Atlas, WindowBatch, save_model
from atlas.layout import WindowTree
from atlas.streaming import stem_tokens
from atlas_path.config import TrainConfig, dump_yaml
from atlas_path.errors import UsageError
from atlas_path.geometry import WINDOW_PX
from atlas_path.progress import progress, say
from pipelines.augment import brightness_change, stain_change
from pipelines.data import WindowReader
from pipelines.data_cases import ImageRef
from pipelines.interrupt import StopSignal
from pipelines.train_prepare import prepare
from pipelines.train_setup import build_model, choose_device, uses_bfloat16

SUFFIX = "-pretrained"
LOG_EVERY = 10


class Description(nn.Module):
    """Mean token of a window to the space in which views are compared; thrown away afterwards."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, tokens_NTD: Tensor) -> Tensor:
        """(N, T, D) to (N, width)."""
        return torch.as_tensor(self.layers(tokens_NTD.mean(1)))


def pretrain(config: TrainConfig, force: bool = False) -> Path:
    """Pretrain the stem on the windows of all non-test cases.

    Returns:
        `<out>/<name>-pretrained/`, with `model.safetensors`, `model.json` and `pretrain.jsonl`.

    Raises:
        UsageError: the folder is there already and `force` is not given, or the config has no pretraining.
        KeyboardInterrupt: Ctrl-C; what was learned so far is saved.
    """
    folder = config.out / f"{config.name}{SUFFIX}"
    if (folder / "model.json").exists() and not force:
        raise UsageError(folder, "exists", "use it with model.init_from, or make it again with --force")
    device = choose_device(config.runtime)
    prepared = prepare(config)
    cases = [prepared.found.cases[c.case_id] for c in prepared.cohort.cases
             if c.split != "test" and c.case_id in prepared.found.cases]  # fmt: skip
    reader = WindowReader(int(config.data.cache_gb * 2**30))
    model = build_model(config, prepared.targets, cases, reader, len(prepared.found.kinds)).to(device)
    images = [image for case in cases for image in case.images]
    places = [(image, i) for image in images for i in range(image.n_windows)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    try:
        _train(config, model, places, reader, device, folder)
    finally:
        save_model(
            folder, model.cpu(), {"pretraining": "vicreg", "n_windows": len(places), "mpp": config.data.mpp}
        )
    say(f"stem pretrained on {len(places)} windows; train with --set model.init_from={folder}")
    return folder


def _train(
    config: TrainConfig,
    model: Atlas,
    places: list[tuple[ImageRef, int]],
    reader: WindowReader,
    device: torch.device,
    folder: Path,
) -> None:
    settings = config.pretrain
    per_step = min(settings.windows_per_step, len(places))
    steps = settings.epochs * (len(places) // per_step)
    describe = Description(model.cfg.dim, settings.width).to(device)
    weights = [*model.stem.parameters(), *describe.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=config.optim.weight_decay)
    rng = np.random.default_rng([config.runtime.seed, 0x9E])
    order = np.zeros(0, np.int64)
    started, sums, since = time.monotonic(), np.zeros(3), 0
    with (
        (folder / "pretrain.jsonl").open("w") as log,
        progress("pretrain", steps) as advance,
        StopSignal() as stop,
    ):
        for step in range(steps):
            if len(order) < per_step:
                order = rng.permutation(len(places))
            chosen, order = order[:per_step], order[per_step:]
            pixels = np.concatenate([reader.read(places[i][0], np.asarray([places[i][1]])) for i in chosen])
            views = [view_batch(np.stack([random_view(w, rng) for w in pixels])).to(device) for _ in range(2)]
            for group in optimiser.param_groups:
                group["lr"] = (
                    settings.lr * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
                )
            with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config.runtime, device)):
                tokens = [
                    stem_tokens(model, view, WindowTree.of(view, model.cfg).to(device)) for view in views
                ]
            parts = vicreg(*(describe(t.float()) for t in tokens))
            optimiser.zero_grad(set_to_none=True)
            loss = parts.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            sums += parts.detach().cpu().numpy()
            since += 1
            if since == LOG_EVERY or step + 1 == steps:
                names = ("invariance", "variance", "covariance")
                values = dict(zip(names, (sums / since).round(5).tolist(), strict=True))
                log.write(json.dumps({"step": step + 1, **values}) + "\n")
                log.flush()
                sums[:], since = 0, 0
            speed = per_step * (step + 1) / (time.monotonic() - started)
            advance(f"loss {float(loss.detach()):.3f}, {speed:.0f} windows/s", 1)
            if stop.requested:
                raise KeyboardInterrupt


def vicreg(one_NK: Tensor, other_NK: Tensor) -> Tensor:
    """The three terms of VICReg with the paper's weights (25, 25, 1): invariance, variance, covariance."""
    invariance = F.mse_loss(one_NK, other_NK)
    variance, covariance = one_NK.new_zeros(()), one_NK.new_zeros(())
    for view in (one_NK, other_NK):
        centred = view - view.mean(0)
        variance = variance + F.relu(1 - (centred.var(0) + 1e-4).sqrt()).mean() / 2
        products = centred.T @ centred / (len(view) - 1)
        covariance = (
            covariance + (products.square().sum() - products.diagonal().square().sum()) / view.shape[1]
        )
    return torch.stack([25 * invariance, 25 * variance, covariance])


def random_view(window_CHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A window seen otherwise: a random part of 60 to 100 % of its side, turned, stained and lit anew."""
    side = window_CHW.shape[-1]
    part = round(side * rng.uniform(0.6, 1.0))
    y, x = rng.integers(0, side - part + 1, 2)
    crop = window_CHW[:, y : y + part, x : x + part]
    view = np.stack(
        [cv2.resize(np.ascontiguousarray(c), (side, side), interpolation=cv2.INTER_LINEAR) for c in crop]
    )
    view = np.rot90(view, int(rng.integers(4)), (1, 2))
    if rng.random() < 0.5:
        view = view[:, ::-1]
    view = np.ascontiguousarray(view)[None]
    if view.shape[1] == 3 and view.dtype == np.uint8:
        view = stain_change(view, 1 + rng.normal(0, 0.3, 3), rng.normal(0, 0.1, 3))
    return np.asarray(brightness_change(view, 1 + rng.uniform(-0.2, 0.2), rng.uniform(-0.1, 0.1))[0])


def view_batch(pixels_NCHW: np.ndarray) -> WindowBatch:
    """Windows as images of their own: none sees another."""
    n = len(pixels_NCHW)
    zero, each = torch.zeros(n, dtype=torch.int64), torch.arange(n)
    size = torch.full((n, 2), WINDOW_PX, dtype=torch.int64)
    return WindowBatch(torch.from_numpy(pixels_NCHW), zero, zero, each, size, torch.ones(n, 2), each)
