"""Bootstrap over patients: whole patients are drawn, with all their rows.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993 (percentile and BCa intervals);
Field and Welsh, JRSS B 2007;69:369 (the cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from atlas_path.stats.intervals import LEVEL, Estimate, Floats, clusters, percentile_bounds, unknown

BATCH_CELLS = 4_000_000  # rows x resamples held at once: 32 MB
FEW_PATIENTS = 20
LEAST_PATIENTS = 10  # below, resampled patients repeat too often to show how others would differ

Statistic = Callable[[Floats], Floats]
"""(B, n) weights of the rows -> (B,) values, NaN where a resample does not allow it."""


def resamples(patients: ArrayLike, n_resamples: int, seed: int) -> Iterator[Floats]:
    """Row weights of patient resamples in batches (b, n): how often each row's patient was drawn."""
    cluster, n_patients = clusters(patients)
    batch = max(1, min(n_resamples, BATCH_CELLS // max(1, cluster.size)))
    random = np.random.default_rng(seed)
    share = np.full(n_patients, 1 / n_patients)
    for start in range(0, n_resamples, batch):
        drawn = random.multinomial(n_patients, share, size=min(batch, n_resamples - start))
        yield drawn[:, cluster].astype(np.float64)


def replicate(statistic: Statistic, patients: ArrayLike, n_resamples: int = 2000, seed: int = 0) -> Floats:
    """The statistic of every patient resample, (n_resamples,) or (n_resamples, k)."""
    return np.concatenate([statistic(weight) for weight in resamples(patients, n_resamples, seed)])


def leave_one_out(statistic: Statistic, patients: ArrayLike) -> Floats:
    """The statistic without each patient in turn, (n_patients,)."""
    cluster, n_patients = clusters(patients)
    batch = max(1, BATCH_CELLS // max(1, cluster.size))
    left = [
        statistic(
            (np.arange(start, min(start + batch, n_patients))[:, None] != cluster[None]).astype(np.float64)
        )
        for start in range(0, n_patients, batch)
    ]
    return np.concatenate(left)


def bca_bounds(
    value: float, replicates: Floats, jackknife: Floats, level: float = LEVEL
) -> tuple[float, float]:
    """Bias-corrected and accelerated interval; falls back on percentiles where it is not defined."""
    finite = replicates[np.isfinite(replicates)]
    kept = jackknife[np.isfinite(jackknife)]
    below = ((finite < value).sum() + (finite == value).sum() / 2) / max(1, finite.size)
    if finite.size < max(2, replicates.size // 2) or not 0 < below < 1 or kept.size < 3 or np.ptp(kept) == 0:
        return percentile_bounds(replicates, level)
    bias = stats.norm.ppf(below)
    centred = kept.mean() - kept
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    z = stats.norm.ppf([(1 - level) / 2, 0.5 + level / 2])
    shares = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
    low, high = np.quantile(finite, shares)
    return float(low), float(high)


def student_bounds(
    value: float, replicates: Floats, df: float, scale: str = "identity", level: float = LEVEL
) -> tuple[float, float]:
    """Interval from the bootstrap standard error and Student's quantile, on a fitting scale.

    Percentiles of few patients are too narrow; with `df` = patients of the rarer kind - 1 this keeps its
    level (see the simulations in the tests). `scale`: 'logit' for numbers in (0, 1), 'log' for positive ones.
    """
    finite = replicates[np.isfinite(replicates)]
    if finite.size < max(2, replicates.size // 2) or df < 1:
        return float("nan"), float("nan")
    half = float(stats.t.ppf(0.5 + level / 2, df)) * float(finite.std(ddof=1))
    if scale == "logit" and 0 < value < 1:
        centre, step = np.log(value / (1 - value)), half / (value * (1 - value))
        return float(1 / (1 + np.exp(step - centre))), float(1 / (1 + np.exp(-step - centre)))
    if scale == "log" and value > 0:
        return float(value * np.exp(-half / value)), float(value * np.exp(half / value))
    return value - half, value + half


def estimate(
    statistic: Statistic,
    patients: ArrayLike,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
    scale: str = "identity",
    df: float | None = None,
) -> Estimate:
    """A statistic with its patient-bootstrap interval.

    `scale` is 'identity', 'log', 'logit' (see `student_bounds`) or 'bca'. `df` defaults to patients - 1.
    """
    cluster, n_patients = clusters(patients)
    value = float(statistic(np.ones((1, cluster.size)))[0])
    if not np.isfinite(value):
        return unknown(cluster.size, n_patients, "the statistic is not defined on these rows")
    if n_patients < LEAST_PATIENTS:
        nan, why = float("nan"), f"{n_patients} patients are too few for an interval"
        return Estimate(value, nan, nan, cluster.size, n_patients, "no interval", level, why)
    replicates = replicate(statistic, patients, n_resamples, seed)
    freedom = n_patients - 1 if df is None else df
    if scale == "bca":
        low, high = bca_bounds(value, replicates, leave_one_out(statistic, patients), level)
    else:
        low, high = student_bounds(value, replicates, freedom, scale, level)
    method = f"patient bootstrap ({n_resamples} resamples), {SCALES[scale]}"
    return Estimate(
        value, low, high, cluster.size, n_patients, method, level, bootstrap_note(replicates, n_patients)
    )


SCALES = {
    "bca": "BCa",
    "identity": "t interval",
    "log": "t interval on the log scale",
    "logit": "t interval on the logit scale",
}


def bootstrap_note(replicates: Floats, n_patients: int) -> str:
    """What a reader must know about a bootstrap interval; empty when nothing."""
    n_lost = int((~np.isfinite(replicates)).sum())
    notes = [f"{n_lost} resamples did not allow the statistic and were left out"] if n_lost else []
    if n_patients < FEW_PATIENTS:
        notes.append(f"only {n_patients} patients: the interval is approximate")
    return "; ".join(notes)
