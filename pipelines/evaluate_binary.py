"""Everything about one yes/no outcome, in the order a reviewer asks."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from atlas_path.report.schema import Fault
from atlas_path.report.schema_base import Number, finite
from atlas_path.report.schema_binary import (
    BinaryResult,
    CalibrationResult,
    DecisionPoint,
    FixedRate,
    Recalibration,
    ReliabilityBin,
    RocPoint,
    SampleSize,
)
from atlas_path.stats import (
    calibration,
    decision,
    discrimination,
    operating,
    ranking,
    recalibration,
    samplesize,
)
from atlas_path.stats.bootstrap import LEAST_PATIENTS
from atlas_path.stats.intervals import clusters, proportion
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import Outcome
from pipelines.evaluate_points import judge_point

MOST_CURVE_POINTS = 400
HISTOGRAM_BINS = 20
LEAST_SPREAD = 0.1  # log odds; below, all cases get the same probability and a slope means nothing
FIXED: tuple[tuple[Literal["sensitivity", "specificity"], float], ...] = (
    ("specificity", 0.90),
    ("specificity", 0.95),
    ("sensitivity", 0.90),
    ("sensitivity", 0.95),
)


def binary_result(
    outcome: Outcome, tuning: Outcome | None, points: list[dict[str, Any]], calibrated: str,
    options: EvaluateOptions, faults: list[Fault],
) -> BinaryResult:  # fmt: skip
    """Compute one outcome. `points` are frozen operating points (dicts as in `model.json`)."""
    label, prob, patient = outcome.label, outcome.prob, outcome.patient  # (n,) each
    n_patients = clusters(patient)[1]
    draws, seed = options.resamples, options.seed
    area = discrimination.auroc_estimate(label, prob, patient, draws, seed)
    result = BinaryResult(
        outcome=outcome.title,
        other=outcome.other_title,
        n=label.size,
        n_patients=n_patients,
        n_positive=int(label.sum()),
        n_negative=int((~label).sum()),
        prevalence=Number.of(proportion(label, patient)),
        auroc=Number.of(area),
        auroc_why=discrimination.why_this_interval(area) if area.known else "",
        average_precision=Number.of(
            discrimination.average_precision_estimate(label, prob, patient, draws, seed)
        ),
    )
    result.operating_points = [judge_point(outcome, point, options) for point in points]
    if outcome.both_classes:
        result.roc = _curve(outcome)
        result.fixed_rates = [
            FixedRate(
                fixed=what, target=target,
                reached=Number.of(
                    operating.rate_at(label, prob, patient, what[:4], target, draws // 2, seed)
                ),
            )
            for what, target in FIXED
        ]  # fmt: skip
    if outcome.is_probability and label.size:
        result.calibration = calibration_result(outcome, prob, calibrated, options)
        if outcome.both_classes:
            result.decision = _decision(outcome, options)
            result.sample_size = _sample_size(outcome, result, options)
        if tuning is not None and tuning.is_probability and outcome.both_classes:
            result.recalibration = _recalibrations(outcome, tuning, options, faults)
    return result


def _curve(outcome: Outcome) -> list[RocPoint]:
    """The ROC and precision-recall points, thinned where there are too many to draw."""
    points = ranking.curve(outcome.label, outcome.prob)
    n = points.threshold.size
    keep = np.unique(np.linspace(0, n - 1, min(n, MOST_CURVE_POINTS)).round().astype(int))
    return [
        RocPoint(
            threshold=finite(float(points.threshold[k])),
            sensitivity=float(points.sensitivity[k]),
            specificity=float(points.specificity[k]),
            precision=float(points.precision[k]),
        )
        for k in keep
    ]


def n_bins(n: int) -> int:
    """Reliability bins: ten from 100 cases on, fewer below so that a bin holds about ten cases."""
    return int(np.clip(n // 10, 2, 10))


def calibration_result(
    outcome: Outcome, prob: np.ndarray, which: str, options: EvaluateOptions
) -> CalibrationResult:
    """Calibration of `prob` (the stored or recalibrated probabilities) on the outcome's rows."""
    bins = n_bins(prob.size)
    found = calibration.calibrate_estimates(
        outcome.label, prob, outcome.patient, options.resamples // 2, options.seed, n_bins=bins
    )
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    return CalibrationResult(
        probabilities=which,
        intercept=Number.of(found.intercept),
        slope=Number.of(found.slope),
        observed_expected=Number.of(found.observed_expected),
        brier=Number.of(found.brier),
        brier_skill=Number.of(found.brier_skill),
        ece=Number.of(found.ece),
        bins=reliability_bins(outcome, prob, bins),
        histogram_edges=[float(edge) for edge in edges],
        histogram_positive=[int(c) for c in np.histogram(prob[outcome.label], edges)[0]],
        histogram_negative=[int(c) for c in np.histogram(prob[~outcome.label], edges)[0]],
    )


def reliability_bins(outcome: Outcome, prob: np.ndarray, bins: int) -> list[ReliabilityBin]:
    """The reliability plot's points."""
    return [
        ReliabilityBin(predicted=b.predicted, observed=Number.of(b.observed), n_events=b.n_events)
        for b in calibration.reliability(outcome.label, prob, outcome.patient, bins)
    ]


def _recalibrations(
    outcome: Outcome, tuning: Outcome, options: EvaluateOptions, faults: list[Fault]
) -> list[Recalibration]:
    """Calibration after recalibrating on the tuning split only; what cannot be fitted is named."""
    done = []
    for method in options.recalibrate:
        try:
            fitted = recalibration.fit(tuning.label, tuning.prob, method)
        except ValueError as error:
            faults.append(
                Fault(code=f"recalibration_{method}", what=str(error), done="left out", n=tuning.label.size)
            )
            continue
        which = f"recalibrated ({method}) on {tuning.label.size} tuning cases"
        done.append(
            Recalibration(
                method=method, fitted_on=options.choose_on, n_fit=fitted.n_fit, parameters=fitted.parameters,
                result=calibration_result(outcome, fitted.apply(outcome.prob), which, options),
            )
        )  # fmt: skip
    return done


def _decision(outcome: Outcome, options: EvaluateOptions) -> list[DecisionPoint]:
    found = decision.decision_curve(
        outcome.label,
        outcome.prob,
        outcome.patient,
        n_resamples=min(500, options.resamples),
        seed=options.seed,
    )
    enough = clusters(outcome.patient)[1] >= LEAST_PATIENTS
    return [
        DecisionPoint(
            threshold=float(found.threshold[k]), model=float(found.model[k]),
            low=finite(float(found.low[k])) if enough else None,
            high=finite(float(found.high[k])) if enough else None,
            treat_all=float(found.treat_all[k]),
        )
        for k in range(found.threshold.size)
    ]  # fmt: skip


def _sample_size(outcome: Outcome, result: BinaryResult, options: EvaluateOptions) -> list[SampleSize]:
    """What this study could say, and how many cases a tighter interval would take."""
    share, n, half = float(outcome.label.mean()), outcome.label.size, options.target_half_width

    def row(
        quantity: str, number: Number | None, assumed: float, target: float, needed: int, formula: str
    ) -> SampleSize:
        wide = None
        if number is not None and number.low is not None and number.high is not None:
            wide = (number.high - number.low) / 2
        return SampleSize(
            quantity=quantity, assumed=assumed, half_width_reached=wide, half_width_target=target,
            n_needed=needed, n_here=n, formula=formula,
        )  # fmt: skip

    rows = []
    auroc = result.auroc.value
    if auroc is not None:
        assumed = float(np.clip(auroc, 0.5, 0.95))
        needed = samplesize.n_for_auroc(assumed, share, half)
        rows.append(row("AUROC", result.auroc, assumed, half, needed, "Newcombe variance (Riley 2021)"))
    if result.calibration is not None:
        needed = samplesize.n_for_observed_expected(share, 0.1)
        rows.append(
            row(
                "O/E",
                result.calibration.observed_expected,
                1.0,
                0.2,
                needed,
                "standard error of ln(O/E) 0.1 (Riley 2021)",
            )
        )
        if np.std(calibration.logit(outcome.prob)) > LEAST_SPREAD:
            needed = samplesize.n_for_slope(outcome.prob, 0.1)
            rows.append(
                row(
                    "calibration slope",
                    result.calibration.slope,
                    1.0,
                    0.2,
                    needed,
                    "standard error 0.1 (Riley 2021)",
                )
            )
    for point in result.operating_points[:1]:
        for name, number, part in (
            ("sensitivity", point.sensitivity, share), ("specificity", point.specificity, 1 - share),
        ):  # fmt: skip
            if number.value is not None and part > 0:
                assumed = float(np.clip(number.value, 0.05, 0.95))
                needed = samplesize.n_for_proportion(assumed, part, half)
                rows.append(
                    row(
                        f"{name} at '{point.name}'",
                        number,
                        assumed,
                        half,
                        needed,
                        "Wald width (Buderer 1996)",
                    )
                )
    return rows
