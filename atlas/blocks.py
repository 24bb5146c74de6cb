"""One multi-scale attention block: pool up, read top-down, read bottom-up.

Order of the paper (section 1.3 of its released code): positions are added to every scale; every scale adds
the max-pooled tokens of the scale below; from the coarsest scale down, a window attends to itself and to the
windows above it; from the finest scale up, each group of coarse tokens attends to the one window it covers.
Scales have their own weights; scales beyond the last one with weights share its weights.

Shapes: W windows of a scale, T tokens of a window, D width, H heads, d channels of a head, Q = (k / s)^2
coarse tokens over one child window, k tokens per window side, B cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from atlas.attention import Ancestor, KeyValues, RotaryUm, Runtime, Turn, attend, turned
from atlas.config import AtlasConfig
from atlas.layout import Scale

Drop = tuple[Tensor, Tensor]
"""Stochastic-depth factors (W,) of the attention and the MLP branch."""


class ScaleLayer(nn.Module):
    """The weights of one scale in one block: position, attention, MLP."""

    def __init__(self, cfg: AtlasConfig, drop_path: float) -> None:
        super().__init__()
        dim, hidden = cfg.dim, int(cfg.dim * cfg.mlp_ratio)
        self.heads, self.drop_path, self.k = cfg.heads, drop_path, cfg.window_tokens
        self.rotary = (
            RotaryUm(dim // cfg.heads, cfg.rope_shortest_um, cfg.rope_longest_um, self.k)
            if cfg.rope
            else None
        )
        self.position = nn.Sequential(
            nn.Linear(2, cfg.position_hidden), nn.ReLU(), nn.Linear(cfg.position_hidden, dim, bias=False)
        )
        self.norm_q, self.norm_kv, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def position_TD(self, extent_k: tuple[int, int]) -> Tensor:
        """In-window position of every token slot; coordinates start at -1, `extent_k` tokens are a side."""
        weight: Tensor = self.q.weight
        i_k = torch.arange(self.k, device=weight.device, dtype=weight.dtype)
        y_k, x_k = ((i_k - r // 2) / max(r // 2, 1) for r in extent_k)
        grid = torch.stack([y_k[:, None].expand(-1, self.k), x_k[None, :].expand(self.k, -1)], -1)
        position_TD: Tensor = self.position(grid.flatten(0, 1))
        return position_TD

    def tables(self, scale: Scale, dtype: torch.dtype) -> Turn | None:
        """cos and sin of the rotary positions of the windows of `scale`; None without rotary positions."""
        if self.rotary is None:
            return None
        return self.rotary.tables(
            scale.origin_um_W2, scale.pitch_um_W2, torch.promote_types(dtype, torch.float32)
        )

    def queries(self, x_WTD: Tensor, turn: Turn | None) -> Tensor:
        """(W, H, T, d), rotated."""
        q_WHTd: Tensor = self.q(self.norm_q(x_WTD)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return q_WHTd if turn is None else turned(q_WHTd, turn)

    def keys_values(self, x_WTD: Tensor, turn: Turn | None) -> Tensor:
        """Keys (rotated) and values of the tokens as they are now, (W, 2, H, T, d)."""
        kv_WT2Hd = self.kv(self.norm_kv(x_WTD)).unflatten(-1, (2, self.heads, -1))
        k_WHTd, v_WHTd = kv_WT2Hd.transpose(1, 3).unbind(2)
        return torch.stack([k_WHTd if turn is None else turned(k_WHTd, turn), v_WHTd], 1)

    def add_attended(self, x_WTD: Tensor, attended_WTD: Tensor, drop: Drop | None = None) -> Tensor:
        """Residual update with what attention read, then the MLP."""
        x_WTD = x_WTD + _drop(self.out(attended_WTD), drop, 0)
        return x_WTD + _drop(self.mlp(self.norm_mlp(x_WTD)), drop, 1)

    def sample_drop(self, scale: Scale, n_cases: int) -> Drop | None:
        """Factors (W,) for the attention and the MLP branch: 0 or 1 / keep, one draw per case."""
        if not self.training or self.drop_path == 0.0:
            return None
        keep = 1.0 - self.drop_path
        factor_2B = torch.bernoulli(torch.full((2, n_cases), keep, device=scale.case_W.device)) / keep
        first, second = factor_2B[:, scale.case_W]
        return first, second


def _drop(y_WTD: Tensor, drop: Drop | None, branch: int) -> Tensor:
    return y_WTD if drop is None else y_WTD * drop[branch][:, None, None].to(y_WTD.dtype)


@dataclass
class BlockContext:
    """What a block needs besides its weights and tokens."""

    scales: list[Scale]
    """Active scales, finest first; the finest holds only the windows that take part."""
    extent_k: list[tuple[int, int]]
    n_cases: int
    runtime: Runtime


class Block(nn.Module):
    """Weights for scales `first_scale .. n_weighted - 1`; coarser scales use the last of them."""

    def __init__(self, cfg: AtlasConfig, n_layers: int, drop_path: float, bottom_up: bool = True) -> None:
        super().__init__()
        self.s, self.bottom_up = cfg.downsample, bottom_up
        self.layers = nn.ModuleList(ScaleLayer(cfg, drop_path) for _ in range(n_layers))

    def forward(self, xs: list[Tensor], ctx: BlockContext, layer_of: Sequence[int]) -> list[Tensor]:
        """Update the tokens of all active scales.

        Args:
            xs: (W, T, D) per active scale, finest first.
            ctx: where those windows lie.
            layer_of: which of this block's layers each active scale uses.
        """
        layers: list[ScaleLayer] = [self.layers[i] for i in layer_of]  # type: ignore[misc]
        xs = [x + la.position_TD(e) for x, la, e in zip(xs, layers, ctx.extent_k, strict=True)]
        drops = [la.sample_drop(sc, ctx.n_cases) for la, sc in zip(layers, ctx.scales, strict=True)]
        if self.bottom_up:
            for i in range(len(xs) - 1):
                xs[i + 1] = xs[i + 1] + pool_up(xs[i], ctx.scales[i], len(xs[i + 1]), self.s, ctx.runtime)
        read_by_finer: dict[int, KeyValues] = {}
        for i in reversed(range(len(xs))):
            xs[i] = self._read_down(xs[i], layers[i], drops[i], i, read_by_finer, ctx)
            if i:
                read_by_finer[i] = _keys_values(xs[i], layers[i], ctx.scales[i], ctx.runtime)
        if self.bottom_up:
            for i in range(1, len(xs)):
                xs[i] = self._read_up(xs[i], xs[i - 1], layers[i], layers[i - 1], drops[i], i, ctx)
        return xs

    def _read_down(
        self, x_WTD: Tensor, layer: ScaleLayer, drop: Drop | None, i: int, above: dict[int, KeyValues],
        ctx: BlockContext,
    ) -> Tensor:  # fmt: skip
        """Every window of scale `i` attends to itself and to the windows above it, then the MLP."""
        scale, runtime = ctx.scales[i], ctx.runtime

        def update(start: int, stop: int, x_wTD: Tensor) -> Tensor:
            part = scale.take(start, stop)
            coarse: list[Ancestor] = []
            for up, index_w in enumerate(part.ancestors):
                n_reading = scale.n_with_ancestor[up]
                if start < n_reading:
                    coarse.append((above[i + 1 + up], index_w, stop <= n_reading))
            turn = layer.tables(part, x_wTD.dtype)
            own = _as_key_values(runtime.call(layer.keys_values, x_wTD, turn), part)
            read = attend(runtime.call(layer.queries, x_wTD, turn), own, coarse, runtime.backend)
            return runtime.call(layer.add_attended, x_wTD, read, _part(drop, start, stop))

        return map_windows(update, runtime, x_WTD)

    def _read_up(
        self, x_WTD: Tensor, fine_WTD: Tensor, layer: ScaleLayer, fine_layer: ScaleLayer, drop: Drop | None,
        i: int, ctx: BlockContext,
    ) -> Tensor:  # fmt: skip
        """Each block of Q tokens of scale `i` attends to the window it covers, then the MLP."""
        scale, fine, runtime, k = ctx.scales[i], ctx.scales[i - 1], ctx.runtime, layer.k

        def query(start: int, stop: int, x_wTD: Tensor) -> Tensor:
            turn = layer.tables(scale.take(start, stop), x_wTD.dtype)
            return runtime.call(layer.queries, x_wTD, turn).transpose(1, 2).flatten(2)

        def read(start: int, stop: int, fine_wTD: Tensor) -> Tensor:
            part = fine.take(start, stop)
            q_wQD = blocks_CQD.index_select(0, part.slot_W)
            turn = fine_layer.tables(part, fine_wTD.dtype)
            own = _as_key_values(runtime.call(fine_layer.keys_values, fine_wTD, turn), part)
            return attend(q_wQD.unflatten(-1, (layer.heads, -1)).transpose(1, 2), own, (), runtime.backend)

        def update(start: int, stop: int, x_wTD: Tensor, read_wTD: Tensor) -> Tensor:
            return runtime.call(layer.add_attended, x_wTD, read_wTD, _part(drop, start, stop))

        blocks_CQD = to_blocks(map_windows(query, runtime, x_WTD), self.s, k)
        read_CQD = map_windows(read, runtime, fine_WTD[: fine.n_parented])
        read_WTD = from_blocks(read_CQD, fine.slot_W[: fine.n_parented], len(x_WTD), self.s, k)
        return map_windows(update, runtime, x_WTD, read_WTD)


def _keys_values(x_WTD: Tensor, layer: ScaleLayer, scale: Scale, runtime: Runtime) -> KeyValues:
    """Keys and values of all windows of a scale."""

    def project(start: int, stop: int, x_wTD: Tensor) -> Tensor:
        return runtime.call(layer.keys_values, x_wTD, layer.tables(scale.take(start, stop), x_wTD.dtype))

    return _as_key_values(map_windows(project, runtime, x_WTD), scale)


def _as_key_values(kv_W2HTd: Tensor, scale: Scale) -> KeyValues:
    return KeyValues(kv_W2HTd, None if scale.all_valid else scale.valid_WT)


def _part(drop: Drop | None, start: int, stop: int) -> Drop | None:
    return None if drop is None else (drop[0][start:stop], drop[1][start:stop])


class BroadcastDown(nn.Module):
    """The cheap last read: from the top down, a token adds a projection of the coarser one over it."""

    def __init__(self, cfg: AtlasConfig, n_layers: int) -> None:
        super().__init__()
        self.s, self.k = cfg.downsample, cfg.window_tokens
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(cfg.dim), nn.Linear(cfg.dim, cfg.dim)) for _ in range(n_layers)
        )

    def forward(self, xs: list[Tensor], ctx: BlockContext, layer_of: Sequence[int]) -> list[Tensor]:
        """Same arguments as `Block.forward`; scale 0, which nobody reads, has no layer."""
        xs, s, q = list(xs), self.s, self.k // self.s
        for i in reversed(range(len(xs) - 1)):
            n = ctx.scales[i].n_parented
            over_VTD = self.layers[layer_of[i + 1] - 1](xs[i + 1])
            over_nQD = to_blocks(over_VTD, s, self.k).index_select(0, ctx.scales[i].slot_W[:n])
            over_nqsqsD = over_nQD.unflatten(1, (q, 1, q, 1)).expand(-1, q, s, q, s, -1)
            xs[i] = torch.cat([xs[i][:n] + over_nqsqsD.flatten(1, 4), xs[i][n:]])
        return xs


def pool_up(x_WTD: Tensor, scale: Scale, n_parents: int, s: int, runtime: Runtime) -> Tensor:
    """Max over s x s valid tokens, placed where the windows lie in their parents; zero elsewhere."""
    k = int(x_WTD.shape[1] ** 0.5)
    n = scale.n_parented

    def pool(start: int, stop: int, x_wTD: Tensor) -> Tensor:
        if not scale.all_valid:
            lowest = torch.finfo(x_wTD.dtype).min
            valid_wT1 = scale.valid_WT[start:stop, :, None]
            x_wTD = torch.where(valid_wT1, x_wTD, lowest)
        pooled: Tensor = x_wTD.unflatten(1, (k // s, s, k // s, s)).amax((2, 4)).flatten(1, 2)
        if not scale.all_valid:
            seen = scale.valid_WT[start:stop].unflatten(1, (k // s, s, k // s, s)).any(4).any(2).flatten(1)
            pooled = torch.where(seen[..., None], pooled, 0.0)
        return pooled

    return from_blocks(map_windows(pool, runtime, x_WTD[:n]), scale.slot_W[:n], n_parents, s, k)


def to_blocks(x_WTD: Tensor, s: int, k: int) -> Tensor:
    """(W, T, D) -> (W * s * s, Q, D): the tokens over each child window."""
    q = k // s
    blocks: Tensor = x_WTD.unflatten(1, (s, q, s, q)).transpose(2, 3).reshape(-1, q * q, x_WTD.shape[-1])
    return blocks


def from_blocks(block_CQD: Tensor, slot_C: Tensor, n_windows: int, s: int, k: int) -> Tensor:
    """The inverse of `to_blocks` for the blocks at `slot_C`, zero elsewhere."""
    q = k // s
    empty = block_CQD.new_zeros(n_windows * s * s, q * q, block_CQD.shape[-1])
    blocks = empty.index_copy(0, slot_C, block_CQD)
    tokens: Tensor = blocks.view(n_windows, s, s, q, q, -1).transpose(2, 3).reshape(n_windows, k * k, -1)
    return tokens


def map_windows(fn: Callable[..., Tensor], runtime: Runtime, *xs_W: Tensor) -> Tensor:
    """`fn(start, stop, *(x[start:stop] for x in xs))` over chunks of windows, checkpointed if so set."""
    n, recompute = len(xs_W[0]), runtime.checkpoint and torch.is_grad_enabled()
    if n <= runtime.chunk_windows and not recompute:
        return fn(0, n, *xs_W)
    parts, start = [], 0
    for chunks in zip(*(x_W.split(runtime.chunk_windows) for x_W in xs_W), strict=True):
        stop = start + len(chunks[0])
        if recompute:
            y: Tensor = checkpoint(fn, start, stop, *chunks, use_reentrant=False, preserve_rng_state=False)
        else:
            y = fn(start, stop, *chunks)
        parts.append(y)
        start = stop
    return torch.cat(parts)
