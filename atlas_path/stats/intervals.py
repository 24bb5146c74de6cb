"""Estimates with their intervals, and intervals of proportions when patients contribute several rows.

Sources: Wilson, JASA 1927;22:209; Korn and Graubard, Survey Methodology 1998;24:193 (effective sample size);
Newcombe, Statistics in Medicine 2006;25:559 (AUROC interval that survives perfect separation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number, its interval at `level`, the rows (`n`) and patients behind it, and how it was computed.

    `low` and `high` are NaN where no interval can be given; `note` says why, or what a reader must know.
    """

    value: float
    low: float
    high: float
    n: int
    n_patients: int
    method: str
    level: float = LEVEL
    note: str = ""

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.value))

    def with_note(self, note: str) -> Estimate:
        return replace(self, note="; ".join(part for part in (self.note, note) if part))


def unknown(n: int, n_patients: int, why: str) -> Estimate:
    """An estimate that could not be made, with the reason."""
    nan = float("nan")
    return Estimate(nan, nan, nan, n, n_patients, "not computed", note=why)


def z_value(level: float = LEVEL) -> float:
    """The two-sided normal quantile, 1.96 at 95 %."""
    return float(stats.norm.ppf(0.5 + level / 2))


def wilson(
    successes: float, n: float, level: float = LEVEL, quantile: float | None = None
) -> tuple[float, float]:
    """Wilson score interval of a proportion; `n` may be an effective (fractional) sample size.

    Raises:
        ValueError: when n is not positive or successes lies outside [0, n].
    """
    if n <= 0 or successes < 0 or successes > n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    z = z_value(level) if quantile is None else quantile
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return max(0.0, low), min(1.0, high)


def proportion(hits: ArrayLike, patients: ArrayLike, level: float = LEVEL) -> Estimate:
    """Share of True in `hits` (n,) with an interval that respects rows of one patient belonging together.

    One row a patient: Wilson. Several: the between-patient variance of the ratio estimator gives a design
    effect (never below 1), and Wilson's interval is computed at the effective sample size with Student's
    quantile for the number of patients. When all rows agree, rows of one patient count as fully correlated.
    """
    hit = np.asarray(hits, dtype=np.float64)
    if hit.size == 0:
        return unknown(0, 0, "no rows")
    _, cluster = np.unique(np.asarray(patients), return_inverse=True)
    n, n_patients = hit.size, int(cluster.max()) + 1
    value = float(hit.mean())
    if n_patients == n:
        low, high = wilson(float(hit.sum()), n, level)
        return Estimate(value, low, high, n, n_patients, "Wilson", level)
    rows_k = np.bincount(cluster).astype(np.float64)
    effective = n**2 / float((rows_k**2).sum())
    if n_patients < 2:
        low, high = wilson(value, 1.0, level)
        return Estimate(value, low, high, n, 1, "Wilson, one patient counted once", level)
    if 0 < value < 1:
        residual_k = np.bincount(cluster, weights=hit) - value * rows_k
        variance = n_patients / (n_patients - 1) * float((residual_k**2).sum()) / n**2
        effective = min(float(n), value * (1 - value) / variance) if variance > 0 else float(n)
        effective = max(effective, 1.0)
    quantile = float(stats.t.ppf(0.5 + level / 2, n_patients - 1))
    low, high = wilson(value * effective, effective, level, quantile)
    return Estimate(value, low, high, n, n_patients, "Wilson at the patient-clustered effective size", level)


def logit_normal(value: float, standard_error: float, level: float = LEVEL) -> tuple[float, float]:
    """Normal interval on the logit scale of a number inside (0, 1): never leaves [0, 1]."""
    centre = np.log(value / (1 - value))
    half = z_value(level) * standard_error / (value * (1 - value))
    return float(1 / (1 + np.exp(-(centre - half)))), float(1 / (1 + np.exp(-(centre + half))))


def newcombe_auroc(
    value: float, n_positive: float, n_negative: float, level: float = LEVEL
) -> tuple[float, float]:
    """Newcombe's method 5: the AUROCs that a score-type test at `value` does not reject.

    Uses the Hanley-McNeil variance at the hypothesised AUROC, so that it stays meaningful when the classes
    are perfectly separated and DeLong's variance is zero.
    """
    z, half_n = z_value(level), (n_positive + n_negative) / 2 - 1

    def gap(theta: float) -> float:
        spread = 1 + half_n * (1 - theta) / (2 - theta) + half_n * theta / (1 + theta)
        variance = theta * (1 - theta) * spread / (n_positive * n_negative)
        return abs(value - theta) - z * float(np.sqrt(variance))

    edge, inner = 1e-12, min(max(value, 1e-9), 1 - 1e-9)  # at exactly 0 and 1 the gap itself is a root
    low = float(optimize.brentq(gap, edge, inner)) if value > edge and gap(edge) > 0 else 0.0
    high = float(optimize.brentq(gap, inner, 1 - edge)) if value < 1 - edge and gap(1 - edge) > 0 else 1.0
    return low, high


def percentile_bounds(replicates: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """The central `level` share of finite bootstrap replicates; NaN when fewer than half are finite."""
    values = np.asarray(replicates, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if finite.size < max(2, values.size // 2):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, 0.5 + level / 2])
    return float(low), float(high)


def clusters(patients: Sequence[Any] | ArrayLike) -> tuple[NDArray[np.int64], int]:
    """Patient index of each row, 0..n_patients-1, and the number of patients."""
    _, index = np.unique(np.asarray(patients), return_inverse=True)
    return index.astype(np.int64).reshape(-1), int(index.max()) + 1 if index.size else 0
