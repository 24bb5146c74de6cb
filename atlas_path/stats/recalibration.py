"""Recalibration fitted on tuning rows and applied elsewhere: Platt, temperature, isotonic.

Sources: Platt 1999 (logistic on the log odds); Guo et al., ICML 2017 (temperature); Zadrozny and Elkan, KDD
2002 (isotonic).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from atlas_path.stats.calibration import checked_probabilities, fit_slope, logit
from atlas_path.stats.intervals import Floats

METHODS = ("platt", "temperature", "isotonic")


@dataclass(frozen=True)
class Recalibrator:
    """A fitted map of probabilities to probabilities, with its parameters for the record."""

    method: str
    n_fit: int
    parameters: dict[str, float]
    apply: Callable[[ArrayLike], Floats]


def fit(labels: ArrayLike, probabilities: ArrayLike, method: str) -> Recalibrator:
    """Fit on tuning rows.

    Raises:
        ValueError: unknown method, one class only, or classes that separate completely (no finite slope).
    """
    label, prob = checked_probabilities(labels, probabilities)
    if method not in METHODS:
        raise ValueError(f"unknown recalibration {method!r}: use {', '.join(METHODS)}")
    if label.all() or not label.any():
        raise ValueError("recalibration needs both classes in the tuning rows")
    if method == "isotonic":
        return _isotonic(label, prob)
    if method == "temperature":
        scale = _best_scale(label, logit(prob))
        return _logistic(method, label.size, 0.0, scale)
    intercept, slope = fit_slope(label, logit(prob), np.ones((1, label.size)))[0]
    if not np.isfinite(slope):
        raise ValueError("the tuning classes separate completely: a slope has no finite value")
    return _logistic(method, label.size, float(intercept), float(slope))


def _logistic(method: str, n_fit: int, intercept: float, slope: float) -> Recalibrator:
    def apply(probabilities: ArrayLike) -> Floats:
        return np.asarray(0.5 * (1 + np.tanh((intercept + slope * logit(probabilities)) / 2)))

    return Recalibrator(method, n_fit, {"intercept": intercept, "slope": slope}, apply)


def _best_scale(label: np.ndarray, log_odds: Floats) -> float:
    def loss(log_scale: float) -> float:
        scaled = np.exp(log_scale) * log_odds
        return float(np.mean(np.logaddexp(0, scaled) - label * scaled))

    found = optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded")
    return float(np.exp(found.x))


def _isotonic(label: np.ndarray, prob: Floats) -> Recalibrator:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(prob, label.astype(float))
    steps = float(np.unique(model.y_thresholds_).size)
    return Recalibrator(
        "isotonic", label.size, {"steps": steps}, lambda p: np.asarray(model.predict(np.asarray(p)))
    )
