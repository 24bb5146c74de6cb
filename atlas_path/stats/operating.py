"""What happens at a threshold: confusion, sensitivity, specificity, predictive values, recall rate.

A case is called positive when its score is at or above the threshold. Thresholds are chosen on tuning rows
only (`choose`) and then frozen with a hash; nothing here can choose one on the rows it is judged on.
Sources: Altman and Bland, BMJ 1994;309:102 (predictive values at another prevalence); Youden, Cancer
1950;3:32.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from atlas_path.stats import bootstrap
from atlas_path.stats.intervals import LEVEL, Estimate, Floats, clusters, proportion, unknown
from atlas_path.stats.ranking import Bools, checked, curve


@dataclass(frozen=True)
class AtThreshold:
    """Everything about one operating point on one set of rows; counts are rows (cases)."""

    threshold: float
    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    recall_rate: Estimate
    accuracy: Estimate
    balanced_accuracy: Estimate


def at_threshold(
    labels: ArrayLike, scores: ArrayLike, patients: ArrayLike, threshold: float, level: float = LEVEL
) -> AtThreshold:
    """Counts and rates at 'score >= threshold', each with a Wilson (or patient-clustered Wilson) interval."""
    label, score = checked(labels, scores)
    patient = np.asarray(patients)
    called = score >= threshold

    def share(of: Bools, hit: Bools) -> Estimate:
        return proportion(hit[of], patient[of], level)

    sensitivity, specificity = share(label, called), share(~label, ~called)
    return AtThreshold(
        threshold=float(threshold),
        true_positive=int((called & label).sum()),
        false_positive=int((called & ~label).sum()),
        true_negative=int((~called & ~label).sum()),
        false_negative=int((~called & label).sum()),
        sensitivity=sensitivity,
        specificity=specificity,
        ppv=share(called, label),
        npv=share(~called, ~label),
        recall_rate=proportion(called, patient, level),
        accuracy=proportion(called == label, patient, level),
        balanced_accuracy=_balanced(label, called, patient, level),
    )


def _balanced(label: Bools, called: Bools, patient: Any, level: float) -> Estimate:
    if label.all() or not label.any():
        return unknown(label.size, len(np.unique(patient)), "balanced accuracy needs both classes")

    def statistic(weight: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            true_positive = weight[:, label & called].sum(1) / weight[:, label].sum(1)
            true_negative = weight[:, ~label & ~called].sum(1) / weight[:, ~label].sum(1)
        return np.asarray((true_positive + true_negative) / 2)

    found = bootstrap.estimate(statistic, patient, 1000, 0, level, "logit")
    if found.value in (0.0, 1.0):
        return Estimate(
            found.value, float("nan"), float("nan"), found.n, found.n_patients, "no interval", level
        )
    return found


def predictive_values(
    sensitivity: Estimate, specificity: Estimate, prevalence: float
) -> tuple[Estimate, Estimate]:
    """PPV and NPV at another prevalence by Bayes' rule; bounds from those of both rates (conservative).

    Raises:
        ValueError: prevalence outside (0, 1).
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"a prevalence lies between 0 and 1, got {prevalence}")

    def ppv(se: float, sp: float) -> float:
        called = se * prevalence + (1 - sp) * (1 - prevalence)
        return se * prevalence / called if called > 0 else float("nan")

    def npv(se: float, sp: float) -> float:
        cleared = (1 - se) * prevalence + sp * (1 - prevalence)
        return sp * (1 - prevalence) / cleared if cleared > 0 else float("nan")

    method = f"Bayes' rule at prevalence {prevalence:g}"

    def both(rule: Any) -> Estimate:
        low, high = rule(sensitivity.low, specificity.low), rule(sensitivity.high, specificity.high)
        n, n_patients = sensitivity.n + specificity.n, sensitivity.n_patients + specificity.n_patients
        return Estimate(rule(sensitivity.value, specificity.value), low, high, n, n_patients, method)

    return both(ppv), both(npv)


RULES = ("youden", "sens", "spec")


def choose(labels: ArrayLike, scores: ArrayLike, rule: str) -> float:
    """A threshold from tuning rows: 'youden', 'sens:0.95' (the strictest that reaches it) or 'spec:0.9'.

    Cuts lie half-way between neighbouring scores.

    Raises:
        ValueError: an unknown rule, a target outside (0, 1], or one class only.
    """
    kind, _, text = rule.partition(":")
    if kind not in RULES or (kind == "youden") != (text == ""):
        raise ValueError(f"unknown rule {rule!r}: use youden, sens:0.95 or spec:0.9")
    points = curve(labels, scores)
    usable = np.isfinite(points.threshold)
    score, sens, spec = points.threshold[usable], points.sensitivity[usable], points.specificity[usable]
    threshold = np.append((score[:-1] + score[1:]) / 2, score[-1])  # half-way to the next lower score
    if kind == "youden":
        return float(threshold[int(np.argmax(sens + spec))])
    target = float(text)
    if not 0 < target <= 1:
        raise ValueError(f"the target of {rule!r} lies outside (0, 1]")
    if kind == "sens":  # sensitivity grows along the curve: the first point that reaches it is the strictest
        return float(threshold[int(np.argmax(sens >= target))])
    reached = np.flatnonzero(spec >= target)
    return float(threshold[reached[-1]]) if reached.size else float(np.nextafter(score[0], np.inf))


def rate_at(
    labels: ArrayLike, scores: ArrayLike, patients: ArrayLike, fixed: str, target: float,
    n_resamples: int = 1000, seed: int = 0, level: float = LEVEL,
) -> Estimate:  # fmt: skip
    """Sensitivity at a fixed specificity ('spec') or the reverse ('sens'), read off these rows' ROC curve.

    A description of the curve, not an operating point: its threshold is re-found in every patient resample.
    """
    label, score = checked(labels, scores)
    _, n_patients = clusters(patients)
    if label.all() or not label.any():
        return unknown(label.size, n_patients, "needs both classes")
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.concatenate((score[order][1:] != score[order][:-1], [True])))
    positive = label[order]

    def statistic(weight: Floats) -> Floats:
        ordered = weight[:, order]
        true_positive = np.cumsum(ordered * positive, 1)[:, last]
        false_positive = np.cumsum(ordered * ~positive, 1)[:, last]
        with np.errstate(invalid="ignore", divide="ignore"):
            sens = true_positive / true_positive[:, -1:]
            spec = 1 - false_positive / false_positive[:, -1:]
        if fixed == "spec":
            best = np.where(spec >= target - 1e-12, sens, 0.0).max(1)
        else:
            best = np.where(sens >= target - 1e-12, spec, 0.0).max(1)
        return np.asarray(np.where(np.isfinite(sens[:, -1] + spec[:, -1]), best, np.nan))

    found = bootstrap.estimate(statistic, patients, n_resamples, seed, level, "logit")
    if found.value in (0.0, 1.0):
        side = label if fixed == "spec" else ~label
        bounds = proportion(np.full(int(side.sum()), bool(found.value)), np.asarray(patients)[side], level)
        return Estimate(found.value, bounds.low, bounds.high, found.n, found.n_patients, bounds.method, level)
    return found


def point_hash(point: dict[str, Any]) -> str:
    """SHA-256 of an operating point without its own `sha256`: shows that it was not edited after freezing."""
    body = {key: value for key, value in point.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
