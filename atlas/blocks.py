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

from atlas.attention import Ancestor, KeyValues, RotaryUm, Runtime, attend
from atlas.config import AtlasConfig
from atlas.layout import Scale


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

    def queries(self, x_WTD: Tensor, scale: Scale) -> Tensor:
        """(W, H, T, d), rotated."""
        return self._turn(self.q(self.norm_q(x_WTD)).unflatten(-1, (self.heads, -1)).transpose(1, 2), scale)

    def key_values(self, x_WTD: Tensor, scale: Scale) -> KeyValues:
        """Keys (rotated) and values of the tokens as they are now."""
        kv = self.kv(self.norm_kv(x_WTD)).unflatten(-1, (2, self.heads, -1))
        k_WHTd, v_WHTd = kv.permute(2, 0, 3, 1, 4)
        return KeyValues(self._turn(k_WHTd, scale), v_WHTd, None if scale.all_valid else scale.valid_WT)

    def add_attended(self, x_WTD: Tensor, attended_WTD: Tensor, drop: tuple[Tensor, Tensor] | None) -> Tensor:
        """Residual update with what attention read, then the MLP."""
        x_WTD = x_WTD + _drop(self.out(attended_WTD), drop, 0)
        return x_WTD + _drop(self.mlp(self.norm_mlp(x_WTD)), drop, 1)

    def _turn(self, x_WHTd: Tensor, scale: Scale) -> Tensor:
        if self.rotary is None:
            return x_WHTd
        wide = torch.promote_types(x_WHTd.dtype, torch.float32)
        tables = self.rotary.tables(scale.origin_um_W2, scale.pitch_um_W2, wide)
        return self.rotary.turn(x_WHTd.to(wide), tables).to(x_WHTd.dtype)

    def sample_drop(self, scale: Scale, n_cases: int) -> tuple[Tensor, Tensor] | None:
        """Factors (W,) for the attention and the MLP branch: 0 or 1 / keep, one draw per case."""
        if not self.training or self.drop_path == 0.0:
            return None
        keep = 1.0 - self.drop_path
        factor_2B = torch.bernoulli(torch.full((2, n_cases), keep, device=scale.case_W.device)) / keep
        first, second = factor_2B[:, scale.case_W]
        return first, second


def _drop(y_WTD: Tensor, drop: tuple[Tensor, Tensor] | None, branch: int) -> Tensor:
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
            for fine in range(len(xs) - 1):
                xs[fine + 1] = xs[fine + 1] + pool_up(
                    xs[fine], ctx.scales[fine], len(xs[fine + 1]), self.s, ctx.runtime
                )
        kvs: dict[int, KeyValues] = {}
        for i in reversed(range(len(xs))):
            xs[i] = self._read_down(xs[i], layers[i], ctx, i, kvs, drops[i])
            if i:
                kvs[i] = layers[i].key_values(xs[i], ctx.scales[i])
        if self.bottom_up:
            for i in range(1, len(xs)):
                read = self._read_up(xs[i], xs[i - 1], layers[i], layers[i - 1], ctx, i)
                xs[i] = layers[i].add_attended(xs[i], read, drops[i])
        return xs

    def _read_down(
        self, x: Tensor, layer: ScaleLayer, ctx: BlockContext, i: int, kvs: dict[int, KeyValues],
        drop: tuple[Tensor, Tensor] | None,
    ) -> Tensor:  # fmt: skip
        """Every window of scale `i` attends to itself and to the windows above it."""
        scale = ctx.scales[i]

        def update(start: int, stop: int, x_wTD: Tensor) -> Tensor:
            part = scale.take(start, stop)
            coarse: list[Ancestor] = []
            for up, index_W in enumerate(scale.ancestors):
                n_reading = scale.n_with_ancestor[up]
                if start < n_reading:
                    coarse.append((kvs[i + 1 + up], index_W[start:stop], stop <= n_reading))
            own = layer.key_values(x_wTD, part)
            read = attend(layer.queries(x_wTD, part), own, coarse, ctx.runtime.backend)
            return layer.add_attended(x_wTD, read, drop and (drop[0][start:stop], drop[1][start:stop]))

        return map_windows(update, x, ctx.runtime)

    def _read_up(
        self, x: Tensor, fine_x: Tensor, layer: ScaleLayer, fine_layer: ScaleLayer, ctx: BlockContext, i: int
    ) -> Tensor:
        """Each block of Q tokens of scale `i` attends to the window it covers; (W, T, D) of what was read."""
        scale, fine, s, k = ctx.scales[i], ctx.scales[i - 1], self.s, layer.k
        q_WHTd = layer.queries(x, scale)
        blocks = to_blocks(q_WHTd.transpose(1, 2).flatten(2), s, k)

        def read(start: int, stop: int, x_wTD: Tensor) -> Tensor:
            part = fine.take(start, stop)
            q_wQD = blocks.index_select(0, fine.slot_W[start:stop])
            q_wHQd = q_wQD.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            return attend(q_wHQd, fine_layer.key_values(x_wTD, part), (), ctx.runtime.backend)

        n = fine.n_parented
        read_WQD = map_windows(read, fine_x[:n], ctx.runtime)
        return from_blocks(read_WQD, fine.slot_W[:n], len(x), s, k)


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

    return from_blocks(map_windows(pool, x_WTD[:n], runtime), scale.slot_W[:n], n_parents, s, k)


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


def map_windows(fn: Callable[[int, int, Tensor], Tensor], x_WTD: Tensor, runtime: Runtime) -> Tensor:
    """`fn(start, stop, x[start:stop])` over chunks of windows, checkpointed if the runtime says so."""
    n, size = len(x_WTD), runtime.chunk_windows
    keep_graph = runtime.checkpoint and torch.is_grad_enabled()
    if n <= size and not keep_graph:
        return fn(0, n, x_WTD)
    parts, start = [], 0
    for part in x_WTD.split(size):
        stop = start + len(part)
        if keep_graph:
            y: Tensor = checkpoint(fn, start, stop, part, use_reentrant=False, preserve_rng_state=False)
        else:
            y = fn(start, stop, part)
        parts.append(y)
        start = stop
    return torch.cat(parts)
