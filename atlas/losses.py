"""Losses and probabilities of the six tasks.

| task | logits_BO | target | probabilities |
|---|---|---|---|
| binary | (B, 1), positive class | (B,) 0/1 or soft in [0, 1] | (B, 2) |
| multiclass | (B, classes) | (B,) class index, or (B, classes) soft | (B, classes) |
| multilabel | (B, labels) | (B, labels) 0/1 or soft | (B, labels) |
| ordinal | (B, classes - 1), P(y > c) | (B,) class index | (B, classes) |
| regression | (B, values) | (B,) or (B, values) | (B, values), the values |
| survival | (B, bins), hazards | (B, 2): time bin, event 0/1 | (B, bins), survival to the end of a bin |

A missing label is NaN, a negative class index, or a False in `mask`; it costs nothing. All in at least
float32.

Shapes: B cases, O logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossOptions:
    """How a loss is weighed; see `task_loss`."""

    class_weight: Tensor | None = None
    label_smoothing: float = 0.0
    huber_delta: float | None = None


def task_loss(
    task: str, logits_BO: Tensor, target: Tensor, mask: Tensor | None = None, *,
    class_weight: Tensor | None = None, label_smoothing: float = 0.0, huber_delta: float | None = None,
) -> Tensor:  # fmt: skip
    """Mean loss over the labels that are there.

    Args:
        task: one of the tasks above.
        logits_BO: model output.
        target: as in the table above.
        mask: True where the label is known, (B,) or (multilabel, regression) (B, O).
        class_weight: multiclass and ordinal: (classes,); binary: (2,) for negative and positive; multilabel:
            (labels,) on the positives. A weighted mean divides by the sum of the weights used.
        label_smoothing: share of the target spread evenly (binary, multiclass, multilabel, ordinal).
        huber_delta: regression: Huber loss with this delta instead of squared error.

    Raises:
        ValueError: unknown task or a target that does not fit.
    """
    if task not in _TERMS:
        raise ValueError(f"task '{task}' is not one of {', '.join(_TERMS)}")
    logits_BO = logits_BO.to(torch.promote_types(logits_BO.dtype, torch.float32))
    target = target.to(logits_BO.device)
    terms, weight = _TERMS[task](logits_BO, target, LossOptions(class_weight, label_smoothing, huber_delta))
    known = _known(target, mask)
    if known.ndim > terms.ndim:
        known = known.all(1)
    known = known.view(len(terms), -1).expand_as(terms) if terms.ndim == 2 else known
    weight = torch.where(known, weight, 0.0)
    total = torch.where(known, terms, 0.0) * weight
    return total.sum() / weight.sum().clamp_min(torch.finfo(terms.dtype).tiny)


def probabilities(task: str, logits_BO: Tensor) -> Tensor:
    """What the logits say, see the table above; float32 or wider."""
    logits_BO = logits_BO.to(torch.promote_types(logits_BO.dtype, torch.float32))
    if task == "binary":
        positive = torch.sigmoid(logits_BO)
        return torch.cat([torch.sigmoid(-logits_BO), positive], 1)
    if task == "multiclass":
        return logits_BO.softmax(1)
    if task == "multilabel":
        return torch.sigmoid(logits_BO)
    if task == "ordinal":
        above = torch.sigmoid(logits_BO)
        edges = torch.cat([torch.ones_like(above[:, :1]), above, torch.zeros_like(above[:, :1])], 1)
        return (edges[:, :-1] - edges[:, 1:]).clamp_min(0.0)
    if task == "regression":
        return logits_BO
    if task == "survival":
        return torch.exp(torch.cumsum(F.logsigmoid(-logits_BO), 1))
    raise ValueError(f"task '{task}' is not one of {', '.join(_TERMS)}")


def survival_risk(logits_BO: Tensor) -> Tensor:
    """One number a case for ranking: minus the expected number of time bins survived, (B,)."""
    return -probabilities("survival", logits_BO).sum(1)


def _known(target: Tensor, mask: Tensor | None) -> Tensor:
    known = ~torch.isnan(target) if target.is_floating_point() else target >= 0
    if mask is not None:
        mask = mask.to(known.device, torch.bool)
        known = known & (mask.view(-1, 1) if mask.ndim < known.ndim else mask.view_as(known))
    return known


def _binary(logits: Tensor, target: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    y = _filled(target.view_as(logits), logits)
    terms = F.binary_cross_entropy_with_logits(logits, _smooth(y, options.label_smoothing), reduction="none")
    if options.class_weight is None:
        return terms, torch.ones_like(terms)
    weight = options.class_weight.to(logits)
    return terms, weight[0] * (1 - y) + weight[1] * y


def _multilabel(logits: Tensor, target: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    y = _filled(target, logits)
    terms = F.binary_cross_entropy_with_logits(logits, _smooth(y, options.label_smoothing), reduction="none")
    weight = (
        torch.ones_like(terms)
        if options.class_weight is None
        else 1 + y * (options.class_weight.to(logits) - 1)
    )
    return terms, weight


def _multiclass(logits: Tensor, target: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    n = logits.shape[1]
    if target.ndim == 1:
        if int(target.max()) >= n:
            raise ValueError(f"multiclass target {int(target.max())} with {n} classes")
        y = F.one_hot(torch.nan_to_num(target).long().clamp_min(0), n).to(logits)
    else:
        y = _filled(target, logits)
    weight = (
        torch.ones(len(logits), device=logits.device)
        if options.class_weight is None
        else y @ options.class_weight.to(logits)
    )
    y = y * (1 - options.label_smoothing) + options.label_smoothing / n
    return -(y * logits.log_softmax(1)).sum(1), weight.to(logits)


def _ordinal(logits: Tensor, target: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    n = logits.shape[1] + 1
    label = torch.nan_to_num(target).long().clamp(0, n - 1)
    above = (label[:, None] > torch.arange(n - 1, device=logits.device)).to(logits)
    terms = F.binary_cross_entropy_with_logits(
        logits, _smooth(above, options.label_smoothing), reduction="none"
    ).mean(1)
    return terms, torch.ones_like(terms) if options.class_weight is None else options.class_weight.to(logits)[
        label
    ]


def _regression(logits: Tensor, target: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    y = torch.nan_to_num(target.view_as(logits).to(logits.dtype))
    if options.huber_delta is None:
        terms = (logits - y) ** 2
    else:
        terms = F.huber_loss(logits, y, reduction="none", delta=options.huber_delta)
    return terms, torch.ones_like(terms)


def _survival(logits: Tensor, target: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of discrete hazards; censored in bin t = known to be alive at its end."""
    del options
    n = logits.shape[1]
    filled = torch.nan_to_num(target.to(logits.dtype))
    time_bin, event = filled[:, 0].long().clamp(0, n - 1), filled[:, 1]
    log_alive = F.logsigmoid(-logits)
    bins = torch.arange(n, device=logits.device)
    before = (log_alive * (bins < time_bin[:, None])).sum(1)
    at_bin = time_bin[:, None]
    log_hazard, log_survive = F.logsigmoid(logits).gather(1, at_bin)[:, 0], log_alive.gather(1, at_bin)[:, 0]
    terms = -(before + event * log_hazard + (1 - event) * log_survive)
    return terms, torch.ones_like(terms)


def _filled(target: Tensor, logits: Tensor) -> Tensor:
    """The target as floats; missing labels become 0 and are masked out by the caller."""
    return torch.nan_to_num(target.to(logits.dtype)).clamp_min(0.0)


def _smooth(y: Tensor, smoothing: float) -> Tensor:
    return y * (1 - smoothing) + smoothing / 2


_TERMS: dict[str, Callable[[Tensor, Tensor, LossOptions], tuple[Tensor, Tensor]]] = {
    "binary": _binary, "multiclass": _multiclass, "multilabel": _multilabel,
    "ordinal": _ordinal, "regression": _regression, "survival": _survival,
}  # fmt: skip
