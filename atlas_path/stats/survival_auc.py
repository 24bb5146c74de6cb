"""Risk at a time: cumulative/dynamic AUC and Brier score with inverse-censoring weights.

Sources: Uno et al., JASA 2007;102:527; Hung and Chiang, Canadian Journal of Statistics 2010;38:8 (AUC);
Graf et al., Statistics in Medicine 1999;18:2529 (Brier score). A case has had its event by time t, a control
is still followed and event-free after t; who was censored before t counts through the weights only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from atlas_path.stats import bootstrap
from atlas_path.stats.intervals import LEVEL, Estimate, Floats, clusters, unknown
from atlas_path.stats.ranking import Bools, divide
from atlas_path.stats.survival import censoring_weights, checked_times


def dynamic_auc(time: Floats, event: Bools, risk: Floats, horizon: float, weight_bn: Floats) -> Floats:
    """AUC at the horizon for every resample, (B,)."""
    weights = censoring_weights(time, event, weight_bn).before_own_time()
    case = weight_bn * ((time <= horizon) & event) * np.nan_to_num(divide(np.ones(1), weights))
    control = weight_bn * (time > horizon)
    order = np.argsort(risk, kind="stable")
    ranked = risk[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    case_g = np.add.reduceat(case[:, order], starts, axis=1)
    control_g = np.add.reduceat(control[:, order], starts, axis=1)
    below = np.cumsum(control_g, 1) - control_g
    return divide((case_g * (below + control_g / 2)).sum(1), case.sum(1) * control.sum(1))


def dynamic_auc_estimate(
    times: ArrayLike, events: ArrayLike, risks: ArrayLike, horizon: float, patients: ArrayLike,
    n_resamples: int = 500, seed: int = 0, level: float = LEVEL,
) -> Estimate:  # fmt: skip
    """AUC at the horizon with a patient-bootstrap interval; unknown without cases or controls."""
    time, event = checked_times(times, events)
    risk = np.asarray(risks, dtype=np.float64)
    cluster, n_patients = clusters(patients)
    case, control = event & (time <= horizon), time > horizon
    n_min = min(len(np.unique(cluster[case])), len(np.unique(cluster[control])))
    if n_min < 2:
        return unknown(
            time.size, n_patients, f"fewer than two patients with, or without, an event by {horizon:g}"
        )
    found = bootstrap.estimate(
        lambda weight: dynamic_auc(time, event, risk, horizon, weight),
        cluster, n_resamples, seed, level, "logit", n_min - 1,
    )  # fmt: skip
    if found.value in (0.0, 1.0):
        return Estimate(
            found.value, float("nan"), float("nan"), found.n, found.n_patients, "no interval", level
        )
    return found


def brier_at(time: Floats, event: Bools, risk_at: Floats, horizon: float, weight_bn: Floats) -> Floats:
    """IPCW Brier score of the predicted risk of an event by the horizon, for every resample (B,)."""
    weights = censoring_weights(time, event, weight_bn)
    had = (time <= horizon) & event
    free = time > horizon
    own = np.nan_to_num(divide(np.ones(1), weights.before_own_time()))
    at = np.nan_to_num(divide(np.ones(1), weights.at(horizon)))[:, None]
    loss = had * (1 - risk_at) ** 2 * own + free * risk_at**2 * at
    return np.asarray((weight_bn * loss).sum(1) / weight_bn.sum(1))


def brier_estimate(
    times: ArrayLike, events: ArrayLike, risk_at: ArrayLike, horizon: float, patients: ArrayLike,
    n_resamples: int = 500, seed: int = 0, level: float = LEVEL,
) -> Estimate:  # fmt: skip
    """IPCW Brier score at the horizon with a BCa patient-bootstrap interval."""
    time, event = checked_times(times, events)
    risk = np.asarray(risk_at, dtype=np.float64)
    return bootstrap.estimate(
        lambda weight: brier_at(time, event, risk, horizon, weight), patients, n_resamples, seed, level, "bca"
    )


def integrated_brier(
    times: ArrayLike, events: ArrayLike, risk_nt: ArrayLike, horizons: Sequence[float], patients: ArrayLike,
    n_resamples: int = 500, seed: int = 0, level: float = LEVEL,
) -> Estimate:  # fmt: skip
    """Brier score averaged over time (trapezoids between the horizons), `risk_nt` (n, horizons)."""
    time, event = checked_times(times, events)
    risk, when = np.asarray(risk_nt, dtype=np.float64), np.asarray(horizons, dtype=np.float64)
    _, n_patients = clusters(patients)
    if when.size < 2:
        return unknown(time.size, n_patients, "an average over time needs two horizons")

    def statistic(weight: Floats) -> Floats:
        each = np.stack([brier_at(time, event, risk[:, k], float(t), weight) for k, t in enumerate(when)], 1)
        return np.asarray(np.trapezoid(each, when, axis=1) / (when[-1] - when[0]))

    return bootstrap.estimate(statistic, patients, n_resamples, seed, level, "bca")
