"""Pixels to tokens: the convolutional stem, exact across window borders.

A window is convolved together with one row or column of the features of its kept neighbours, fetched in
front of every convolution that looks beyond its own cell. Windows that are not kept, and everything outside
the image, count as zero there. So the stem equals, to the last bit that float order allows, one pass over
the whole image in which dropped windows are zero in front of every convolution; with all windows kept that
is the plain zero-padded stem of the paper. No pixel is convolved twice and no background pixel can change a
result.

Shapes: W windows, C image channels, c feature channels, h x w features of a window, T tokens, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas.config import PATCH_PX, AtlasConfig
from atlas.layout import Neighbours

_STEPS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
_SOURCE = {-1: slice(-1, None), 0: slice(None), 1: slice(0, 1)}


class HaloPad(torch.autograd.Function):
    """Pad windows by one feature on the leading sides, and on the trailing sides if `after`, from their
    neighbours.
    """

    @staticmethod
    def forward(ctx: Any, x_Wchw: Tensor, index_8W: Tensor, present_8W: Tensor, after: bool) -> Tensor:
        ctx.after = after
        ctx.save_for_backward(index_8W, present_8W)
        n, c, h, w = x_Wchw.shape
        out = x_Wchw.new_empty((n, h + 1 + after, w + 1 + after, c)).permute(0, 3, 1, 2)  # channels last
        out[:, :, 1 : h + 1, 1 : w + 1] = x_Wchw
        for d, target, source in _strips(h, w, after):
            out[(..., *target)] = _take(x_Wchw[(..., *source)], index_8W[d], present_8W[d])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_out,) = grads
        index_8W, present_8W = ctx.saved_tensors
        h, w = (side - 1 - ctx.after for side in grad_out.shape[2:])
        grad = grad_out[:, :, 1 : h + 1, 1 : w + 1].clone(memory_format=torch.channels_last)
        for d, target, source in _strips(h, w, ctx.after):  # my strip was read by the neighbour opposite to d
            grad[(..., *source)] += _take(grad_out[(..., *target)], index_8W[7 - d], present_8W[7 - d])
        return grad, None, None, None


def _strips(h: int, w: int, after: bool) -> list[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
    """(direction, place in the padded window, place in the neighbour) of every strip that is read."""
    rows = {-1: slice(0, 1), 0: slice(1, h + 1), 1: slice(h + 1, h + 2)}
    cols = {-1: slice(0, 1), 0: slice(1, w + 1), 1: slice(w + 1, w + 2)}
    return [
        (d, (rows[dy], cols[dx]), (_SOURCE[dy], _SOURCE[dx]))
        for d, (dy, dx) in enumerate(_STEPS)
        if after or (dy <= 0 and dx <= 0)
    ]


def _take(strip_Wchw: Tensor, index_W: Tensor, present_W: Tensor) -> Tensor:
    """The strips of windows `index_W`, zero where there is no such window."""
    return strip_Wchw[index_W] * present_W[:, None, None, None].to(strip_Wchw.dtype)


def mask_outside(x_Wchw: Tensor, near: Neighbours, window_px: int) -> Tensor:
    """Zero the features whose cell lies wholly outside the image."""
    if near.inside_px_W2 is None:
        return x_Wchw
    cell_px = window_px // x_Wchw.shape[-1]
    cells_W2 = -(-near.inside_px_W2 // cell_px)
    i = torch.arange(x_Wchw.shape[-1], device=x_Wchw.device)
    row_W1h1 = (i < cells_W2[:, :1])[:, None, :, None]
    col_W11w = (i < cells_W2[:, 1:])[:, None, None, :]
    return x_Wchw * (row_W1h1 & col_W11w).to(x_Wchw.dtype)


class HaloConv(nn.Conv2d):
    """3x3 convolution, stride 1 or 2, that reads across window borders."""

    def __init__(self, c_in: int, c_out: int, stride: int, window_px: int, bias: bool = True) -> None:
        super().__init__(c_in, c_out, 3, stride, bias=bias)
        self.window_px = window_px

    def forward(self, x_Wchw: Tensor, near: Neighbours) -> Tensor:  # type: ignore[override]
        x_Wchw = mask_outside(x_Wchw, near, self.window_px)
        padded: Tensor = HaloPad.apply(x_Wchw, near.index_8W, near.present_8W, self.stride[0] == 1)
        return super().forward(padded)


class PixelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every pixel."""

    def forward(self, x_Wchw: Tensor) -> Tensor:
        return super().forward(x_Wchw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SlimStem(nn.Module):
    """Patches of 4 px, two 3x3 stride-2 convolutions, residual blocks between; LayerNorm. The default.

    Departure from the paper: its stem is 74 % of all FLOPs and its BatchNorm ties a window to its batch.
    A token sees 28 px, and 8, 16 or 32 px more for every block at 1/4, 1/8 or 1/16.
    """

    def __init__(self, cfg: AtlasConfig) -> None:
        super().__init__()
        c, px, (n4, n8, n16) = cfg.stem_width, cfg.window_px, cfg.stem_blocks
        self.window_px = px
        self.patches, self.norm4 = nn.Conv2d(cfg.in_channels, c, 4, 4), PixelNorm(c)
        self.blocks4 = nn.ModuleList(SlimBlock(c, px) for _ in range(n4))
        self.down8, self.norm8 = HaloConv(c, 2 * c, 2, px), PixelNorm(2 * c)
        self.blocks8 = nn.ModuleList(SlimBlock(2 * c, px) for _ in range(n8))
        self.down16 = HaloConv(2 * c, cfg.dim, 2, px)
        self.blocks16 = nn.ModuleList(SlimBlock(cfg.dim, px) for _ in range(n16))

    def forward(self, pixels_WCHW: Tensor, near: Neighbours) -> Tensor:
        x = mask_outside(pixels_WCHW, near, self.window_px)
        x = F.gelu(self.norm4(self.patches(x)))
        for block in self.blocks4:
            x = block(x, near)
        x = F.gelu(self.norm8(self.down8(x, near)))
        for block in self.blocks8:
            x = block(x, near)
        x = self.down16(x, near)
        for block in self.blocks16:
            x = block(x, near)
        return _tokens(x)


class SlimBlock(nn.Module):
    """x + conv(GELU(LN(x)))."""

    def __init__(self, c: int, window_px: int) -> None:
        super().__init__()
        self.norm = PixelNorm(c)
        self.conv = HaloConv(c, c, 1, window_px)

    def forward(self, x_Wchw: Tensor, near: Neighbours) -> Tensor:
        y: Tensor = self.conv(F.gelu(self.norm(x_Wchw)), near)
        return x_Wchw + y


class ReferenceStem(nn.Module):
    """The paper's stem: two stride-2 convolutions, then twice (three residual blocks, LayerNorm, stride 2).

    A token sees 87 px above and left of its cell and 72 px below and right.
    """

    def __init__(self, cfg: AtlasConfig) -> None:
        super().__init__()
        c, px, batch = cfg.dim // 4, cfg.window_px, cfg.stem_norm == "batch"
        self.conv0a = HaloConv(cfg.in_channels, 64, 2, px, bias=False)
        self.norm0a = _norm(64, batch, 1e-4)
        self.conv0b = HaloConv(64, c, 2, px, bias=False)
        self.norm0b = _norm(c, batch, 1e-4)
        self.blocks1 = nn.ModuleList(ReferenceBlock(c, px, batch) for _ in range(3))
        self.norm1 = PixelNorm(c, eps=1e-6)
        self.down1 = HaloConv(c, 2 * c, 2, px, bias=False)
        self.blocks2 = nn.ModuleList(ReferenceBlock(2 * c, px, batch) for _ in range(3))
        self.norm2 = PixelNorm(2 * c, eps=1e-6)
        self.down2 = HaloConv(2 * c, 4 * c, 2, px, bias=False)

    def forward(self, pixels_WCHW: Tensor, near: Neighbours) -> Tensor:
        x = F.relu(self.norm0a(self.conv0a(pixels_WCHW, near)))
        x = F.relu(self.norm0b(self.conv0b(x, near)))
        for block in self.blocks1:
            x = block(x, near)
        x = self.down1(self.norm1(x), near)
        for block in self.blocks2:
            x = block(x, near)
        return _tokens(self.down2(self.norm2(x), near))


class ReferenceBlock(nn.Module):
    """x + norm(conv(GELU(norm(conv(x)))))."""

    def __init__(self, c: int, window_px: int, batch: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = HaloConv(c, c, 1, window_px), _norm(c, batch, 1e-5)
        self.conv2, self.norm2 = HaloConv(c, c, 1, window_px), _norm(c, batch, 1e-5)

    def forward(self, x_Wchw: Tensor, near: Neighbours) -> Tensor:
        y: Tensor = F.gelu(self.norm1(self.conv1(x_Wchw, near)))
        y = self.norm2(self.conv2(y, near))
        return x_Wchw + y


def _norm(c: int, batch: bool, eps: float) -> nn.Module:
    return nn.BatchNorm2d(c, eps=eps) if batch else PixelNorm(c)


def _tokens(x_Wchw: Tensor) -> Tensor:
    """(W, D, k, k) -> (W, T, D), row-major."""
    return x_Wchw.flatten(2).transpose(1, 2)


def build_stem(cfg: AtlasConfig) -> SlimStem | ReferenceStem:
    """The stem that `cfg` names; both end at a stride of 16 px."""
    return SlimStem(cfg) if cfg.stem == "slim" else ReferenceStem(cfg)


def receptive_field_px(cfg: AtlasConfig) -> tuple[int, int]:
    """Pixels a token reads (before, after) its own 16 px cell, on each axis.

    Walks the stem's layers from the last to the first.
    """
    n4, n8, n16 = cfg.stem_blocks
    if cfg.stem == "slim":
        layers = (
            [(3, 1, 1)] * n16 + [(3, 2, 1)] + [(3, 1, 1)] * n8 + [(3, 2, 1)] + [(3, 1, 1)] * n4 + [(4, 4, 0)]
        )
    else:
        layers = [(3, 2, 1)] + [(3, 1, 1)] * 6 + [(3, 2, 1)] + [(3, 1, 1)] * 6 + [(3, 2, 1)] * 2
    first, last = 0, 0
    for kernel, stride, pad in layers:
        first, last = first * stride - pad, last * stride - pad + kernel - 1
    return -first, last - (PATCH_PX - 1)
