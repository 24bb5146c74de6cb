"""Batches made of noise, for tests of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from atlas import WindowBatch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_batch(
    sizes: Sequence[tuple[int, int]],
    keep: float = 0.6,
    cases: Sequence[int] | None = None,
    window_px: int = 256,
    channels: int = 3,
    mpp: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.uint8,
) -> WindowBatch:
    """Random windows of images of the given (height, width); every image keeps at least one."""
    rng = torch.Generator().manual_seed(seed)
    rows, cols, images = [], [], []
    for i, (height, width) in enumerate(sizes):
        grid = torch.cartesian_prod(
            torch.arange(-(-height // window_px)), torch.arange(-(-width // window_px))
        )
        kept = torch.rand(len(grid), generator=rng) < keep
        kept[torch.randint(len(grid), (1,), generator=rng)] = True
        rows.append(grid[kept, 0])
        cols.append(grid[kept, 1])
        images.append(torch.full((int(kept.sum()),), i))
    order = torch.randperm(sum(map(len, rows)), generator=rng)
    pixels = torch.randint(
        0, 256, (len(order), channels, window_px, window_px), generator=rng, dtype=torch.uint8
    )
    if dtype.is_floating_point:
        pixels = pixels.to(dtype) / 255
    return WindowBatch(
        pixels,
        torch.cat(rows)[order],
        torch.cat(cols)[order],
        torch.cat(images)[order],
        torch.tensor(sizes),
        torch.full((len(sizes), 2), mpp),
        torch.tensor(cases if cases is not None else range(len(sizes))),
    )


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., WindowBatch]:
    """`make_batch` above."""
    return make_batch
