"""Precision-based sample size for evaluating a model: how many cases a wanted interval needs.

Sources: Riley et al., Statistics in Medicine 2021;40:4230 and BMJ 2024;384:e074821 (O/E, slope, C-statistic
through Newcombe's variance); Buderer, Academic Emergency Medicine 1996;3:895 (sensitivity and specificity).
All are closed forms for independent cases; with several cases a patient more are needed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from atlas_path.stats.calibration import logit
from atlas_path.stats.intervals import LEVEL, z_value


def auroc_standard_error(auroc: float, prevalence: float, n: int) -> float:
    """Standard error of an AUROC from its value and the class counts (Newcombe 2006, as in Riley 2021)."""
    half = n / 2 - 1
    spread = 1 + half * (1 - auroc) / (2 - auroc) + half * auroc / (1 + auroc)
    return math.sqrt(auroc * (1 - auroc) * spread / (n**2 * prevalence * (1 - prevalence)))


def n_for_auroc(auroc: float, prevalence: float, half_width: float, level: float = LEVEL) -> int:
    """Cases for an AUROC interval of +- `half_width`."""
    target = half_width / z_value(level)
    low, high = 4, 8
    while auroc_standard_error(auroc, prevalence, high) > target:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if auroc_standard_error(auroc, prevalence, middle) > target else (low, middle)
        )
    return high


def n_for_observed_expected(prevalence: float, standard_error: float) -> int:
    """Cases for a standard error of ln(O/E), when O/E is 1."""
    return math.ceil((1 - prevalence) / (prevalence * standard_error**2))


def n_for_slope(probabilities: ArrayLike, standard_error: float) -> int:
    """Cases for a standard error of the calibration slope, when the model is calibrated.

    The information is averaged over the predicted probabilities at hand.
    """
    log_odds = logit(probabilities)
    prob = np.asarray(probabilities, dtype=np.float64)
    spread = prob * (1 - prob)
    i_a, i_ab, i_b = (
        float(spread.mean()),
        float((spread * log_odds).mean()),
        float((spread * log_odds**2).mean()),
    )
    return math.ceil(i_a / (standard_error**2 * (i_a * i_b - i_ab**2)))


def n_for_proportion(proportion: float, share: float, half_width: float, level: float = LEVEL) -> int:
    """Cases for a proportion of +- `half_width`; `share` of the cases count (sensitivity: prevalence)."""
    return math.ceil(z_value(level) ** 2 * proportion * (1 - proportion) / half_width**2 / share)
