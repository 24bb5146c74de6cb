"""Time-to-event outcomes: concordance, AUC and calibration at horizons, Kaplan-Meier by predicted risk."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from atlas_path.errors import CohortError, UsageError
from atlas_path.report.schema_base import Number, finite
from atlas_path.report.schema_binary import ReliabilityBin
from atlas_path.report.schema_other import HorizonResult, SurvivalCurve, SurvivalResult
from atlas_path.stats import survival, survival_auc
from atlas_path.stats.bootstrap import estimate
from atlas_path.stats.calibration import equal_mass_bins
from atlas_path.stats.intervals import Estimate, Floats, clusters
from pipelines.evaluate_cases import CaseTable, Ledger
from pipelines.evaluate_inputs import TaskFacts
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import numbers

if TYPE_CHECKING:
    import pandas as pd

MOST_HORIZONS = 5
STILL_WATCHED = 0.1
BINS_PER_HORIZON = 4


def survival_result(
    task: TaskFacts, cases: CaseTable, options: EvaluateOptions
) -> tuple[SurvivalResult, pd.DataFrame]:
    """All survival statistics; the rows used come back too.

    Raises:
        UsageError: no risk column.
        CohortError: nothing is left, or nobody had an event.
    """
    time, event, table = _truth(cases.evaluated, str(task.time_column), str(task.event_column), cases.ledger)
    known, risk_at = _risk_columns(table)
    risk = _total_risk(table, risk_at)
    usable = np.isfinite(risk)
    ledger_cases = table["case_id"].to_numpy()
    cases.ledger.add("prob_missing", "no predicted risk", "excluded", ledger_cases[~usable], "no prediction")
    time, event, risk, risk_at = time[usable], event[usable], risk[usable], risk_at[usable]
    table = table[usable].reset_index(drop=True)
    if not event.any():
        raise CohortError(
            "the cohort", f"nobody had an event ({task.event_column} is never 1)", "see --event"
        )
    patient = table["patient_id"].to_numpy()
    draws, seed = max(200, options.resamples // 4), options.seed
    tau = uno_tau(time, event)
    horizons = options.horizons or default_horizons(time, event, known)
    predicted = {h: _interpolated(known, risk_at, h) for h in horizons}
    result = SurvivalResult(
        time_unit=options.time_unit,
        n=time.size,
        n_patients=clusters(patient)[1],
        n_events=int(event.sum()),
        median_follow_up=_median_follow_up(time, event),
        tau=tau,
        harrell_c=Number.of(
            survival.concordance_estimate(time, event, risk, patient, False, np.inf, draws, seed)
        ),
        uno_c=Number.of(survival.concordance_estimate(time, event, risk, patient, True, tau, draws, seed)),
        horizons=[
            _horizon(time, event, risk, predicted[h], float(h), patient, options) for h in sorted(horizons)
        ],
        groups=_thirds(time, event, risk),
    )
    calibrated = [h for h in sorted(horizons) if predicted[h] is not None]
    if len(calibrated) > 1:
        matrix = np.stack([np.asarray(predicted[h]) for h in calibrated], 1)
        found = survival_auc.integrated_brier(time, event, matrix, calibrated, patient, draws, seed)
        result.integrated_brier = Number.of(found)
    return result, table


def _truth(
    table: pd.DataFrame, time_column: str, event_column: str, ledger: Ledger
) -> tuple[Floats, np.ndarray, pd.DataFrame]:
    time, event = numbers(table[time_column]), numbers(table[event_column])
    case = table["case_id"].to_numpy()
    missing = ~np.isfinite(time) | ~np.isfinite(event)
    ledger.add(
        "label_missing", f"no {time_column} or {event_column}", "excluded", case[missing], "no follow-up"
    )
    bad = ~missing & ((time < 0) | ~np.isin(event, (0, 1)))
    ledger.add(
        "label_unknown",
        "negative time, or an event that is neither 0 nor 1",
        "excluded",
        case[bad],
        "bad follow-up",
    )
    keep = ~missing & ~bad
    if not keep.any():
        raise CohortError(
            "the cohort", "no case has a usable follow-up", f"see {time_column} and {event_column}"
        )
    return time[keep], event[keep] == 1, table[keep].reset_index(drop=True)


def _risk_columns(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Known times (k,) and cumulative risks (n, k) from survival_<a>-<b> or risk_<t> columns."""
    found: list[tuple[float, Floats]] = []
    for column in map(str, table.columns):
        if match := re.fullmatch(r"survival_[\d.eE+]+-([\d.eE+]+|inf)", column):
            found.append((float(match[1]), 1 - numbers(table[column])))
        elif match := re.fullmatch(r"risk_([\d.]+)", column):
            found.append((float(match[1]), numbers(table[column])))
    found = sorted(((t, r) for t, r in found if np.isfinite(t)), key=lambda pair: pair[0])
    if not found:
        return np.zeros(0), np.zeros((len(table), 0))
    return np.array([t for t, _ in found]), np.stack([r for _, r in found], 1)


def _total_risk(table: pd.DataFrame, risk_at: Floats) -> Floats:
    for column in ("risk", "prob", "hazard"):
        if column in table.columns:
            return numbers(table[column])
    if risk_at.shape[1]:
        return np.asarray(risk_at.mean(1))
    raise UsageError(
        "the predictions", "no column risk, risk_<time> or prob", "name the predicted risk 'risk'"
    )


def _interpolated(known: Floats, risk_at: Floats, horizon: float) -> Floats | None:
    """Predicted risk at a horizon: linear between known times, from 0 at time 0; None beyond them."""
    if not known.size or horizon > known[-1] or np.isnan(risk_at).any():
        return None
    times = np.concatenate(([0.0], known))
    risks = np.concatenate((np.zeros((len(risk_at), 1)), risk_at), 1)
    right = int(np.searchsorted(times, horizon, side="left"))
    if right == 0:
        return np.zeros(len(risk_at))
    share = (horizon - times[right - 1]) / (times[right] - times[right - 1])
    return np.asarray(risks[:, right - 1] * (1 - share) + risks[:, right] * share)


def uno_tau(time: Floats, event: np.ndarray) -> float:
    """Uno's C looks at events up to here: the last event while at least 10 % are still uncensored."""
    weights = survival.censoring_weights(time, event, np.ones((1, time.size))).before_own_time()[0]
    eligible = time[event & (weights >= STILL_WATCHED)]
    return float(np.nextafter(eligible.max() if eligible.size else time[event].max(), np.inf))


def default_horizons(time: Floats, event: np.ndarray, known: Floats) -> list[float]:
    """The model's own times where it has some, else quartiles of the event times; both classes must exist."""
    candidates = known if known.size else np.quantile(time[event], [0.25, 0.5, 0.75])
    usable = [
        float(t) for t in np.unique(candidates) if (event & (time <= t)).sum() >= 2 and (time > t).sum() >= 2
    ]
    if len(usable) > MOST_HORIZONS:
        usable = [usable[k] for k in np.linspace(0, len(usable) - 1, MOST_HORIZONS).round().astype(int)]
    return usable


def _horizon(
    time: Floats, event: np.ndarray, risk: Floats, predicted: Floats | None, horizon: float,
    patient: np.ndarray, options: EvaluateOptions,
) -> HorizonResult:  # fmt: skip
    draws, seed = max(200, options.resamples // 4), options.seed
    ranked_by = risk if predicted is None else predicted
    result = HorizonResult(
        time=horizon,
        n_at_risk=int((time > horizon).sum()),
        n_events=int((event & (time <= horizon)).sum()),
        n_censored_before=int((~event & (time <= horizon)).sum()),
        auc=Number.of(
            survival_auc.dynamic_auc_estimate(time, event, ranked_by, horizon, patient, draws, seed)
        ),
    )
    observed = _observed_risk(time, event, patient, horizon, draws, seed)
    result.observed_risk = Number.of(observed)
    if predicted is not None:
        result.predicted_risk = finite(float(predicted.mean()))
        result.brier = Number.of(
            survival_auc.brier_estimate(time, event, predicted, horizon, patient, draws, seed)
        )
        bins = equal_mass_bins(predicted, min(BINS_PER_HORIZON, max(2, time.size // 20)))
        for b in range(int(bins.max()) + 1):
            inside = bins == b
            found = _observed_risk(time[inside], event[inside], patient[inside], horizon, draws, seed)
            had = int((event[inside] & (time[inside] <= horizon)).sum())
            result.bins.append(
                ReliabilityBin(
                    predicted=float(predicted[inside].mean()), observed=Number.of(found), n_events=had
                )
            )
    return result


def _observed_risk(
    time: Floats, event: np.ndarray, patient: np.ndarray, horizon: float, draws: int, seed: int
) -> Estimate:
    """1 - Kaplan-Meier at the horizon: log-log Greenwood, or a patient bootstrap where patients repeat."""
    n_patients = clusters(patient)[1]
    at, low, high = survival.kaplan_meier(time, event).at(horizon)
    if n_patients == time.size:
        return Estimate(1 - at, 1 - high, 1 - low, time.size, n_patients, "Kaplan-Meier, log-log Greenwood")
    found = estimate(lambda w: _weighted_risk(time, event, horizon, w), patient, draws, seed, scale="logit")
    return found if 0 < found.value < 1 else Estimate(
        1 - at, 1 - high, 1 - low, time.size, n_patients, "Kaplan-Meier, log-log Greenwood"
    )  # fmt: skip


def _weighted_risk(time: Floats, event: np.ndarray, horizon: float, weight: Floats) -> Floats:
    """1 - Kaplan-Meier of every resample: the censoring estimator with events and censorings exchanged."""
    order = np.argsort(time, kind="stable")
    distinct, starts = np.unique(time[order], return_index=True)
    leaving = np.add.reduceat(weight[:, order], starts, axis=1)
    deaths = np.add.reduceat((weight * event)[:, order], starts, axis=1)
    at_risk = weight.sum(1, keepdims=True) - (np.cumsum(leaving, 1) - leaving)
    step = np.where(at_risk > 0, 1 - deaths / np.maximum(at_risk, 1e-12), 1.0)
    return np.asarray(1 - np.prod(np.where(distinct <= horizon, step, 1.0), axis=1))


def _median_follow_up(time: Floats, event: np.ndarray) -> float | None:
    """Median of the reverse Kaplan-Meier (Schemper and Smith 1996)."""
    curve = survival.kaplan_meier(time, ~event)
    below = np.flatnonzero(curve.survival <= 0.5)
    return float(curve.time[below[0]]) if below.size else None


def _thirds(time: Floats, event: np.ndarray, risk: Floats) -> list[SurvivalCurve]:
    """Kaplan-Meier curves of the cases in thirds of predicted risk."""
    bins = equal_mass_bins(risk, 3)
    names = {3: ("lowest third of risk", "middle third", "highest third"), 2: ("lower half", "upper half")}
    labels = names.get(int(bins.max()) + 1, ("all cases",))
    curves = []
    for b, label in enumerate(labels):
        found = survival.kaplan_meier(time[bins == b], event[bins == b])
        curves.append(
            SurvivalCurve(
                label=label, n=int((bins == b).sum()), time=[0.0, *found.time.tolist()],
                survival=[1.0, *found.survival.tolist()], low=[1.0, *found.low.tolist()],
                high=[1.0, *found.high.tolist()],
            )
        )  # fmt: skip
    return curves
