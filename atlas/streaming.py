"""Whole slides in bounded memory: the stem in pieces, the trunk in checkpointed chunks.

The stem holds most of the activations and no long-range connections, so it runs twice: once without a graph
to get its tokens, and once more, piece by piece, when the gradient of those tokens is known. Behind the
stem, every chunk of windows is recomputed in the backward pass. What stays in memory is tokens: a few
vectors per 16 px cell.

A piece is a run of windows in tree order (so nearly a square) and the windows around it that its tokens look
into.

Shapes: N windows as given, W windows in tree order, T tokens of a window, D width, B cases, O logits.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from atlas.batch import AtlasOutput, WindowBatch
from atlas.layout import Neighbours, WindowTree
from atlas.stem import receptive_field_px

if TYPE_CHECKING:
    from atlas.model import Atlas

MANY_WINDOWS = 512  # from here on memory matters more than a fifth of the time
M_MMAP_THRESHOLD = -3  # of mallopt(3)


def loss_and_backward(
    model: Atlas, batch: WindowBatch, loss_fn: Callable[[Tensor], Tensor], grad_scale: float = 1.0
) -> tuple[float, AtlasOutput]:
    """Loss and gradients of one batch, the same as `loss_fn(model(batch).logits_BO).backward()`.

    Gradients are added to `.grad` of the parameters. Pixels may stay on the CPU; pieces are moved as needed.

    Args:
        model: any Atlas without BatchNorm, or with its statistics frozen (`eval`).
        batch: any number of windows.
        loss_fn: logits (B, O) to a scalar.
        grad_scale: the loss is multiplied by this before the backward pass (gradient accumulation, scaling).

    Returns:
        The unscaled loss, and the output without its graph.

    Raises:
        ValueError: a BatchNorm stem in training mode, whose statistics need all windows at once.
    """
    if any(isinstance(m, nn.BatchNorm2d) and m.training for m in model.stem.modules()):
        raise ValueError("loss_and_backward: BatchNorm needs all windows at once; use stem_norm='channel'")
    tree = WindowTree.of(batch, model.cfg).to(model.device)
    pieces = list(stem_pieces(tree, model))
    with blocks_given_back(model.device.type == "cpu" and len(batch) > MANY_WINDOWS):
        with torch.no_grad():
            stem_WTD = torch.cat([piece.run(model, batch, tree) for piece in pieces])
        stem_WTD.requires_grad_()
        with checkpointed(model):
            out = model.read(stem_WTD, tree)
            loss = loss_fn(out.logits_BO)
            (loss * grad_scale).backward()
        grad_WTD = stem_WTD.grad
        if grad_WTD is not None:
            for piece in pieces:
                piece.run(model, batch, tree).backward(grad_WTD[piece.start : piece.stop])
    return float(loss.detach()), out.detach()


def stem_tokens(model: Atlas, batch: WindowBatch, tree: WindowTree) -> Tensor:
    """Stem tokens of all windows, (W, T, D): at once when gradients are wanted, in pieces otherwise."""
    if torch.is_grad_enabled() or len(batch) <= model.runtime.stem_windows:
        everything = StemPiece(0, len(batch), torch.arange(len(batch), device=model.device), tree.neighbours)
        return everything.run(model, batch, tree)
    return torch.cat([piece.run(model, batch, tree) for piece in stem_pieces(tree, model)])


@contextmanager
def blocks_given_back(wanted: bool) -> Iterator[None]:
    """While inside, freed blocks of 2 MB and more go back to the system at once (glibc only).

    By itself glibc keeps blocks of up to 32 MB for later, and among blocks of many sizes this nearly doubled
    the peak of a step over 1024 windows (1,112 against 616 MiB). New pages cost time, so small batches keep
    the default.
    """
    libc = ctypes.CDLL(None) if wanted and sys.platform == "linux" else None
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2 << 20)
    try:
        yield
    finally:
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, 32 << 20)


@contextmanager
def checkpointed(model: Atlas) -> Iterator[None]:
    """Recompute chunks in the backward pass while inside."""
    before = model.runtime
    model.runtime = replace(before, checkpoint=True)
    try:
        yield
    finally:
        model.runtime = before


@dataclass
class StemPiece:
    """Windows start..stop of the tree and the windows their tokens look into."""

    start: int
    stop: int
    members: Tensor
    """Tree indices of the piece's own windows, then of those around it."""
    near: Neighbours

    def run(self, model: Atlas, batch: WindowBatch, tree: WindowTree) -> Tensor:
        """Tokens of the piece's own windows, (stop - start, T, D)."""
        given = tree.order_N[self.members].to(batch.pixels_NCHW.device)
        pixels = batch.pixels_NCHW[given].to(model.device, non_blocking=True)
        tokens: Tensor = model.stem(model.normalise(pixels, self.near.inside_px_W2), self.near)
        return tokens[: self.stop - self.start]


def stem_pieces(tree: WindowTree, model: Atlas) -> Iterator[StemPiece]:
    """Cut the windows into pieces of `runtime.stem_windows`."""
    near = tree.neighbours
    n_windows = near.index_8W.shape[1]
    rings = -(-max(receptive_field_px(model.cfg)) // model.cfg.window_px)
    for start in range(0, n_windows, model.runtime.stem_windows):
        stop = min(start + model.runtime.stem_windows, n_windows)
        inside = torch.zeros(n_windows, dtype=torch.bool, device=near.index_8W.device)
        inside[start:stop] = True
        for _ in range(rings):
            reached = near.index_8W[:, inside][near.present_8W[:, inside]]
            inside[reached] = True
        inside[start:stop] = False
        own = torch.arange(start, stop, device=inside.device)
        members = torch.cat([own, torch.nonzero(inside)[:, 0]])
        yield StemPiece(start, stop, members, near.among(members))
