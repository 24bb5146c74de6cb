"""Decision curve: is acting on the model better than acting on everyone or on no one?

Source: Vickers and Elkin, Medical Decision Making 2006;26:565. Net benefit at threshold probability t is
(true positives - false positives * t / (1 - t)) / n: false positives are charged at the odds the decision
maker accepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from atlas_path.stats.bootstrap import replicate
from atlas_path.stats.calibration import checked_probabilities
from atlas_path.stats.intervals import LEVEL, Floats, percentile_bounds

DEFAULT_THRESHOLDS = np.round(np.arange(0.01, 1.0, 0.01), 2)


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit per case at each threshold probability, all (thresholds,); treat-none is 0 everywhere."""

    threshold: Floats
    model: Floats
    low: Floats
    high: Floats
    treat_all: Floats

    @property
    def useful(self) -> np.ndarray:
        """Thresholds at which the model beats both treating all and treating none."""
        return np.asarray(self.model > np.maximum(self.treat_all, 0))


def net_benefit(
    labels: ArrayLike, probabilities: ArrayLike, thresholds: ArrayLike, weight_bn: Floats
) -> Floats:
    """Net benefit of every resample at every threshold, (B, thresholds)."""
    label, prob = checked_probabilities(labels, probabilities)
    threshold = np.asarray(thresholds, dtype=np.float64)
    called = prob[:, None] >= threshold[None, :]
    odds = threshold / (1 - threshold)
    gain_nt = np.where(label[:, None], 1.0, -odds[None, :]) * called
    return np.asarray(weight_bn @ gain_nt / weight_bn.sum(1, keepdims=True))


def decision_curve(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: ArrayLike,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    n_resamples: int = 500,
    seed: int = 0,
    level: float = LEVEL,
) -> DecisionCurve:
    """Net benefit with percentile intervals from patient resamples.

    Raises:
        ValueError: thresholds outside (0, 1), or labels and probabilities that cannot be used.
    """
    label, prob = checked_probabilities(labels, probabilities)
    threshold = np.asarray(thresholds, dtype=np.float64)
    if threshold.size == 0 or threshold.min() <= 0 or threshold.max() >= 1:
        raise ValueError("threshold probabilities lie strictly between 0 and 1")
    model = net_benefit(label, prob, threshold, np.ones((1, label.size)))[0]
    draws = replicate(lambda w: net_benefit(label, prob, threshold, w), patients, n_resamples, seed)
    bounds = np.array([percentile_bounds(draws[:, k], level) for k in range(threshold.size)])
    odds = threshold / (1 - threshold)
    treat_all = label.mean() - (1 - label.mean()) * odds
    return DecisionCurve(threshold, model, bounds[:, 0], bounds[:, 1], treat_all)
