"""Time to an event with censoring: Kaplan-Meier, the censoring weights, and Harrell's and Uno's C.

Sources: Kaplan and Meier, JASA 1958;53:457; Greenwood 1926; Harrell et al., JAMA 1982;247:2543; Uno et al.,
Statistics in Medicine 2011;30:1105. At a tied time events happen before censorings, so a pair of an event and
a censoring at one time is comparable. Higher risk should mean earlier events; tied risks count one half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from atlas_path.stats import bootstrap
from atlas_path.stats.intervals import LEVEL, Estimate, Floats, clusters, unknown, z_value
from atlas_path.stats.ranking import Bools, divide

PAIR_ROWS = 1024  # rows of the n x n pair matrix held at once


def checked_times(times: ArrayLike, events: ArrayLike) -> tuple[Floats, Bools]:
    """Follow-up times and event flags.

    Raises:
        ValueError: negative or missing times, events that are neither 0 nor 1, or lengths that differ.
    """
    time, event = np.asarray(times, dtype=np.float64), np.asarray(events)
    if time.shape != event.shape or time.ndim != 1:
        raise ValueError(
            f"times and events must be vectors of one length, got {time.shape} and {event.shape}"
        )
    if not (np.isfinite(time).all() and (time >= 0).all()):
        raise ValueError("follow-up times must be finite and not negative")
    if not np.isin(event, (0, 1)).all():
        raise ValueError("events must be 0 (censored) or 1")
    return time, event.astype(bool)


@dataclass(frozen=True)
class StepFunction:
    """Right-continuous survival steps: 1 before `time[0]`, `survival[k]` from `time[k]` on."""

    time: Floats
    survival: Floats
    low: Floats
    high: Floats

    def at(self, when: float) -> tuple[float, float, float]:
        """Survival and its bounds at a time."""
        k = int(np.searchsorted(self.time, when, side="right")) - 1
        return (
            (1.0, 1.0, 1.0) if k < 0 else (float(self.survival[k]), float(self.low[k]), float(self.high[k]))
        )


def kaplan_meier(times: ArrayLike, events: ArrayLike, level: float = LEVEL) -> StepFunction:
    """Kaplan-Meier curve with log-log Greenwood bounds (rows taken as independent)."""
    time, event = checked_times(times, events)
    distinct, index = np.unique(time, return_inverse=True)
    deaths = np.bincount(index, weights=event)
    leaving = np.bincount(index)
    at_risk = time.size - np.concatenate(([0], np.cumsum(leaving)[:-1]))
    survival = np.cumprod(1 - deaths / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
        spread = z_value(level) * np.sqrt(greenwood) / np.abs(np.log(survival))
        low, high = survival ** np.exp(spread), survival ** np.exp(-spread)
    edge = ~((survival > 0) & (survival < 1))
    return StepFunction(distinct, survival, np.where(edge, survival, low), np.where(edge, survival, high))


@dataclass(frozen=True)
class CensoringWeights:
    """Kaplan-Meier of the censoring times for each resample, just before each distinct time and after it."""

    distinct: Floats
    index_n: np.ndarray
    before_bt: Floats
    after_bt: Floats

    def before_own_time(self) -> Floats:
        """G(T_i-) of every row, (B, n)."""
        return self.before_bt[:, self.index_n]

    def at(self, when: float) -> Floats:
        """G(t), (B,): share still uncensored after time t."""
        k = int(np.searchsorted(self.distinct, when, side="right")) - 1
        return np.ones(len(self.after_bt)) if k < 0 else self.after_bt[:, k]


def censoring_weights(time: Floats, event: Bools, weight_bn: Floats) -> CensoringWeights:
    """Censoring distribution re-estimated in every resample."""
    distinct, index = np.unique(time, return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(distinct.size))
    censored = np.add.reduceat((weight_bn * ~event)[:, order], starts, axis=1)
    died = np.add.reduceat((weight_bn * event)[:, order], starts, axis=1)
    leaving = censored + died
    at_risk = weight_bn.sum(1, keepdims=True) - (np.cumsum(leaving, 1) - leaving) - died
    step = 1 - np.nan_to_num(divide(censored, at_risk))
    after = np.cumprod(step, 1)
    before = np.concatenate((np.ones((len(after), 1)), after[:, :-1]), 1)
    return CensoringWeights(distinct, index.reshape(-1), np.asarray(before), np.asarray(after))


def concordance(
    time: Floats, event: Bools, risk: Floats, weight_bn: Floats, tau: float = np.inf, uno: bool = False
) -> Floats:
    """Harrell's C, or Uno's (pairs weighted by 1 / G(T_i-)^2, events before `tau`); (B,) resamples."""
    case_weight = weight_bn * (event & (time < tau))
    if uno:
        case_weight = case_weight * np.nan_to_num(
            divide(np.ones(1), censoring_weights(time, event, weight_bn).before_own_time() ** 2)
        )
    wins, pairs = np.zeros(len(weight_bn)), np.zeros(len(weight_bn))
    rows = np.flatnonzero(event & (time < tau))
    for start in range(0, rows.size, PAIR_ROWS):
        i = rows[start : start + PAIR_ROWS]
        later = (time[i, None] < time[None]) | ((time[i, None] == time[None]) & ~event[None])
        better = (risk[i, None] > risk[None]) + 0.5 * (risk[i, None] == risk[None])
        wins += (case_weight[:, i] * (weight_bn @ (later * better).T)).sum(1)
        pairs += (case_weight[:, i] * (weight_bn @ later.T.astype(np.float64))).sum(1)
    return divide(wins, pairs)


def concordance_estimate(
    times: ArrayLike, events: ArrayLike, risks: ArrayLike, patients: ArrayLike, uno: bool,
    tau: float = np.inf,    n_resamples: int = 500, seed: int = 0, level: float = LEVEL,
) -> Estimate:  # fmt: skip
    """Harrell's or Uno's C with a patient-bootstrap interval; unknown without comparable pairs."""
    time, event = checked_times(times, events)
    risk = np.asarray(risks, dtype=np.float64)
    cluster, n_patients = clusters(patients)
    n_with_event = len(np.unique(cluster[event]))
    if n_with_event < 2:
        return unknown(time.size, n_patients, "fewer than two patients with an event")
    return bootstrap.estimate(
        lambda weight: concordance(time, event, risk, weight, tau, uno),
        cluster, n_resamples, seed, level, "logit", n_with_event - 1,
    )  # fmt: skip
