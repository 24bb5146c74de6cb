"""DeLong's variance of the AUROC, its extension to patients with several rows, and the paired test.

Sources: DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837; Sun and Xu, IEEE Signal Processing Letters
2014;21:1389 (midranks); Obuchowski, Biometrics 1997;53:567 (clustered data).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from atlas_path.stats.intervals import LEVEL, Floats, clusters, logit_normal, newcombe_auroc, z_value
from atlas_path.stats.ranking import checked


@dataclass(frozen=True)
class Placements:
    """How each row places among the other class, for K scores of the same rows.

    `above_kn` (K, n): for a positive, the share of negatives it beats; for a negative, the share of positives
    that beat it. The mean over either class is the AUROC.
    """

    above_kn: Floats
    positive_n: np.ndarray
    auroc_k: Floats


def placements(labels: ArrayLike, *scores: ArrayLike) -> Placements:
    """Placement values of one or more scores.

    Raises:
        ValueError: when one class is missing.
    """
    above, areas = [], []
    positive = np.zeros(0, dtype=bool)
    for score in scores:
        positive, value = checked(labels, score)
        if positive.all() or not positive.any():
            raise ValueError("the AUROC needs both classes")
        rank_all = stats.rankdata(value)
        share = np.empty(value.size)
        share[positive] = (rank_all[positive] - stats.rankdata(value[positive])) / (~positive).sum()
        share[~positive] = 1 - (rank_all[~positive] - stats.rankdata(value[~positive])) / positive.sum()
        above.append(share)
        areas.append(share[positive].mean())
    return Placements(np.array(above), positive, np.array(areas))


def covariance(placed: Placements, patients: ArrayLike | None = None) -> Floats:
    """Covariance (K, K) of the AUROCs: DeLong, or Obuchowski's when `patients` (n,) group the rows.

    Raises:
        ValueError: fewer than two positives, negatives, or patients holding either.
    """
    residual = placed.above_kn - placed.auroc_k[:, None]
    positive = placed.positive_n
    if patients is None:
        if positive.sum() < 2 or (~positive).sum() < 2:
            raise ValueError("DeLong's variance needs two rows of each class")
        parts = [np.cov(residual[:, side]) / side.sum() for side in (positive, ~positive)]
        return np.atleast_2d(parts[0] + parts[1])
    cluster, n_patients = clusters(patients)
    n_with = [len(np.unique(cluster[side])) for side in (positive, ~positive)]
    if min(n_with) < 2:
        raise ValueError("the clustered variance needs two patients of each class")
    sums = [
        np.stack([np.bincount(cluster, weights=row * side, minlength=n_patients) for row in residual])
        / side.sum()
        for side in (positive, ~positive)
    ]
    within = sum(n / (n - 1) * side @ side.T for n, side in zip(n_with, sums, strict=True))
    cross = n_patients / (n_patients - 1) * sums[0] @ sums[1].T
    return np.asarray(within + cross + cross.T)


def interval(
    auroc: float,
    variance: float,
    n_positive: int,
    n_negative: int,
    level: float = LEVEL,
    scale: str = "logit",
) -> tuple[float, float, str]:
    """Interval of an AUROC from its variance, and the name of the method.

    `scale` 'logit' keeps the bounds inside [0, 1] and uses Student's quantile for the rarer class, so that
    its coverage holds with few positives; 'plain' is the textbook interval of most packages, clipped.
    A zero variance (perfect separation) falls back on Newcombe's method 5.
    """
    if variance <= 0 or not 0 < auroc < 1:
        low, high = newcombe_auroc(auroc, n_positive, n_negative, level)
        return low, high, "Newcombe method 5 (the classes separate perfectly)"
    error = float(np.sqrt(variance))
    if scale == "plain":
        half = z_value(level) * error
        return max(0.0, auroc - half), min(1.0, auroc + half), "DeLong"
    quantile = float(stats.t.ppf(0.5 + level / 2, max(1, min(n_positive, n_negative) - 1)))
    low, high = logit_normal(auroc, error * quantile / z_value(level), level)
    return low, high, "DeLong, t interval on the logit scale"


@dataclass(frozen=True)
class PairedTest:
    """Difference of two AUROCs on the same rows (`first - second`), its interval and two-sided p value."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    z: float
    p: float
    method: str


def paired_test(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    patients: ArrayLike | None = None,
    level: float = LEVEL,
) -> PairedTest:
    """DeLong's test of two correlated AUROCs; with `patients`, the variance respects the grouping of rows."""
    placed = placements(labels, first, second)
    cov = covariance(placed, patients)
    variance = float(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    difference = float(placed.auroc_k[0] - placed.auroc_k[1])
    method = "paired DeLong" if patients is None else "paired DeLong, clustered by patient (Obuchowski)"
    if variance <= 1e-15:
        same = abs(difference) < 1e-12
        return PairedTest(
            float(placed.auroc_k[0]), float(placed.auroc_k[1]), difference,
            difference if same else float("nan"), difference if same else float("nan"),
            0.0 if same else float("nan"), 1.0 if same else float("nan"),
            method + (" (both rank all pairs alike)" if same else " (no variance: no test)"),
        )  # fmt: skip
    error = float(np.sqrt(variance))
    z = difference / error
    half = z_value(level) * error
    p = float(2 * stats.norm.sf(abs(z)))
    return PairedTest(
        float(placed.auroc_k[0]),
        float(placed.auroc_k[1]),
        difference,
        difference - half,
        difference + half,
        z,
        p,
        method,
    )
