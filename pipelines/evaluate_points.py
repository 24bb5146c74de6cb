"""Operating points: where a threshold comes from, whether it was touched since, and what it gives here."""

from __future__ import annotations

from typing import Any

from atlas_path.errors import UsageError
from atlas_path.report.schema_base import Number
from atlas_path.report.schema_binary import Confusion, OperatingPoint, PrevalenceAdjusted
from atlas_path.stats import operating
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import Outcome

MODEL_POINT = "frozen on the tuning split, in the model file"
GIVEN_POINT = "given on the command line"


def frozen_points(
    outcome: str, stored: list[dict[str, Any]], tuning: Outcome | None, options: EvaluateOptions, split: str
) -> list[dict[str, Any]]:
    """Operating points for an outcome: from the model, from `--threshold`, or chosen on tuning rows.

    Raises:
        UsageError: asked to choose on the evaluated rows, or no usable tuning rows for a choice.
    """
    points = [{**point, "origin": MODEL_POINT} for point in stored if point.get("class") in (None, outcome)]
    points += [
        {"name": f"{value:g}", "threshold": value, "origin": GIVEN_POINT} for value in options.thresholds
    ]
    if options.choose and (split in ("all", options.choose_on)):
        raise UsageError(
            f"--choose-on {options.choose_on}",
            f"the evaluated rows (split '{split}') would choose their own threshold and flatter it",
            "choose on a tuning split, take the model's operating points, or fix one with --threshold",
        )
    for rule in options.choose:
        if tuning is None or not tuning.both_classes:
            raise UsageError(
                f"--choose {rule}",
                f"split '{options.choose_on}' has no rows of both classes",
                "give scored tuning rows",
            )
        try:
            threshold = operating.choose(tuning.label, tuning.prob, rule)
        except ValueError as error:
            raise UsageError(f"--choose {rule}", str(error), "for example --choose sens:0.95") from error
        point: dict[str, Any] = {
            "name": rule, "class": outcome, "threshold": threshold, "rule": rule,
            "fitted_on": options.choose_on,
            "sensitivity": float((tuning.prob[tuning.label] >= threshold).mean()),
            "specificity": float((tuning.prob[~tuning.label] < threshold).mean()),
            "n": int(tuning.label.size),
        }  # fmt: skip
        origin = f"chosen on split '{options.choose_on}' of this table ({tuning.label.size} cases)"
        points.append({**point, "sha256": operating.point_hash(point), "origin": origin})
    return points


def judge_point(outcome: Outcome, point: dict[str, Any], options: EvaluateOptions) -> OperatingPoint:
    """Results of one frozen point on the evaluated rows."""
    body = {key: value for key, value in point.items() if key != "origin"}
    at = operating.at_threshold(outcome.label, outcome.prob, outcome.patient, float(point["threshold"]))
    rates = {k: point.get(k) for k in ("sensitivity", "specificity")}
    promised = {k: float(v) for k, v in rates.items() if isinstance(v, int | float)}
    stored = point.get("sha256")
    adjusted = []
    if at.sensitivity.known and at.specificity.known:
        for prevalence in options.prevalences:
            ppv, npv = operating.predictive_values(at.sensitivity, at.specificity, prevalence)
            adjusted.append(PrevalenceAdjusted(prevalence=prevalence, ppv=Number.of(ppv), npv=Number.of(npv)))
    return OperatingPoint(
        name=str(point.get("name", "point")),
        threshold=float(point["threshold"]),
        origin=str(point["origin"]),
        sha256=stored,
        hash_matches=None if stored is None else operating.point_hash(body) == stored,
        tuning=promised,
        confusion=Confusion(
            true_positive=at.true_positive, false_positive=at.false_positive,
            true_negative=at.true_negative, false_negative=at.false_negative,
        ),
        sensitivity=Number.of(at.sensitivity),
        specificity=Number.of(at.specificity),
        ppv=Number.of(at.ppv),
        npv=Number.of(at.npv),
        recall_rate=Number.of(at.recall_rate),
        accuracy=Number.of(at.accuracy),
        balanced_accuracy=Number.of(at.balanced_accuracy),
        adjusted=adjusted,
    )  # fmt: skip
