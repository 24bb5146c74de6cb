"""Do probabilities mean what they say: calibration intercept and slope, O/E, Brier, ECE, reliability curve.

Sources: Cox, Biometrika 1958;45:562 (logistic recalibration); Van Calster et al., BMC Medicine 2019;17:230
(hierarchy of calibration); Brier, Monthly Weather Review 1950;78:1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from atlas_path.stats import bootstrap
from atlas_path.stats.intervals import LEVEL, Estimate, Floats, clusters, proportion, unknown
from atlas_path.stats.ranking import Bools, checked, divide

CLIP = 1e-6  # probabilities of exactly 0 and 1 have no logit; clipped for intercept and slope only
NEWTON_STEPS = 30


def checked_probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Bools, Floats]:
    """Like `ranking.checked`, and every probability lies in [0, 1].

    Raises:
        ValueError: as `ranking.checked`, or a probability outside [0, 1].
    """
    label, prob = checked(labels, probabilities)
    outside = int(((prob < 0) | (prob > 1)).sum())
    if outside:
        raise ValueError(f"{outside} of {prob.size} probabilities lie outside [0, 1]")
    return label, prob


def logit(probabilities: ArrayLike) -> Floats:
    """Log odds, with probabilities clipped to [1e-6, 1 - 1e-6]."""
    prob = np.clip(np.asarray(probabilities, dtype=np.float64), CLIP, 1 - CLIP)
    return np.asarray(np.log(prob / (1 - prob)))


def _sigmoid(value: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(value / 2)))


def fit_intercept(label: Bools, offset: Floats, weight_bn: Floats) -> Floats:
    """Intercept of a logistic model with the log odds as offset, for every resample, (B,)."""
    intercept = np.zeros(len(weight_bn))
    for _ in range(NEWTON_STEPS):
        mean = _sigmoid(intercept[:, None] + offset)
        gradient = (weight_bn * (label - mean)).sum(1)
        curvature = (weight_bn * mean * (1 - mean)).sum(1)
        step = np.clip(gradient / np.maximum(curvature, 1e-12), -2, 2)
        intercept += step
        if np.abs(step).max() < 1e-9:
            break
    events, total = (weight_bn * label).sum(1), weight_bn.sum(1)
    return np.asarray(np.where((events > 0) & (events < total), intercept, np.nan))


def fit_slope(label: Bools, log_odds: Floats, weight_bn: Floats) -> Floats:
    """Intercept and slope of a logistic model on the log odds, (B, 2); NaN where it does not converge."""
    a, b = np.zeros(len(weight_bn)), np.ones(len(weight_bn))
    step = np.full((2, len(weight_bn)), np.inf)
    for _ in range(NEWTON_STEPS):
        mean = _sigmoid(a[:, None] + b[:, None] * log_odds)
        residual, spread = weight_bn * (label - mean), weight_bn * mean * (1 - mean)
        g0, g1 = residual.sum(1), residual @ log_odds
        h00, h01, h11 = spread.sum(1), spread @ log_odds, spread @ log_odds**2
        det = np.maximum(h00 * h11 - h01**2, 1e-12)
        step = np.stack(((h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det))
        step = np.clip(step, -2, 2)
        a, b = a + step[0], b + step[1]
        if np.abs(step).max() < 1e-9:
            break
    settled = (np.abs(step).max(0) < 1e-4) & (np.abs(b) < 100)
    return np.stack((np.where(settled, a, np.nan), np.where(settled, b, np.nan)), 1)


@dataclass(frozen=True)
class Calibration:
    """Calibration of one set of probabilities; ideal: intercept 0, slope 1, O/E 1, Brier and ECE low."""

    intercept: Estimate
    slope: Estimate
    observed_expected: Estimate
    brier: Estimate
    brier_skill: Estimate
    ece: Estimate


def calibrate_estimates(
    labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike,
    n_resamples: int = 1000, seed: int = 0, level: float = LEVEL, n_bins: int = 10,
) -> Calibration:  # fmt: skip
    """All summary measures with patient-bootstrap intervals."""
    label, prob = checked_probabilities(labels, probabilities)
    cluster, n_patients = clusters(patients)
    log_odds = logit(prob)
    both = bool(label.any() and not label.all())

    def ratio(weight: Floats) -> Floats:
        expected = weight @ prob
        return divide(weight @ label, expected)

    def brier(weight: Floats) -> Floats:
        return np.asarray(weight @ (label - prob) ** 2 / weight.sum(1))

    def skill(weight: Floats) -> Floats:
        share = weight @ label / weight.sum(1)
        reference = share * (1 - share)
        return 1 - divide(brier(weight), reference)

    def make(statistic: Callable[[Floats], Floats], scale: str, needs_both: bool = True) -> Estimate:
        if needs_both and not both:
            return unknown(label.size, n_patients, "needs both classes")
        return bootstrap.estimate(statistic, cluster, n_resamples, seed, level, scale)

    slope = make(lambda w: fit_slope(label, log_odds, w)[:, 1], "bca")
    if both and not slope.known:
        slope = unknown(label.size, n_patients, "the classes separate completely: no finite slope")
    ece = make(lambda w: expected_calibration_error(label, prob, w, n_bins), "bca", needs_both=False)
    return Calibration(
        intercept=make(lambda w: fit_intercept(label, log_odds, w), "identity"),
        slope=slope,
        observed_expected=make(ratio, "log"),
        brier=make(brier, "bca", needs_both=False),
        brier_skill=make(skill, "bca"),
        ece=ece.with_note("biased upwards in small samples; its interval inherits that"),
    )


def equal_mass_bins(probabilities: Floats, n_bins: int) -> np.ndarray:
    """Bin of each row (n,): sorted by probability, cut in equal counts; ties stay together."""
    n = probabilities.size
    order = np.argsort(probabilities, kind="stable")
    ranked = probabilities[order]
    first_of_tie = np.searchsorted(ranked, ranked, side="left")
    bins = np.empty(n, dtype=np.int64)
    bins[order] = first_of_tie * min(n_bins, n) // n
    return np.unique(bins, return_inverse=True)[1].reshape(-1)


def expected_calibration_error(
    labels: Bools, probabilities: Floats, weight_bn: Floats | None = None, n_bins: int = 10
) -> Floats:
    """Mean |observed - predicted| over equal-mass bins, weighted by bin size, for every resample (B,)."""
    weight = np.ones((1, probabilities.size)) if weight_bn is None else weight_bn
    bins = equal_mass_bins(probabilities, n_bins)
    one_hot = (bins[:, None] == np.arange(bins.max() + 1)).astype(np.float64)
    gap = np.abs((weight * (labels - probabilities)) @ one_hot).sum(1)
    return np.asarray(gap / weight.sum(1))


@dataclass(frozen=True)
class ReliabilityPoint:
    """One bin of the reliability plot: mean predicted probability against the observed share."""

    predicted: float
    observed: Estimate
    n_events: int


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike, n_bins: int = 10, level: float = LEVEL
) -> list[ReliabilityPoint]:
    """Equal-mass bins with Wilson (clustered where patients repeat) intervals."""
    label, prob = checked_probabilities(labels, probabilities)
    patient = np.asarray(patients)
    bins = equal_mass_bins(prob, n_bins)
    return [
        ReliabilityPoint(
            float(prob[bins == b].mean()),
            proportion(label[bins == b], patient[bins == b], level),
            int(label[bins == b].sum()),
        )
        for b in range(int(bins.max()) + 1)
    ]
