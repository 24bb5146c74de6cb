"""Multi-scale attention: queries of a window read their own window and the coarser windows above it.

One signature, `attend`, three ways to compute the same numbers:

- `plain`: the definition, softmax written out. The reference of the tests.
- `sdpa`: gathers the coarser keys and values per window and calls scaled_dot_product_attention. The default.
- `varlen`: one variable-length flash call per scale, merged exactly; no copies of keys and values. For GPUs.

Shapes: W windows (of one scale or a chunk of it), H heads, Q queries of a window, T tokens (keys) of a
window, J keys of all windows that are read, d channels of a head, D = H * d, k tokens per window side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["plain", "sdpa", "varlen"]


@dataclass
class Runtime:
    """How to run a model; changes speed and memory, never a number (beyond the order of sums)."""

    backend: Backend = "sdpa"
    chunk_windows: int = 64
    """Windows that are computed together where work is done in chunks."""
    stem_windows: int = 64
    """Windows that go through the stem together where no graph is kept, plus those around them. 256 take the
    same time on a CPU and 600 MiB more (one step of `tiny` over 1,024 windows)."""
    checkpoint: bool = False
    """Recompute every chunk in the backward pass instead of keeping its activations."""
    compile: bool = False
    """Run the projections and MLPs through torch.compile with a dynamic number of windows."""

    def call(self, method: Callable[..., Tensor], *args: object) -> Tensor:
        """`method(*args)`, compiled if so set; all layers share one compilation."""
        if not self.compile:
            return method(*args)
        return _compiled(method.__func__)(method.__self__, *args)  # type: ignore[attr-defined]


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(function, dynamic=True)
    return compiled


@dataclass
class KeyValues:
    """Keys and values of all windows of one scale."""

    kv_W2HTd: Tensor
    """Keys, then values."""
    valid_WT: Tensor | None
    """Which tokens exist; None when all do."""


Ancestor = tuple[KeyValues, Tensor, bool]
"""(keys and values of a coarser scale, index_W of the window read or -1, whether every index exists)."""


def attend(q_WHQd: Tensor, own: KeyValues, coarse: Sequence[Ancestor], backend: Backend) -> Tensor:
    """Softmax attention of every window's queries over its own and its coarser windows' valid tokens.

    Returns:
        (W, Q, D), heads side by side.
    """
    if backend == "varlen":
        from atlas.varlen import varlen_attend

        out_WHQd = varlen_attend(q_WHQd, own, coarse)
    else:
        kv_W2HJd, valid_WJ = _gather(own, coarse)
        mask = None if valid_WJ is None else valid_WJ[:, None, None, :]
        kernel = _plain if backend == "plain" else F.scaled_dot_product_attention
        k_WHJd, v_WHJd = kv_W2HJd.unbind(1)
        out_WHQd = kernel(q_WHQd, k_WHJd, v_WHJd, attn_mask=mask)
    return out_WHQd.transpose(1, 2).flatten(2)


def _plain(q_WHQd: Tensor, k_WHJd: Tensor, v_WHJd: Tensor, attn_mask: Tensor | None) -> Tensor:
    """The definition; softmax in at least float32."""
    logits = q_WHQd @ k_WHJd.transpose(-1, -2) / math.sqrt(q_WHQd.shape[-1])
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -math.inf)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).softmax(-1).to(v_WHJd.dtype) @ v_WHJd


def _gather(own: KeyValues, coarse: Sequence[Ancestor]) -> tuple[Tensor, Tensor | None]:
    """Own and coarser keys, values and validity side by side, one copy per window."""
    if not coarse:
        return own.kv_W2HTd, own.valid_WT
    kvs, valids = [own.kv_W2HTd], [own.valid_WT]
    for kv, index_W, complete in coarse:
        at_W = index_W if complete else index_W.clamp_min(0)
        kvs.append(kv.kv_W2HTd.index_select(0, at_W))
        valid = None if kv.valid_WT is None else kv.valid_WT.index_select(0, at_W)
        if not complete:
            exists_W1 = (index_W >= 0)[:, None]
            valid = exists_W1.expand(-1, kv.kv_W2HTd.shape[3]) if valid is None else valid & exists_W1
        valids.append(valid)
    kv_W2HJd = torch.cat(kvs, 3)
    if all(v is None for v in valids):
        return kv_W2HJd, None
    filled = [
        v if v is not None else torch.ones(len(kv), kv.shape[3], dtype=torch.bool, device=kv.device)
        for v, kv in zip(valids, kvs, strict=True)
    ]
    return kv_W2HJd, torch.cat(filled, 1)


Turn = tuple[Tensor, Tensor]
"""cos (W, 1, T, 2 axes, 1, d/4) and signed sin (W, 1, T, 2 axes, 2, d/4) of every token."""


class RotaryUm:
    """Rotary positions in micrometres, the same wavelengths at every scale.

    The first half of a head's channels turns with y, the second with x. A key of any scale at a distance of
    r um turns by 2 pi r / wavelength against the query, so a fine token knows exactly where in a coarser
    window it lies, and only differences matter. (Su et al. 2021, RoFormer; the paper's Atlas has in-window
    positions only.)
    """

    def __init__(self, head_dim: int, shortest_um: float, longest_um: float, k: int) -> None:
        n = head_dim // 4
        steps = torch.arange(n, dtype=torch.float64) / max(n - 1, 1)
        self.per_um = 2 * math.pi / (shortest_um * (longest_um / shortest_um) ** steps)
        self.k = k

    def tables(self, origin_um_W2: Tensor, pitch_um_W2: Tensor, dtype: torch.dtype) -> Turn:
        """cos and sin of every token; angles in float64, they grow to thousands of radians."""
        centre_k = torch.arange(self.k, device=origin_um_W2.device, dtype=torch.float64) + 0.5
        um_W2k = origin_um_W2[:, :, None] + centre_k * pitch_um_W2[:, :, None]
        angle_W2kf = um_W2k[..., None] * self.per_um.to(um_W2k.device)
        cos, sin = angle_W2kf.cos().to(dtype), angle_W2kf.sin().to(dtype)
        return self._per_token(cos[..., None, :]), self._per_token(torch.stack([-sin, sin], -2))

    def _per_token(self, table_W2k: Tensor) -> Tensor:
        """(W, 2, k, ...) of rows and columns -> (W, 1, T, 2, ...)."""
        w, _, k, *rest = table_W2k.shape
        y, x = table_W2k[:, 0, :, None], table_W2k[:, 1, None]
        return torch.stack([t.expand(w, k, k, *rest) for t in (y, x)], 3).flatten(1, 2).unsqueeze(1)


def turned(x_WHTd: Tensor, turn: Turn) -> Tensor:
    """Rotate the queries or keys of whole windows, in at least float32."""
    cos, sin = turn
    pairs = x_WHTd.unflatten(-1, (2, 2, cos.shape[-1])).to(cos.dtype)  # axis, (even, odd), frequency
    rotated: Tensor = torch.addcmul(pairs * cos, pairs.flip(-2), sin)
    return rotated.flatten(3).to(x_WHTd.dtype)
