"""Where every window lies: scales, parents, neighbours. Pure integers, computed once per batch on the CPU.

The kept windows of one image are the leaves of a tree: a window of scale l + 1 covers s x s windows of scale
l, and the tree ends at the first scale where one window covers the image. Only ancestors of kept windows
exist. Windows are sorted by image (images with more scales first) and inside an image by a base-s Morton key
over all its digits, so the descendants of any window are contiguous at every scale.

Shapes: N = W_0 kept windows, W windows of one scale, T = k * k tokens of a window, I images, B cases.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from atlas.batch import WindowBatch
from atlas.config import PATCH_PX, AtlasConfig

_T = TypeVar("_T", "Scale", "Neighbours", "WindowTree")
ABSENT = -1


@dataclass
class Scale:
    """The windows of one scale, in tree order."""

    image_W: Tensor
    case_W: Tensor
    row_W: Tensor
    col_W: Tensor
    parent_W: Tensor
    """Index of the parent in the next scale; ABSENT for the top window of an image."""
    slot_W: Tensor
    """parent * s * s + place of this window in its parent (row-major): the block of parent tokens it covers.
    """
    ancestors: list[Tensor]
    """ancestors[t]: for every window the index of the window it reads at scale l + 1 + t, or ABSENT."""
    valid_WT: Tensor
    """Tokens that hold some of the image and of a kept window."""
    origin_um_W2: Tensor
    """(y, x) of the window's corner in its image, float64."""
    pitch_um_W2: Tensor
    """(y, x) distance of neighbouring tokens, float64."""
    n_with_ancestor: list[int]
    """How many windows (a prefix) have the ancestor of each coarser scale."""
    all_valid: bool

    @property
    def n_parented(self) -> int:
        """How many windows (a prefix) are not the top of their image."""
        return self.n_with_ancestor[0] if self.n_with_ancestor else 0

    def take(self, start: int, stop: int) -> Scale:
        """The windows start..stop; ancestors keep their numbers."""
        cut = {
            f.name: getattr(self, f.name)[start:stop]
            for f in fields(self)
            if f.name.endswith(("_W", "_WT", "_W2"))
        }
        return replace(self, ancestors=[a[start:stop] for a in self.ancestors], **cut)


@dataclass
class Neighbours:
    """The windows around every scale-0 window, for convolutions across window borders."""

    index_8W: Tensor
    """Clamped index of the neighbour at (-1,-1) (-1,0) (-1,1) (0,-1) (0,1) (1,-1) (1,0) (1,1)."""
    present_8W: Tensor
    inside_px_W2: Tensor | None
    """(rows, columns) of the window that lie inside the image; None when all windows lie inside wholly."""

    def among(self, members: Tensor) -> Neighbours:
        """The neighbours of the windows `members` (indices) if no other window were there."""
        place_W = torch.full_like(self.index_8W[0], ABSENT)
        place_W[members] = torch.arange(len(members), device=members.device)
        index = place_W[self.index_8W[:, members]]
        present = self.present_8W[:, members] & (index >= 0)
        inside = None if self.inside_px_W2 is None else self.inside_px_W2[members]
        return Neighbours(index.clamp_min(0), present, inside)


@dataclass
class WindowTree:
    """All scales of one batch."""

    order_N: Tensor
    """Given order -> tree order: `x_tree = x_given[order_N]`."""
    place_N: Tensor
    """Tree order -> given order: `x_given = x_tree[place_N]`."""
    scales: list[Scale]
    neighbours: Neighbours
    case_I: Tensor
    """Case of each image, images in tree order (the order of the top windows)."""
    image_I: Tensor
    """Given index of each image, images in tree order."""
    kind_I: Tensor | None
    """Kind of each image (`WindowBatch.embed_I`), images in tree order."""
    n_cases: int
    extent_k: list[tuple[int, int]]
    """Largest side (rows, columns) in tokens of a window of each scale: k, or less where one window is the
    image.
    """

    @property
    def n_scales(self) -> int:
        """L, of the image with the most scales."""
        return len(self.scales)

    def to(self, device: torch.device) -> WindowTree:
        """The same tree with its tensors on `device`."""
        return _to(self, device)

    def take_tops(self, xs: list[Tensor]) -> Tensor:
        """The tokens of every image's top window, images in tree order."""
        return torch.cat(
            [x[sc.n_parented :] for x, sc in zip(reversed(xs), reversed(self.scales), strict=True)]
        )

    def put_tops(self, xs: list[Tensor], top_WTD: Tensor) -> list[Tensor]:
        """`xs` with the tokens of the top windows replaced: the inverse of `take_tops`."""
        placed, stop = list(xs), len(top_WTD)
        for level, scale in enumerate(self.scales):
            n_tops = len(scale.row_W) - scale.n_parented
            if n_tops:
                placed[level] = torch.cat([xs[level][: scale.n_parented], top_WTD[stop - n_tops : stop]])
            stop -= n_tops
        return placed

    def tops(self) -> Scale:
        """The one top window of every image, as a scale of its own."""
        parts = [sc.take(sc.n_parented, len(sc.row_W)) for sc in reversed(self.scales)]
        cut = {
            f.name: torch.cat([getattr(p, f.name) for p in parts])
            for f in fields(Scale)
            if f.name.endswith(("_W", "_WT", "_W2"))
        }
        return Scale(**cut, ancestors=[], n_with_ancestor=[], all_valid=all(p.all_valid for p in parts))

    @classmethod
    @torch.no_grad()
    def of(cls, batch: WindowBatch, cfg: AtlasConfig) -> WindowTree:
        """The tree of a batch, on the CPU.

        Raises:
            ValueError: no windows, an index out of range, a window outside its image or given twice.
        """
        k, s = cfg.window_tokens, cfg.downsample
        size_I2, mpp_I2 = batch.size_I2.cpu().long(), batch.mpp_I2.cpu().double()
        image_N, row_N, col_N = (t.cpu().long() for t in (batch.image_N, batch.row_N, batch.col_N))
        _check(batch, image_N, row_N, col_N, size_I2, cfg)

        grid_tokens_I2 = -(-size_I2 // PATCH_PX)
        levels_I = torch.tensor([_n_scales(int(n), k, s) for n in grid_tokens_I2.amax(1)])
        image_I = torch.argsort(levels_I, descending=True, stable=True)  # tree order -> given
        rank_I = torch.empty_like(image_I).scatter_(0, image_I, torch.arange(len(image_I)))
        levels_I, size_I2, mpp_I2 = levels_I[image_I], size_I2[image_I], mpp_I2[image_I]
        case_I = batch.case_I.cpu().long()[image_I]
        kind_I = None if batch.embed_I is None else batch.embed_I.cpu().long()[image_I]
        n_scales = int(levels_I[rank_I[image_N]].max())

        image_N = rank_I[image_N]
        order_N = torch.argsort(_tree_key(image_N, row_N, col_N, s, n_scales))
        image_W, row_W, col_W = image_N[order_N], row_N[order_N], col_N[order_N]
        valid_WT = _tokens_inside(row_W, col_W, grid_tokens_I2[image_I][image_W], k)
        neighbours = _neighbours(image_W, row_W, col_W, size_I2[image_W], cfg.window_px)

        scales: list[Scale] = []
        for level in range(n_scales):
            pitch_um_W2 = mpp_I2[image_W] * (PATCH_PX * s**level)
            corner_W2 = torch.stack([row_W, col_W], 1)
            n_with_ancestor = [int((levels_I[image_W] > t).sum()) for t in range(level + 1, n_scales)]
            scale = Scale(
                image_W, case_I[image_W], row_W, col_W, torch.full_like(row_W, ABSENT),
                torch.full_like(row_W, ABSENT), [], valid_WT, corner_W2 * k * pitch_um_W2, pitch_um_W2,
                n_with_ancestor, bool(valid_WT.all()),
            )  # fmt: skip
            scales.append(scale)
            if level + 1 == n_scales:
                break
            n = scale.n_parented
            key_n = _tree_key(image_W[:n], row_W[:n] // s, col_W[:n] // s, s, n_scales)
            _, parent_n, count = torch.unique_consecutive(key_n, return_inverse=True, return_counts=True)
            first = torch.cumsum(count, 0) - count
            scale.parent_W[:n] = parent_n
            scale.slot_W[:n] = parent_n * s * s + (row_W[:n] % s) * s + col_W[:n] % s
            valid_WT = _parents_valid(valid_WT[:n], scale.slot_W[:n], len(first), k, s)
            image_W, row_W, col_W = image_W[:n][first], row_W[:n][first] // s, col_W[:n][first] // s

        tree = cls(
            order_N, torch.argsort(order_N), scales, neighbours, case_I, image_I, kind_I, batch.n_cases,
            [_extent(grid_tokens_I2, k, s, level, cfg.position_extent) for level in range(n_scales)],
        )  # fmt: skip
        for level in range(n_scales):
            scales[level].ancestors = _ancestors(scales, level, cfg.pairing)
        return tree


def _n_scales(side_tokens: int, k: int, s: int) -> int:
    """Scales until one window of k tokens covers `side_tokens`."""
    n, reach = 1, k
    while reach < side_tokens:
        n, reach = n + 1, reach * s
    return n


def _tree_key(image_W: Tensor, row_W: Tensor, col_W: Tensor, s: int, n_digits: int) -> Tensor:
    """Sort key: image, then base-s digits of (row, col) interleaved from the most significant."""
    key_W = torch.clone(image_W)
    for digit in reversed(range(n_digits)):
        place = s**digit
        key_W = (key_W * s + row_W // place % s) * s + col_W // place % s
    return key_W


def _tokens_inside(row_W: Tensor, col_W: Tensor, grid_W2: Tensor, k: int) -> Tensor:
    """Tokens of scale-0 windows that hold at least one pixel of the image, (W, T)."""
    i = torch.arange(k)
    row_WK = row_W[:, None] * k + i < grid_W2[:, :1]
    col_WK = col_W[:, None] * k + i < grid_W2[:, 1:]
    return (row_WK[:, :, None] & col_WK[:, None, :]).flatten(1)


def _parents_valid(valid_WT: Tensor, slot_W: Tensor, n_parents: int, k: int, s: int) -> Tensor:
    """A parent token is valid when any of the s x s child tokens below it is, (W_parent, T)."""
    q = k // s
    pooled_WQ = valid_WT.view(-1, q, s, q, s).any(4).any(2).flatten(1)
    blocks = torch.zeros(n_parents * s * s, q * q, dtype=torch.bool).index_copy_(0, slot_W, pooled_WQ)
    return blocks.view(n_parents, s, s, q, q).transpose(2, 3).reshape(n_parents, k * k)


def _neighbours(image_W: Tensor, row_W: Tensor, col_W: Tensor, size_W2: Tensor, window_px: int) -> Neighbours:
    """Look up the eight neighbours of every window in a sorted list of (image, row, col)."""
    n_cols = int(col_W.max()) + 3
    stride = (int(row_W.max()) + 3) * n_cols

    def raster(rows: Tensor, cols: Tensor) -> Tensor:
        return image_W * stride + (rows + 1) * n_cols + cols + 1

    sorted_W, at_W = torch.sort(raster(row_W, col_W))
    index, present = [], []
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        wanted_W = raster(row_W + dy, col_W + dx)
        found_W = torch.searchsorted(sorted_W, wanted_W).clamp_max(len(sorted_W) - 1)
        present.append(sorted_W[found_W] == wanted_W)
        index.append(torch.where(present[-1], at_W[found_W], 0))
    corner_W2 = torch.stack([row_W, col_W], 1) * window_px
    inside_W2 = (size_W2 - corner_W2).clamp(0, window_px)
    whole = bool((inside_W2 == window_px).all())
    return Neighbours(torch.stack(index), torch.stack(present), None if whole else inside_W2)


def _ancestors(scales: list[Scale], level: int, pairing: str) -> list[Tensor]:
    """Index of the window that each window of `level` reads at every coarser scale."""
    if pairing == "released":
        return [_released_pairs(scales[level], coarse) for coarse in scales[level + 1 :]]
    found, index_W = [], torch.arange(len(scales[level].row_W))
    for below in scales[level:-1]:
        index_W = torch.where(index_W >= 0, below.parent_W[index_W.clamp_min(0)], ABSENT)
        found.append(index_W)
    return found


def _released_pairs(fine: Scale, coarse: Scale) -> Tensor:
    """The published code's pairing: windows flattened (image, row, col), coarse ones repeated to the fine
    count.

    Only meaningful for full grids of one size; it is right only where the coarse scale has one window an
    image.
    """

    def raster_order(scale: Scale) -> Tensor:
        side = int(max(scale.row_W.max(), scale.col_W.max())) + 1
        return torch.argsort((scale.image_W * side + scale.row_W) * side + scale.col_W)

    n_fine, n_coarse = len(fine.row_W), len(coarse.row_W)
    if n_fine % n_coarse:
        raise ValueError("pairing 'released' needs full windows of images of one size; use 'spatial'")
    raster_rank = torch.empty(n_fine, dtype=torch.long)
    raster_rank[raster_order(fine)] = torch.arange(n_fine)
    return raster_order(coarse)[raster_rank // (n_fine // n_coarse)]


def _extent(grid_tokens_I2: Tensor, k: int, s: int, level: int, relative_to: str) -> tuple[int, int]:
    """Side (rows, columns) in tokens that in-window positions of this scale are relative to."""
    if relative_to == "window":
        return k, k
    side = (-(-grid_tokens_I2.amax(0) // s**level)).clamp(1, k)
    return int(side[0]), int(side[1])


def _check(
    batch: WindowBatch, image_N: Tensor, row_N: Tensor, col_N: Tensor, size_I2: Tensor, cfg: AtlasConfig
) -> None:
    """Raise ValueError naming the first thing that is wrong with a batch."""
    if not len(row_N):
        raise ValueError("WindowBatch: no windows; a case without kept windows has no prediction")
    expected = (len(row_N), cfg.in_channels, cfg.window_px, cfg.window_px)
    if tuple(batch.pixels_NCHW.shape) != expected:
        raise ValueError(
            f"WindowBatch: pixels are {tuple(batch.pixels_NCHW.shape)}, the model wants {expected}"
        )
    if int(image_N.min()) < 0 or int(image_N.max()) >= len(size_I2):
        raise ValueError(f"WindowBatch: image_N must lie in 0..{len(size_I2) - 1}")
    origin_N2 = torch.stack([row_N, col_N], 1) * cfg.window_px
    if bool(((origin_N2 < 0) | (origin_N2 >= size_I2[image_N])).any()):
        raise ValueError("WindowBatch: a window lies outside its image; check row_N, col_N and size_I2")
    if len(torch.unique(torch.stack([image_N, row_N, col_N], 1), dim=0)) != len(row_N):
        raise ValueError("WindowBatch: a window is given twice")
    missing = set(range(batch.n_cases)) - set(batch.case_I.cpu()[image_N].tolist())
    if missing:
        raise ValueError(f"WindowBatch: case {min(missing)} has no windows; leave it out of the batch")


def _to(value: _T, device: torch.device) -> _T:
    """Move every tensor of a (nested) layout dataclass."""

    def move(v: object) -> object:
        if isinstance(v, Tensor):
            return v.to(device, non_blocking=True)
        if isinstance(v, Scale):
            return _to(v, device)
        if isinstance(v, Neighbours):
            return _to(v, device)
        if isinstance(v, list) and v and isinstance(v[0], (Tensor, Scale)):
            return [move(e) for e in v]
        return v

    moved: dict[str, Any] = {f.name: move(getattr(value, f.name)) for f in fields(value)}
    return replace(value, **moved)
