"""A second model on the same cases: difference of AUROCs, and exact McNemar at the frozen points of both."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from atlas_path.errors import UsageError
from atlas_path.report.schema_base import Number, finite
from atlas_path.report.schema_other import ComparisonResult, McNemarResult
from atlas_path.stats import comparison, delong, operating
from atlas_path.stats.intervals import Estimate, clusters
from pipelines.evaluate_cases import Ledger
from pipelines.evaluate_inputs import Predictions
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import Outcome, numbers

SIDES: tuple[Literal["positives", "negatives", "all"], ...] = ("positives", "negatives", "all")


def compare(
    outcome: Outcome, points: list[dict[str, Any]], first: Predictions, second: Predictions,
    second_tuning: Outcome | None, options: EvaluateOptions, ledger: Ledger,
) -> ComparisonResult:  # fmt: skip
    """Compare on the cases both models scored.

    Raises:
        UsageError: the second model has no probabilities for this outcome, or no common case of both classes.
    """
    other = second.table.drop_duplicates("case_id", keep=False).set_index("case_id")
    column = next((c for c in (f"prob_{outcome.name}", "prob") if c in other.columns), None)
    if column is None:
        raise UsageError(
            f"--compare {second.name}", f"no column prob_{outcome.name} or prob", "score the same task"
        )
    case = outcome.table["case_id"]
    theirs = numbers(other[column].reindex(case).fillna(""))
    common = np.isfinite(theirs)
    ledger.add("not_compared", "not scored by the second model", "left out of the comparison", case[~common])
    label, a, b = outcome.label[common], outcome.prob[common], theirs[common]
    patient = outcome.patient[common]
    if label.all() or not label.any():
        raise UsageError(
            f"--compare {second.name}", "no common cases of both classes", "check case_id in both"
        )
    n_patients = clusters(patient)[1]
    repeated = n_patients < label.size
    test = delong.paired_test(label, a, b, patient if repeated else None)
    size = (int(label.size), n_patients, test.method)
    nan = float("nan")
    difference = Estimate(test.difference, test.low, test.high, *size)
    result = ComparisonResult(
        outcome=outcome.title,
        first=_name(first, "first model"),
        second=_name(second, "second model"),
        n=int(label.size),
        n_patients=n_patients,
        auroc_first=Number.of(Estimate(test.first, nan, nan, *size)),
        auroc_second=Number.of(Estimate(test.second, nan, nan, *size)),
        difference=Number.of(difference),
        p=finite(test.p),
        test=test.method,
        bootstrap_difference=Number.of(
            comparison.auroc_difference(label, a, b, patient, options.resamples, options.seed)
        ),
    )
    stored = second.info.operating_points if second.info else []
    for point in points:
        cut, note = _second_threshold(point, stored, outcome.name, second_tuning)
        result.mcnemar += _mcnemar(label, a, b, point, cut, note, repeated)
    return result


def _second_threshold(
    point: dict[str, Any], stored: list[dict[str, Any]], outcome: str, tuning: Outcome | None
) -> tuple[float, str]:
    """The second model's threshold of the same kind, and a note where there is none."""
    same = [p for p in stored if p["name"] == point["name"] and p.get("class") in (None, outcome)]
    if same:
        return float(same[0]["threshold"]), ""
    if str(point.get("rule", "")) == point["name"] and tuning is not None and tuning.both_classes:
        return operating.choose(tuning.label, tuning.prob, str(point["rule"])), ""
    why = (
        f"'{point['name']}': the second model has no such point, so the first model's threshold is used "
        f"for both"
    )
    return float(point["threshold"]), why


def _mcnemar(
    label: np.ndarray, a: np.ndarray, b: np.ndarray, point: dict[str, Any], second_cut: float, note: str,
    repeated: bool,
) -> list[McNemarResult]:  # fmt: skip
    if repeated:
        independent = "McNemar counts cases as independent, though some patients have several"
        note = "; ".join(filter(None, (note, independent)))
    first_cut, rows = float(point["threshold"]), []
    for side in SIDES:
        inside = {"positives": label, "negatives": ~label, "all": np.ones_like(label)}[side]
        right_a, right_b = ((a >= first_cut) == label)[inside], ((b >= second_cut) == label)[inside]
        found = comparison.mcnemar(right_a, right_b)
        rows.append(
            McNemarResult(
                point=str(point["name"]), among=side, first_threshold=first_cut, second_threshold=second_cut,
                only_first_right=found.only_first, only_second_right=found.only_second, p=found.p, note=note,
            )
        )  # fmt: skip
    return rows


def _name(predictions: Predictions, fallback: str) -> str:
    if predictions.info:
        return f"{predictions.info.model_path} ({predictions.info.model_sha256[:8]})"
    return predictions.name or fallback
