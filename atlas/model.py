"""Atlas: multi-scale attention over the kept windows of whole images (arXiv 2503.12355), end to end on
pixels.

Shapes: N windows as given, W windows of a scale in tree order, C channels, T tokens of a window, D width, B
cases, I images, O logits.

Departures from the paper and why:
- kept windows only, any image size, any number of scales: whole slides are mostly background, and not square;
- fine windows read their true ancestors (`pairing`): the released code mixes them up from 2048 px on;
- slim LayerNorm stem with halos: the paper's BatchNorm stem is 74 % of the FLOPs and ties windows to their
  batch;
- rotary positions in micrometres besides the in-window ones: the released model cannot tell fine windows
  apart;
- stochastic depth per case instead of per window;
- local-evidence head and one last top-down block for it: an explanation that adds up to the prediction.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from atlas.attention import Runtime
from atlas.batch import AtlasOutput, WindowBatch
from atlas.blocks import Block, BlockContext, BroadcastDown, pool_up
from atlas.config import AtlasConfig
from atlas.heads import HeadInput, HeadOutput, build_head
from atlas.layout import WindowTree
from atlas.stem import build_stem, inside_image
from atlas.streaming import stem_tokens

LEAST_SPREAD = 0.1
"""Spread of a window without structure, in spreads of the cohort: noise of blank glass is not blown up."""


class Atlas(nn.Module):
    """Windows in, logits and per-token contributions out. See `forward`."""

    def __init__(self, cfg: AtlasConfig, runtime: Runtime | None = None) -> None:
        super().__init__()
        self.cfg, self.runtime = cfg, runtime or Runtime()
        self.normalise = Normalise(cfg)
        self.stem = build_stem(cfg)
        self.kind = nn.Embedding(cfg.image_kinds, cfg.dim) if cfg.image_kinds else None
        if self.kind is not None:
            nn.init.zeros_(self.kind.weight)
        n = len(cfg.depths)
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(cfg, n - i, rate) for rate in _drop_rates(cfg, depth))
            for i, depth in enumerate(cfg.depths)
        )
        self.last_read: Block | BroadcastDown | None = None
        if cfg.head == "local_evidence":
            self.last_read = (
                Block(cfg, n, 0.0, False) if cfg.context == "attention" else BroadcastDown(cfg, n - 1)
            )
        self.head = build_head(cfg)
        self.trained_scales = 0  # most scales seen in training; kept in the state dict

    def forward(self, batch: WindowBatch, maps: bool = False) -> AtlasOutput:
        """Logits of every case; with `maps` also what every token contributed.

        Raises:
            ValueError: the batch does not describe kept windows of this model's size (see `WindowTree.of`).
        """
        tree = WindowTree.of(batch, self.cfg).to(self.device)
        return self.read(stem_tokens(self, batch, tree), tree, maps)

    def read(self, stem_WTD: Tensor, tree: WindowTree, maps: bool = False) -> AtlasOutput:
        """Everything behind the stem."""
        xs = self.scale_up(stem_WTD, tree)  # tokens of every scale
        stages, runtime = self._stages_of(tree.n_scales), self.runtime
        for low, blocks in enumerate(stages[:-1]):  # the scales from `low` up; then `low` is done
            xs[low:] = self._run(blocks, xs[low:], tree, low)
        top = tree.tops()
        top_WTD = tree.take_tops(xs)
        for block in stages[-1]:  # the top window of every image
            (top_WTD,) = block([top_WTD], BlockContext([top], tree.extent_k[-1:], tree.n_cases, runtime), [0])
        context_WTD = None
        if self.last_read is not None:  # back down to the finest tokens
            xs = tree.put_tops(xs, top_WTD)
            context = BlockContext(tree.scales, tree.extent_k, tree.n_cases, runtime)
            context_WTD = _wide(self.last_read(xs, context, self._layers_of(0, tree.n_scales, stage=0))[0])
        with torch.autocast("cuda" if stem_WTD.is_cuda else "cpu", enabled=False):
            fine = tree.scales[0]
            tokens = HeadInput(_wide(stem_WTD), context_WTD, fine, _wide(top_WTD), top, tree.n_cases, runtime)
            out: HeadOutput = self.head(tokens, maps)
            bias_O: Tensor = self.head.bias()
        contribution, attention = (
            t if t is None else t[tree.place_N] for t in (out.contribution_WTO, out.attention_WT)
        )
        return AtlasOutput(out.logits_BO, contribution, attention, bias_O)

    def scale_up(self, stem_WTD: Tensor, tree: WindowTree) -> list[Tensor]:
        """Tokens of every scale: the scale below, max-pooled."""
        x_WTD = stem_WTD
        if self.kind is not None:
            kind_I = tree.kind_I if tree.kind_I is not None else torch.zeros_like(tree.case_I)
            x_WTD = x_WTD + self.kind(kind_I)[tree.scales[0].image_W][:, None]
        xs = [x_WTD]
        for scale, above in pairwise(tree.scales):
            xs.append(pool_up(xs[-1], scale, len(above.row_W), self.cfg.downsample, self.runtime))
        return xs

    def _run(self, blocks: Iterable[nn.Module], xs: list[Tensor], tree: WindowTree, low: int) -> list[Tensor]:
        """One stage over the scales from `low` up; images whose top is scale `low` wait for the last."""
        finest = tree.scales[low]
        n = finest.n_parented
        scales = [finest.take(0, n), *tree.scales[low + 1 :]]
        ctx = BlockContext(scales, tree.extent_k[low:], tree.n_cases, self.runtime)
        layers = self._layers_of(low, tree.n_scales)
        waiting, xs = xs[0][n:], [xs[0][:n], *xs[1:]]
        for block in blocks:
            xs = block(xs, ctx, layers)
        return [torch.cat([xs[0], waiting]) if len(waiting) else xs[0], *xs[1:]]

    def _weighted(self) -> int:
        """How many scales have weights of their own that were trained (all of them in a new model)."""
        n = len(self.cfg.depths)
        return n if not self.trained_scales else min(n, max(self.trained_scales, 2))

    def _stages_of(self, n_scales: int) -> list[nn.ModuleList]:
        """The stages for `n_scales`: the last multi-scale stage repeats, the top stage ends."""
        if n_scales > 1 and len(self.cfg.depths) == 1:
            raise ValueError(
                f"Atlas: a model with one stage reads one window an image, this one has {n_scales} scales"
            )
        if self.training:
            self.trained_scales = max(self.trained_scales, n_scales)
        repeat = self._weighted() - 2
        return [*(self.stages[min(low, repeat)] for low in range(n_scales - 1)), self.stages[-1]]  # type: ignore[list-item]

    def _layers_of(self, low: int, n_scales: int, stage: int | None = None) -> list[int]:
        """Layer of a block that each scale from `low` up uses: its own, or the coarsest that has weights."""
        coarsest = self._weighted() - 1
        first = min(low, max(coarsest - 1, 0)) if stage is None else stage
        return [min(level, coarsest) - first for level in range(low, n_scales)]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.normalise.mean_C.device

    def get_extra_state(self) -> Tensor:
        """State that is not a weight: the number of scales seen in training."""
        return torch.tensor(self.trained_scales)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse of `get_extra_state`."""
        self.trained_scales = int(state)


class Normalise(nn.Module):
    """Pixels to zero mean and unit spread per channel: by statistics that travel with the weights, or, with
    `pixel_norm: window`, by each window's own.
    """

    def __init__(self, cfg: AtlasConfig) -> None:
        super().__init__()
        self.pixel_max, self.per_window = cfg.pixel_max, cfg.pixel_norm == "window"
        self.register_buffer("mean_C", torch.tensor(cfg.pixel_mean or (0.5,) * cfg.in_channels))
        self.register_buffer("std_C", torch.tensor(cfg.pixel_std or (0.25,) * cfg.in_channels))
        self.mean_C: Tensor
        self.std_C: Tensor

    def forward(self, pixels_NCHW: Tensor, inside_px_N2: Tensor | None = None) -> Tensor:
        """uint8 / 255, wider integers / `pixel_max`, floats as they are; then (x - mean) / std. Channels
        last.

        Args:
            pixels_NCHW: windows.
            inside_px_N2: height and width of the part of each window that lies in its image; None: all of it.
        """
        top = 1.0
        if not pixels_NCHW.is_floating_point():
            top = 255.0 if pixels_NCHW.dtype == torch.uint8 else self.pixel_max
        mean_C, std_C = self.mean_C * top, self.std_C * top
        out = torch.empty(
            pixels_NCHW.shape, dtype=std_C.dtype, device=std_C.device, memory_format=torch.channels_last
        )
        inside_Nhw = None
        if self.per_window and inside_px_N2 is not None:
            inside_Nhw = inside_image(inside_px_N2, pixels_NCHW.shape[-1])
        planes = []
        for c in range(pixels_NCHW.shape[1]):  # one channel at a time is several times faster on a CPU
            x_Nhw = pixels_NCHW[:, c].to(std_C)
            mean, std = mean_C[c], std_C[c]
            if self.per_window:
                mean, std = _own_statistics(x_Nhw, inside_Nhw, LEAST_SPREAD * std)
            if x_Nhw.requires_grad:
                planes.append((x_Nhw - mean) / std)
            else:
                torch.addcmul(-mean / std, x_Nhw, 1.0 / std, out=out[:, c])
        return torch.stack(planes, 1).contiguous(memory_format=torch.channels_last) if planes else out


def _own_statistics(x_Nhw: Tensor, inside_Nhw: Tensor | None, least: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of every window, (N, 1, 1) each; the spread of an even window is `least`."""
    if inside_Nhw is None:
        mean_N11 = x_Nhw.mean((1, 2), keepdim=True)
        square_N11 = (x_Nhw - mean_N11).square().mean((1, 2), keepdim=True)
    else:
        n_N11 = inside_Nhw.sum((1, 2), keepdim=True).clamp_min(1)
        mean_N11 = (x_Nhw * inside_Nhw).sum((1, 2), keepdim=True) / n_N11
        square_N11 = ((x_Nhw - mean_N11) * inside_Nhw).square().sum((1, 2), keepdim=True) / n_N11
    return mean_N11, (square_N11 + least.square()).sqrt()


def _wide(x: Tensor) -> Tensor:
    """At least float32: logits are never made in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _drop_rates(cfg: AtlasConfig, depth: int) -> list[float]:
    """Stochastic depth, rising linearly within a stage."""
    return [cfg.drop_path * j / max(depth - 1, 1) for j in range(depth)]
