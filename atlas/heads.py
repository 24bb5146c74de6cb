"""Tokens to logits.

`LocalEvidenceHead` (default): logit_c = b_c + sum_i alpha_i(context) * psi_c(local_i). What a token *says*
(psi) is read from its stem token, which saw a few tens of pixels; how much it *counts* (alpha) from its
contextual token, which has seen the case. The terms of the sum are the heatmap: they add up to the logit and
point at the evidence. (Additive MIL, arXiv 2206.01794, with the evidence kept local: contextual evidence
also adds up but points nowhere.)

`ReferenceHead`: the paper's mean over the tokens of the top windows.

Shapes: W windows of scale 0, T tokens of a window, D width, H evidence heads, E evidence outputs, O logits,
B cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas.attention import Runtime
from atlas.blocks import map_windows
from atlas.config import AtlasConfig
from atlas.layout import Scale


@dataclass
class HeadInput:
    """What a head may read."""

    local_WTD: Tensor
    """Stem tokens."""
    context_WTD: Tensor | None
    """Scale-0 tokens that have read the final state of every scale above them; None for the reference head.
    """
    fine: Scale
    top_WTD: Tensor
    top: Scale
    n_cases: int
    runtime: Runtime


@dataclass
class HeadOutput:
    logits_BO: Tensor
    contribution_WTO: Tensor | None
    attention_WT: Tensor | None


class Bias(nn.Module):
    """b_c. For ordinal tasks the biases fall with c, so that P(y > c) does too (cumulative logits, McCullagh
    1980).
    """

    def __init__(self, cfg: AtlasConfig) -> None:
        super().__init__()
        self.ordered = cfg.task == "ordinal"
        self.raw_O = nn.Parameter(torch.zeros(cfg.n_outputs))

    def forward(self) -> Tensor:
        """(O,)."""
        if not self.ordered:
            return self.raw_O
        steps = torch.cat([self.raw_O[:1], -F.softplus(self.raw_O[1:])])
        return torch.cumsum(steps, 0)


class LocalEvidenceHead(nn.Module):
    """Sum over tokens of attention x local evidence."""

    def __init__(self, cfg: AtlasConfig) -> None:
        super().__init__()
        dim, hidden, self.heads = cfg.dim, cfg.evidence_hidden, cfg.evidence_heads
        self.n_outputs = cfg.n_outputs
        self.n_evidence = 1 if cfg.task == "ordinal" else cfg.n_outputs
        self.evidence = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, self.heads * self.n_evidence),
        )
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * hidden)
        self.score = nn.Parameter(
            torch.randn(self.heads, hidden // self.heads) / (hidden // self.heads) ** 0.5
        )
        self.bias = Bias(cfg)

    def forward(self, inp: HeadInput, maps: bool) -> HeadOutput:
        assert inp.context_WTD is not None
        scores_WTH = map_windows(lambda _a, _b, x: self._scores(x), inp.runtime, inp.context_WTD)
        alpha_WTH = case_softmax(scores_WTH, inp.fine.valid_WT, inp.fine.case_W, inp.n_cases)
        sums_WE = map_windows(
            lambda _a, _b, x, alpha: self._terms(x, alpha).sum(1), inp.runtime, inp.local_WTD, alpha_WTH
        )
        sums_BE = sums_WE.new_zeros(inp.n_cases, self.n_evidence).index_add(0, inp.fine.case_W, sums_WE)
        logits_BO = sums_BE + self.bias()
        if not maps:
            return HeadOutput(logits_BO, None, None)
        terms_WTE = map_windows(
            lambda _a, _b, x, alpha: self._terms(x, alpha), inp.runtime, inp.local_WTD, alpha_WTH
        )
        return HeadOutput(logits_BO, terms_WTE.expand(-1, -1, self.n_outputs), alpha_WTH.mean(-1))

    def window_logits(self, local_WTD: Tensor, valid_WT: Tensor) -> Tensor:
        """Logits of every window on its own: this head with uniform attention in each window, (W, O)."""
        evidence_WTE = self.evidence(local_WTD).unflatten(-1, (self.heads, self.n_evidence)).sum(2)
        logits_WO: Tensor = window_mean(evidence_WTE, valid_WT) + self.bias()
        return logits_WO

    def _scores(self, context_wTD: Tensor) -> Tensor:
        """Attention scores (w, T, H): gated attention of Ilse et al. 2018, one group of units per head."""
        value, gate = self.gate(self.norm(context_wTD)).chunk(2, -1)
        hidden: Tensor = (torch.tanh(value) * torch.sigmoid(gate)).unflatten(-1, (self.heads, -1))
        return (hidden * self.score).sum(-1)

    def _terms(self, local_wTD: Tensor, alpha_wTH: Tensor) -> Tensor:
        """alpha x psi summed over heads, (w, T, E)."""
        psi_wTHE: Tensor = self.evidence(local_wTD).unflatten(-1, (self.heads, self.n_evidence))
        return (alpha_wTH[..., None] * psi_wTHE).sum(2)


class ReferenceHead(nn.Module):
    """LayerNorm, mean over the valid tokens of a case's top windows, LayerNorm, linear."""

    def __init__(self, cfg: AtlasConfig) -> None:
        super().__init__()
        self.readout_norm, self.norm = nn.LayerNorm(cfg.dim), nn.LayerNorm(cfg.dim)
        self.linear = nn.Linear(cfg.dim, 1 if cfg.task == "ordinal" else cfg.n_outputs, bias=False)
        self.bias = Bias(cfg)

    def prelogits(self, inp: HeadInput) -> Tensor:
        """(B, D) in front of the linear layer."""
        valid_WT1 = inp.top.valid_WT[..., None]
        sums_WD = torch.where(valid_WT1, self.readout_norm(inp.top_WTD), 0.0).sum(1)
        count_W1 = valid_WT1.sum(1).to(sums_WD.dtype)
        sums_BD = sums_WD.new_zeros(inp.n_cases, sums_WD.shape[1]).index_add(0, inp.top.case_W, sums_WD)
        count_B1 = count_W1.new_zeros(inp.n_cases, 1).index_add(0, inp.top.case_W, count_W1)
        mean_BD: Tensor = self.norm(sums_BD / count_B1)
        return mean_BD

    def forward(self, inp: HeadInput, maps: bool) -> HeadOutput:
        del maps  # a mean of contextual tokens has no per-token terms
        return HeadOutput(self.linear(self.prelogits(inp)) + self.bias(), None, None)


def window_mean(x_WTD: Tensor, valid_WT: Tensor) -> Tensor:
    """Mean over the valid tokens of each window, (W, D)."""
    valid_WT1 = valid_WT[..., None].to(x_WTD.dtype)
    return (x_WTD * valid_WT1).sum(1) / valid_WT1.sum(1).clamp_min(1.0)


def case_softmax(scores_WTH: Tensor, valid_WT: Tensor, case_W: Tensor, n_cases: int) -> Tensor:
    """Softmax over all valid tokens of a case, whatever images and windows they lie in."""
    scores_WTH = scores_WTH.masked_fill(~valid_WT[..., None], -torch.inf)
    with torch.no_grad():
        high_WH = scores_WTH.amax(1)
        high_BH = high_WH.new_full((n_cases, high_WH.shape[1]), -torch.inf)
        high_BH.scatter_reduce_(0, case_W[:, None].expand_as(high_WH), high_WH, "amax")
    exp_WTH = (scores_WTH - high_BH[case_W][:, None]).exp()
    total_BH = exp_WTH.new_zeros(high_BH.shape).index_add(0, case_W, exp_WTH.sum(1))
    return exp_WTH / total_BH[case_W][:, None]


def build_head(cfg: AtlasConfig) -> LocalEvidenceHead | ReferenceHead:
    """The head that `cfg` names."""
    return LocalEvidenceHead(cfg) if cfg.head == "local_evidence" else ReferenceHead(cfg)
