"""Multi-scale attention without copies of keys and values: one variable-length call per scale, merged
exactly.

Windows are in tree order, so all windows under one coarse window are contiguous: their queries form one
segment that reads one segment of keys. Each scale gives a partial softmax with its log-sum-exp; the parts
are merged as in flash decoding. The gradient of a merge is the gradient of each part computed with the
*merged* output and log-sum-exp: that is one autograd function here, because the backward of the library's
variable-length call ignores the gradient of its log-sum-exp and a merge written with it would be silently
wrong.

Tokens that do not exist are left out of the packed keys, so no mask is needed.

Shapes: W windows, Q queries of a window, H heads, d channels of a head, n packed queries, m packed keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atlas.attention import Ancestor, KeyValues


@dataclass
class Segments:
    """Which packed queries read which packed keys: segment i of the queries reads segment i of the keys."""

    query_ends: Tensor
    """int32, first entry 0."""
    key_ends: Tensor
    longest_q: int
    longest_k: int
    n_queries: int
    """Queries that take part: a prefix of all packed queries."""


def varlen_attend(q_WHQd: Tensor, own: KeyValues, coarse: Sequence[Ancestor]) -> Tensor:
    """Same numbers as `attention.attend`, (W, H, Q, d).

    Raises:
        ValueError: windows that read one coarse window are not contiguous (released pairing).
    """
    w, h, n_q, d = q_WHQd.shape
    index_W = torch.arange(w, device=q_WHQd.device)
    packed: list[Tensor] = []
    segments: list[Segments] = []
    for kv, at_W in [(own, index_W), *((kv, at_W) for kv, at_W, _ in coarse)]:
        k_mHd, v_mHd, count_V = _pack(kv)
        packed += [k_mHd, v_mHd]
        segments.append(_segments(at_W, count_V, n_q))
    q_nHd = q_WHQd.transpose(1, 2).reshape(w * n_q, h, d)
    out_nHd: Tensor = _Merged.apply(segments, q_nHd, *packed)
    return out_nHd.view(w, n_q, h, d).transpose(1, 2)


def _pack(kv: KeyValues) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values (m, H, d) of the tokens that exist, and how many each window has."""
    k, v = kv.kv_W2HTd.transpose(2, 3).unbind(1)
    if kv.valid_WT is None:
        count_W = torch.full((k.shape[0],), k.shape[1], device=k.device)
        return k.flatten(0, 1), v.flatten(0, 1), count_W
    return k[kv.valid_WT], v[kv.valid_WT], kv.valid_WT.sum(1)


def _segments(at_W: Tensor, count_V: Tensor, n_q: int) -> Segments:
    """Segments for windows that read the coarse windows `at_W` (sorted; -1, at the end: none)."""
    reading = at_W[at_W >= 0]
    if bool((reading.diff() < 0).any()) or not bool((at_W[: len(reading)] >= 0).all()):
        raise ValueError("varlen attention needs windows in tree order with their true ancestors")
    queries_V = torch.bincount(reading, minlength=len(count_V)) * n_q
    return Segments(
        _ends(queries_V), _ends(count_V), int(queries_V.max()), int(count_V.max()), len(reading) * n_q
    )  # fmt: skip


def _ends(length_V: Tensor) -> Tensor:
    return torch.nn.functional.pad(length_V.cumsum(0), (1, 0)).to(torch.int32)


class _Merged(torch.autograd.Function):
    """softmax over all parts' keys together, from one kernel call per part."""

    @staticmethod
    def forward(ctx: Any, segments: list[Segments], q_nHd: Tensor, *packed: Tensor) -> Tensor:
        kernel = _kernel(q_nHd)
        out = torch.zeros_like(q_nHd)
        lse_Hn = torch.full((q_nHd.shape[1], len(q_nHd)), -torch.inf, dtype=_wide(q_nHd), device=q_nHd.device)
        for i, seg in enumerate(segments):
            n = seg.n_queries
            part, part_lse_Hn = kernel.forward(q_nHd[:n], packed[2 * i], packed[2 * i + 1], seg)
            merged_Hn = torch.logaddexp(lse_Hn[:, :n], part_lse_Hn)
            keep, add = ((lse - merged_Hn).exp().T[..., None] for lse in (lse_Hn[:, :n], part_lse_Hn))
            out[:n] = (out[:n] * keep + part * add).to(out.dtype)
            lse_Hn[:, :n] = merged_Hn
        ctx.segments = segments
        ctx.save_for_backward(q_nHd, out, lse_Hn, *packed)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_nHd, out, lse_Hn, *packed = ctx.saved_tensors
        kernel, grad_out = _kernel(q_nHd), grads[0].contiguous()
        grad_q, found = torch.zeros_like(q_nHd, dtype=_wide(q_nHd)), []
        for i, seg in enumerate(ctx.segments):
            n = seg.n_queries
            k, v, lse = packed[2 * i], packed[2 * i + 1], lse_Hn[:, :n].contiguous()
            part_q, *part_kv = kernel.backward(grad_out[:n], q_nHd[:n], k, v, out[:n], lse, seg)
            grad_q[:n] += part_q
            found += part_kv
        return None, grad_q.to(q_nHd.dtype), *found


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class _Flash:
    """The flash kernels of torch, CUDA and half precision."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, seg: Segments) -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, seg.query_ends, seg.key_ends, seg.longest_q, seg.longest_k, 0.0, False, False
        )
        return out, lse

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, seg: Segments
    ) -> tuple[Tensor, Tensor, Tensor]:
        no_rng = torch.zeros(2, dtype=torch.uint64, device=q.device)
        unused = torch.empty(0, device=q.device)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, lse, seg.query_ends, seg.key_ends, seg.longest_q, seg.longest_k,
            0.0, False, no_rng, unused,
        )  # fmt: skip
        return found


class _Written:
    """The same written out, segment by segment: any device and precision; what the tests check."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, seg: Segments) -> tuple[Tensor, Tensor]:
        out = torch.zeros_like(q)
        lse = torch.full((q.shape[1], len(q)), -torch.inf, dtype=_wide(q), device=q.device)
        for at, of in _pairs(seg):
            score = _scores(q[at], k[of])
            lse[:, at] = score.logsumexp(-1)
            out[at] = torch.einsum("hqm,mhd->qhd", score.softmax(-1), v[of].to(_wide(v))).to(out.dtype)
        return out, lse

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, seg: Segments
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = _wide(q)
        grad_q, grad_k, grad_v = (torch.zeros_like(t, dtype=wide) for t in (q, k, v))
        for at, of in _pairs(seg):
            g, p = grad[at].to(wide), (_scores(q[at], k[of]) - lse[:, at, None]).exp()
            delta = (g * out[at].to(wide)).sum(-1).T[..., None]
            grad_score = (
                p * (torch.einsum("qhd,mhd->hqm", g, v[of].to(wide)) - delta) / math.sqrt(q.shape[-1])
            )
            grad_q[at] = torch.einsum("hqm,mhd->qhd", grad_score, k[of].to(wide))
            grad_k[of] = torch.einsum("hqm,qhd->mhd", grad_score, q[at].to(wide))
            grad_v[of] = torch.einsum("hqm,qhd->mhd", p, g)
        return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


def _pairs(seg: Segments) -> list[tuple[slice, slice]]:
    q, k = seg.query_ends.tolist(), seg.key_ends.tolist()
    both = zip(q[:-1], q[1:], k[:-1], k[1:], strict=True)
    return [(slice(a, b), slice(c, d)) for a, b, c, d in both if b > a]


def _scores(q_nHd: Tensor, k_mHd: Tensor) -> Tensor:
    wide = _wide(q_nHd)
    return torch.einsum("qhd,mhd->hqm", q_nHd.to(wide), k_mHd.to(wide)) / math.sqrt(q_nHd.shape[-1])


def _kernel(q: Tensor) -> type[_Flash] | type[_Written]:
    return _Flash if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) else _Written
