"""The definition: Atlas on whole images, every window computed, background masked. Slow and plain.

The tissue-sparse path in `atlas.model` must give these numbers from the kept windows alone. It shares the
weights of a model and no code for layout, halo, pooling, pairing, positions or attention.

Shapes: c features, h x w pixels or cells, n x n tokens of a scale (padded to one top window), G = n / k
windows a side, k tokens a window side, T = k * k, Q = (k / s)^2, J keys, D width, H heads, d channels of a
head, O logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas.blocks import Block, BroadcastDown, ScaleLayer
from atlas.config import PATCH_PX
from atlas.heads import LocalEvidenceHead
from atlas.model import Atlas
from atlas.stem import ReferenceStem, SlimStem, StemConv

_Conv = Callable[[StemConv, Tensor], Tensor]


@dataclass
class DenseImage:
    """One image and which of its windows count."""

    pixels_Chw: Tensor
    keep_RC: Tensor
    """(rows, cols) of windows, bool."""
    mpp: tuple[float, float] = (1.0, 1.0)
    kind: int = 0


@dataclass
class _Tokens:
    local_nnD: Tensor
    context_nnD: Tensor
    valid_nn: Tensor
    top_nnD: Tensor
    top_valid_nn: Tensor


def dense_case(model: Atlas, images: list[DenseImage]) -> tuple[Tensor, list[Tensor]]:
    """Logits (O,) of one case and, per image, the contribution of every token (n, n, O), zero off tissue.

    The list is empty for the 'reference' head. Stochastic depth is not drawn: use a model in `eval`.
    """
    read = [_read_image(model, image) for image in images]
    head = model.head
    if not isinstance(head, LocalEvidenceHead):
        top = torch.cat([t.top_nnD[t.top_valid_nn] for t in read])
        pooled = head.norm(head.readout_norm(top).mean(0))
        return head.linear(pooled) + head.bias(), []
    context = torch.cat([t.context_nnD[t.valid_nn] for t in read])
    value, gate = head.gate(head.norm(context)).chunk(2, -1)
    hidden = (torch.tanh(value) * torch.sigmoid(gate)).unflatten(-1, (head.heads, -1))
    alpha = torch.softmax((hidden * head.score).sum(-1), 0)
    psi = head.evidence(torch.cat([t.local_nnD[t.valid_nn] for t in read])).unflatten(-1, (head.heads, -1))
    terms = (alpha[..., None] * psi).sum(1).expand(-1, model.cfg.n_outputs)
    maps = [torch.zeros(*t.valid_nn.shape, model.cfg.n_outputs, dtype=terms.dtype) for t in read]
    for t, grid, part in zip(read, maps, terms.split([int(t.valid_nn.sum()) for t in read]), strict=True):
        grid[t.valid_nn] = part.detach()
    return terms.sum(0) + head.bias(), maps


def _read_image(model: Atlas, image: DenseImage) -> _Tokens:
    cfg = model.cfg
    k, s = cfg.window_tokens, cfg.downsample
    height, width = image.pixels_Chw.shape[1:]
    rows, cols = -(-height // PATCH_PX), -(-width // PATCH_PX)
    n_scales = 1
    while k * s ** (n_scales - 1) < max(rows, cols):
        n_scales += 1
    n = k * s ** (n_scales - 1)

    kept_px = image.keep_RC.repeat_interleave(cfg.window_px, 0).repeat_interleave(cfg.window_px, 1)
    stem_Dhw = dense_stem(model, image.pixels_Chw, kept_px[:height, :width])
    local = F.pad(stem_Dhw, (0, n - cols, 0, n - rows)).permute(1, 2, 0)
    kept_tokens = image.keep_RC.repeat_interleave(k, 0).repeat_interleave(k, 1)[:rows, :cols]
    valid = F.pad(kept_tokens, (0, n - cols, 0, n - rows))

    x = local if model.kind is None else local + model.kind.weight[image.kind]
    xs, valids = [x], [valid]
    for _ in range(n_scales - 1):
        xs.append(_pool(xs[-1], valids[-1], s))
        valids.append(_pool(valids[-1][..., None].double(), valids[-1], s)[..., 0] > 0)
    run = _Trunk(model, valids, image.mpp)
    for low in range(n_scales - 1):
        stage = min(low, len(cfg.depths) - 2)
        for block in model.stages[stage].children():
            xs[low:] = run.block(block, xs[low:], low, first=stage)  # type: ignore[arg-type]
    for block in model.stages[-1].children():
        (xs[-1],) = run.block(block, xs[-1:], n_scales - 1, first=None)  # type: ignore[arg-type]
    top, context = xs[-1], xs[0]
    if isinstance(model.last_read, BroadcastDown):
        context = run.broadcast(model.last_read, xs)
    elif model.last_read is not None:
        context = run.block(model.last_read, xs, 0, first=0)[0]
    return _Tokens(local, context, valid, top, valids[-1])


def _normalised(model: Atlas, pixels_1Chw: Tensor) -> Tensor:
    """A whole image normalised by its windows, which may have statistics of their own."""
    px = model.cfg.window_px
    bands = pixels_1Chw.split(px, 2)
    return torch.cat([torch.cat([model.normalise(x) for x in band.split(px, 3)], 3) for band in bands], 2)


def dense_stem(model: Atlas, pixels_Chw: Tensor, kept_hw: Tensor) -> Tensor:
    """The stem in one pass over an image; `kept_hw` is zeroed in front of every convolution. (D, h/16,
    w/16).
    """
    stem = model.stem
    x = _normalised(model, pixels_Chw[None])

    def masked(x: Tensor) -> Tensor:
        cell = -(-pixels_Chw.shape[1] // x.shape[2])
        cell = 2 ** round(math.log2(cell))
        return x * kept_hw[::cell, ::cell].to(x.dtype)

    def conv(layer: StemConv, x: Tensor) -> Tensor:
        return F.conv2d(masked(x), layer.weight, layer.bias, layer.stride, padding=1)

    if isinstance(stem, SlimStem):
        x = masked(x)
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        x = _slim_blocks(
            stem.blocks4,
            F.gelu(stem.norm4(F.conv2d(x, stem.patches.weight, stem.patches.bias, stride=4))),
            conv,
        )
        x = _slim_blocks(stem.blocks8, F.gelu(stem.norm8(conv(stem.down8, x))), conv)
        return _slim_blocks(stem.blocks16, stem.norm16(conv(stem.down16, x)), conv)[0]
    assert isinstance(stem, ReferenceStem)
    x = F.relu(stem.norm0a(conv(stem.conv0a, x)))
    x = F.relu(stem.norm0b(conv(stem.conv0b, x)))
    x = conv(stem.down1, stem.norm1(_reference_blocks(stem.blocks1, x, conv)))
    return conv(stem.down2, stem.norm2(_reference_blocks(stem.blocks2, x, conv)))[0]


def _slim_blocks(blocks: nn.ModuleList, x: Tensor, conv: _Conv) -> Tensor:
    for block in blocks:
        x = x + block.norm(conv(block.conv, F.gelu(x)))  # type: ignore[arg-type, operator]
    return x


def _reference_blocks(blocks: nn.ModuleList, x: Tensor, conv: _Conv) -> Tensor:
    for block in blocks:
        y = F.gelu(block.norm1(conv(block.conv1, x)))  # type: ignore[arg-type, operator]
        x = x + block.norm2(conv(block.conv2, y))  # type: ignore[arg-type, operator]
    return x


def _pool(x_nnD: Tensor, valid_nn: Tensor, s: int) -> Tensor:
    low = x_nnD.masked_fill(~valid_nn[..., None], -torch.inf).permute(2, 0, 1)[None]
    pooled = F.max_pool2d(low, s)[0].permute(1, 2, 0)
    return pooled.masked_fill(pooled == -torch.inf, 0.0)


def _windows(x: Tensor, side: int) -> Tensor:
    """(n, n, ...) -> (n / side, n / side, side * side, ...)."""
    g = x.shape[0] // side
    windows: Tensor = x.unflatten(1, (g, side)).unflatten(0, (g, side)).transpose(1, 2).flatten(2, 3)
    return windows


def _raster(x: Tensor, side: int) -> Tensor:
    """The inverse of `_windows`."""
    raster: Tensor = x.unflatten(2, (side, side)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return raster


@dataclass
class _Trunk:
    model: Atlas
    valids: list[Tensor]
    mpp: tuple[float, float]

    def layer(self, block: Block, level: int, first: int | None) -> ScaleLayer:
        coarsest = len(self.model.cfg.depths) - 1
        layer = block.layers[0 if first is None else min(level, coarsest) - first]
        assert isinstance(layer, ScaleLayer)
        return layer

    def block(self, block: Block, xs: list[Tensor], low: int, first: int | None) -> list[Tensor]:
        """One block on the scales from `low` up."""
        k, s = self.model.cfg.window_tokens, self.model.cfg.downsample
        layers = [self.layer(block, low + i, first) for i in range(len(xs))]
        xs = [x + self.position(la, x.shape[0]) for x, la in zip(xs, layers, strict=True)]
        if block.bottom_up:
            for i in range(len(xs) - 1):
                xs[i + 1] = xs[i + 1] + _pool(xs[i], self.valids[low + i], s)
        for i in reversed(range(len(xs))):
            keys: list[Tensor] = []
            values: list[Tensor] = []
            valid: list[Tensor] = []
            for t in range(i, len(xs)):
                kk, vv = self.keys_values(layers[t], xs[t], low + t)
                times = s ** (t - i)
                for found, part in ((keys, kk), (values, vv), (valid, self.valids[low + t])):
                    windows = _windows(part, k)
                    found.append(windows.repeat_interleave(times, 0).repeat_interleave(times, 1))
            q = _windows(self.rotated(layers[i].q(layers[i].norm_q(xs[i])), low + i), k)
            read = self.softmax_read(q, torch.cat(keys, 2), torch.cat(values, 2), torch.cat(valid, 2))
            xs[i] = layers[i].add_attended(xs[i], _raster(read, k), None)
        if block.bottom_up:
            for i in range(1, len(xs)):
                kk, vv = self.keys_values(layers[i - 1], xs[i - 1], low + i - 1)
                q = _windows(self.rotated(layers[i].q(layers[i].norm_q(xs[i])), low + i), k // s)
                below = _windows(self.valids[low + i - 1], k)
                read = self.softmax_read(q, _windows(kk, k), _windows(vv, k), below)
                xs[i] = layers[i].add_attended(xs[i], _raster(read, k // s), None)
        return xs

    def broadcast(self, last_read: BroadcastDown, xs: list[Tensor]) -> Tensor:
        s, x = self.model.cfg.downsample, xs[-1]
        for level in reversed(range(len(xs) - 1)):
            over = last_read.layers[min(level, len(last_read.layers) - 1)](x)
            x = xs[level] + over.repeat_interleave(s, 0).repeat_interleave(s, 1)
        return x

    def position(self, layer: ScaleLayer, n: int) -> Tensor:
        k = self.model.cfg.window_tokens
        along = ((torch.arange(n) % k) - k // 2) / (k // 2)
        grid = torch.stack(torch.meshgrid(along, along, indexing="ij"), -1).to(layer.q.weight)
        position: Tensor = layer.position(grid)
        return position

    def keys_values(self, layer: ScaleLayer, x_nnD: Tensor, level: int) -> tuple[Tensor, Tensor]:
        kk, vv = layer.kv(layer.norm_kv(x_nnD)).chunk(2, -1)
        return self.rotated(kk, level), vv

    def rotated(self, x_nnD: Tensor, level: int) -> Tensor:
        """Rotary positions written out: y turns the first half of a head's channels, x the second."""
        cfg = self.model.cfg
        if not cfg.rope:
            return x_nnD
        f = cfg.dim // cfg.heads // 4
        ratio = cfg.rope_longest_um / cfg.rope_shortest_um
        wavelength_um = cfg.rope_shortest_um * ratio ** (torch.arange(f).double() / max(f - 1, 1))
        halves = x_nnD.unflatten(-1, (cfg.heads, 2, 2, f)).unbind(3)
        turned = []
        for axis, half in enumerate(halves):
            pitch_um = PATCH_PX * cfg.downsample**level * float(self.mpp[axis])
            at_um = (torch.arange(x_nnD.shape[0]).double() + 0.5) * pitch_um
            angle = (2 * math.pi * at_um[:, None] / wavelength_um).to(x_nnD)[:, None]  # n, 1 (heads), f
            angle = angle[:, None] if axis == 0 else angle[None]
            a, b = half.unbind(-2)
            turned.append(
                torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -2)
            )
        return torch.stack(turned, 3).flatten(2)

    def softmax_read(self, q_GGQD: Tensor, k_GGJD: Tensor, v_GGJD: Tensor, valid_GGJ: Tensor) -> Tensor:
        heads = self.model.cfg.heads
        q, kk, v = (t.unflatten(-1, (heads, -1)).transpose(2, 3) for t in (q_GGQD, k_GGJD, v_GGJD))
        score = q @ kk.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weight = score.masked_fill(~valid_GGJ[:, :, None, None], -torch.inf).softmax(-1)
        read: Tensor = (weight.nan_to_num(0.0) @ v).transpose(2, 3).flatten(3)  # no valid key: unused
        return read
