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
    side = x_Wchw.shape[-1]
    return x_Wchw * inside_image(near.inside_px_W2, side, window_px // side)[:, None].to(x_Wchw.dtype)


def inside_image(inside_px_W2: Tensor, side: int, cell_px: int = 1) -> Tensor:
    """Which cells of windows lie, at least in part, in their image: (W, side, side) bool.

    Args:
        inside_px_W2: height and width of the part of each window that lies in its image.
        side: cells along a side of a window.
        cell_px: side of a cell in pixels.
    """
    cells_W2 = -(-inside_px_W2 // cell_px)
    i = torch.arange(side, device=inside_px_W2.device)
    return (i < cells_W2[:, :1])[:, :, None] & (i < cells_W2[:, 1:])[:, None, :]


class StemConv(nn.Conv2d):
    """Convolution and the normalisation behind it.

    3x3 with stride 1 or 2 reads across window borders; patches (kernel = stride) do not. A `ChannelScale` is
    folded into the kernel, so it costs no pass over the features.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int, cfg: AtlasConfig, bias: bool = True
    ) -> None:
        super().__init__(c_in, c_out, kernel, stride, bias=bias)
        self.window_px = cfg.window_px

    def forward(  # type: ignore[override]
        self, x_Wchw: Tensor, near: Neighbours, norm: nn.Module | None = None
    ) -> Tensor:
        x_Wchw = mask_outside(x_Wchw, near, self.window_px)
        if self.kernel_size != self.stride:
            x_Wchw = HaloPad.apply(x_Wchw, near.index_8W, near.present_8W, self.stride[0] == 1)
        if isinstance(norm, ChannelScale) and not norm.starting:
            bias = norm.bias if self.bias is None else torch.addcmul(norm.bias, self.bias, norm.weight)
            weight = self.weight * norm.weight[:, None, None, None]
            return F.conv2d(x_Wchw, weight, bias, self.stride)
        y: Tensor = super().forward(x_Wchw)
        if norm is not None:
            y = norm(y)
        return y


class PixelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every pixel."""

    def forward(self, x_Wchw: Tensor) -> Tensor:
        return super().forward(x_Wchw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelScale(nn.Module):
    """x * weight + bias per channel, started so that every channel has mean 0 and spread 1 (`start_scales`).

    What BatchNorm does at the first step, without its batch: a window gives the same tokens whatever it is
    batched with, and tiles stay exact. (Kingma & Dhariwal 2018, ActNorm; but from noise, not from data, so
    that all processes start alike.)
    """

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.starting = False

    def forward(self, x_Wchw: Tensor) -> Tensor:
        if self.starting:
            spread, mean = torch.std_mean(x_Wchw, (0, 2, 3))
            self.weight.copy_(1.0 / spread.clamp_min(1e-6))
            self.bias.copy_(-mean * self.weight)
        return x_Wchw * self.weight[:, None, None] + self.bias[:, None, None]


@torch.no_grad()
def start_scales(stem: SlimStem | ReferenceStem, cfg: AtlasConfig) -> None:
    """Set every `ChannelScale` on images with the 1/f spectrum of natural ones, the same for all seeds."""
    scales = [m for m in stem.modules() if isinstance(m, ChannelScale)]
    for scale in scales:
        scale.starting = True
    side = cfg.window_px * -(-256 // cfg.window_px)
    rng = torch.Generator().manual_seed(0)
    white = torch.fft.fft2(torch.randn(4, cfg.in_channels, side, side, generator=rng))
    frequency = torch.fft.fftfreq(side).square()
    radius = (frequency[:, None] + frequency[None, :]).sqrt().clamp_min(1.0 / side)
    pink = torch.fft.ifft2(white / radius).real
    pink = 0.8 * pink.mean(1, keepdim=True) * cfg.in_channels**0.5 + 0.6 * pink  # channels go together
    pink = (pink - pink.mean()) / pink.std()
    tiles = pink.unflatten(3, (-1, cfg.window_px)).unflatten(2, (-1, cfg.window_px))
    windows = tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    alone = torch.zeros(8, len(windows), dtype=torch.long)
    stem(windows.contiguous(memory_format=torch.channels_last), Neighbours(alone, alone.bool(), None))
    for scale in scales:
        scale.starting = False


class SlimStem(nn.Module):
    """Patches of 4 px, two 3x3 stride-2 convolutions, residual blocks between. The default.

    Departure from the paper: its stem is 74 % of all FLOPs and its BatchNorm ties a window to its batch.
    A token sees 28 px, and 8, 16 or 32 px more for every block at 1/4, 1/8 or 1/16.
    """

    def __init__(self, cfg: AtlasConfig) -> None:
        super().__init__()
        c, (n4, n8, n16) = cfg.stem_width, cfg.stem_blocks
        self.patches, self.norm4 = StemConv(cfg.in_channels, c, 4, 4, cfg), _norm(c, cfg)
        self.blocks4 = nn.ModuleList(SlimBlock(c, cfg) for _ in range(n4))
        self.down8, self.norm8 = StemConv(c, 2 * c, 3, 2, cfg), _norm(2 * c, cfg)
        self.blocks8 = nn.ModuleList(SlimBlock(2 * c, cfg) for _ in range(n8))
        self.down16, self.norm16 = StemConv(2 * c, cfg.dim, 3, 2, cfg), _norm(cfg.dim, cfg)
        self.blocks16 = nn.ModuleList(SlimBlock(cfg.dim, cfg) for _ in range(n16))

    def forward(self, pixels_WCHW: Tensor, near: Neighbours) -> Tensor:
        x = F.gelu(self.patches(pixels_WCHW, near, self.norm4))
        for block in self.blocks4:
            x = block(x, near)
        x = F.gelu(self.down8(x, near, self.norm8))
        for block in self.blocks8:
            x = block(x, near)
        x = self.down16(x, near, self.norm16)
        for block in self.blocks16:
            x = block(x, near)
        return _tokens(x)


class SlimBlock(nn.Module):
    """x + norm(conv(GELU(x)))."""

    def __init__(self, c: int, cfg: AtlasConfig) -> None:
        super().__init__()
        self.conv, self.norm = StemConv(c, c, 3, 1, cfg), _norm(c, cfg)

    def forward(self, x_Wchw: Tensor, near: Neighbours) -> Tensor:
        y: Tensor = self.conv(F.gelu(x_Wchw), near, self.norm)
        return x_Wchw + y


class ReferenceStem(nn.Module):
    """The paper's stem: two stride-2 convolutions, then twice (three residual blocks, LayerNorm, stride 2).

    A token sees 87 px above and left of its cell and 72 px below and right.
    """

    def __init__(self, cfg: AtlasConfig) -> None:
        super().__init__()
        c = cfg.dim // 4
        self.conv0a = StemConv(cfg.in_channels, 64, 3, 2, cfg, bias=False)
        self.norm0a = _norm(64, cfg, 1e-4)
        self.conv0b = StemConv(64, c, 3, 2, cfg, bias=False)
        self.norm0b = _norm(c, cfg, 1e-4)
        self.blocks1 = nn.ModuleList(ReferenceBlock(c, cfg) for _ in range(3))
        self.norm1 = PixelNorm(c, eps=1e-6)
        self.down1 = StemConv(c, 2 * c, 3, 2, cfg, bias=False)
        self.blocks2 = nn.ModuleList(ReferenceBlock(2 * c, cfg) for _ in range(3))
        self.norm2 = PixelNorm(2 * c, eps=1e-6)
        self.down2 = StemConv(2 * c, 4 * c, 3, 2, cfg, bias=False)

    def forward(self, pixels_WCHW: Tensor, near: Neighbours) -> Tensor:
        x = F.relu(self.conv0a(pixels_WCHW, near, self.norm0a))
        x = F.relu(self.conv0b(x, near, self.norm0b))
        for block in self.blocks1:
            x = block(x, near)
        x = self.down1(self.norm1(x), near)
        for block in self.blocks2:
            x = block(x, near)
        return _tokens(self.down2(self.norm2(x), near))


class ReferenceBlock(nn.Module):
    """x + norm(conv(GELU(norm(conv(x)))))."""

    def __init__(self, c: int, cfg: AtlasConfig) -> None:
        super().__init__()
        self.conv1, self.norm1 = StemConv(c, c, 3, 1, cfg), _norm(c, cfg)
        self.conv2, self.norm2 = StemConv(c, c, 3, 1, cfg), _norm(c, cfg)

    def forward(self, x_Wchw: Tensor, near: Neighbours) -> Tensor:
        y: Tensor = self.conv2(F.gelu(self.conv1(x_Wchw, near, self.norm1)), near, self.norm2)
        return x_Wchw + y


def _norm(c: int, cfg: AtlasConfig, batch_eps: float = 1e-5) -> nn.Module:
    if cfg.stem_norm == "batch":
        return nn.BatchNorm2d(c, eps=batch_eps)
    return PixelNorm(c) if cfg.stem_norm == "layer" else ChannelScale(c)


def _tokens(x_Wchw: Tensor) -> Tensor:
    """(W, D, k, k) -> (W, T, D), row-major."""
    return x_Wchw.flatten(2).transpose(1, 2)


def build_stem(cfg: AtlasConfig) -> SlimStem | ReferenceStem:
    """The stem that `cfg` names; both end at a stride of 16 px."""
    stem = SlimStem(cfg) if cfg.stem == "slim" else ReferenceStem(cfg)
    if cfg.stem_norm == "channel":
        start_scales(stem, cfg)
    return stem


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
