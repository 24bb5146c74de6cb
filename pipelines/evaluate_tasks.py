"""Which statistics a task needs: yes/no, several labels, classes and grades, numbers, survival."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_path.errors import CohortError
from atlas_path.report.schema import Gallery, Primary
from atlas_path.report.schema_binary import BinaryResult
from atlas_path.report.schema_other import (
    ClassesResult,
    ComparisonResult,
    LocalisationResult,
    RegressionResult,
    SurvivalResult,
)
from atlas_path.stats.subgroups import bands
from pipelines.evaluate_binary import binary_result
from pipelines.evaluate_cases import CaseTable, Ledger, nothing_left
from pipelines.evaluate_classes import classes_result, regression_result
from pipelines.evaluate_compare import compare
from pipelines.evaluate_gallery import galleries
from pipelines.evaluate_inputs import Predictions, TaskFacts
from pipelines.evaluate_localise import localise
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import Outcome, binary_classes, binary_outcome
from pipelines.evaluate_points import frozen_points
from pipelines.evaluate_subgroups import columns_to_use, natural, shortcuts, subgroup_tables
from pipelines.evaluate_survival import survival_result

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES = 12


@dataclass
class TaskResults:
    """What was computed; `evaluated` holds the rows that entered, `files` further inputs to hash."""

    evaluated: pd.DataFrame
    primary: Primary | None = None
    binary: list[BinaryResult] = field(default_factory=list)
    classes: ClassesResult | None = None
    regression: RegressionResult | None = None
    survival: SurvivalResult | None = None
    localisation: list[LocalisationResult] = field(default_factory=list)
    comparisons: list[ComparisonResult] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    characteristics: dict[str, dict[str, int]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def evaluate_task(
    task: TaskFacts,
    predictions: Predictions,
    second: tuple[Predictions, CaseTable] | None,
    cases: CaseTable,
    options: EvaluateOptions,
    out: Path,
) -> TaskResults:
    """Compute everything the task allows; gallery pictures go into `out`.

    Raises:
        CohortError: no case with both a label and a prediction is left.
    """
    results = TaskResults(cases.evaluated)
    if task.kind in ("multiclass", "ordinal"):
        results.classes, results.evaluated = classes_result(task, cases, options)
        if task.kind == "ordinal":
            results.primary = Primary(name="quadratic kappa", number=results.classes.kappa)
        else:
            results.primary = Primary(name="macro AUROC", number=results.classes.macro_auroc)
    elif task.kind == "regression":
        results.regression, results.evaluated = regression_result(task, cases, options)
        results.primary = Primary(name="R2", number=results.regression.r2)
    elif task.kind == "survival":
        results.survival, results.evaluated = survival_result(task, cases, options)
        results.primary = Primary(name="Uno's C", number=results.survival.uno_c)
    else:
        _binary_task(task, predictions, second, cases, options, results, out)
    results.localisation = localise(predictions, cases, options, results.files)
    results.characteristics = characteristics(results.evaluated, task, options)
    return results


def outcomes_of(
    task: TaskFacts, cases: CaseTable, options: EvaluateOptions
) -> list[tuple[str, str, list[str]]]:
    """(name, label column, [negative, positive]) of every yes/no outcome of the task."""
    if task.kind == "multilabel":
        columns = task.label_columns if len(task.label_columns) == len(task.classes) else task.classes
        return [(name, column, ["0", "1"]) for name, column in zip(task.classes, columns, strict=True)]
    full = binary_classes(task, cases, options)
    return [(full.classes[1], full.label_columns[0], full.classes)]


def _binary_task(
    task: TaskFacts,
    predictions: Predictions,
    second: tuple[Predictions, CaseTable] | None,
    cases: CaseTable,
    options: EvaluateOptions,
    results: TaskResults,
    out: Path,
) -> None:
    stored = predictions.info.operating_points if predictions.info else []
    calibrated = _calibration_words(predictions)
    outcomes = outcomes_of(task, cases, options)
    used: set[str] = set()
    for name, column, classes in outcomes:
        outcome = binary_outcome(cases.evaluated, task, name, column, classes, cases.ledger)
        if not outcome.label.size:
            raise CohortError("the cohort", nothing_left(column, cases.ledger), "see --label and --split")
        tuning = _tuning(task, cases, (name, column, classes), options)
        points = frozen_points(name, stored, tuning, options, cases.split)
        found = binary_result(outcome, tuning, points, calibrated, options, cases.ledger.faults)
        point = found.operating_points[0] if found.operating_points else None
        if len(outcomes) == 1 or options.subgroups is not None:
            found.subgroups = subgroup_tables(outcome, point, options)
            found.shortcuts = shortcuts(outcome, options)
        results.binary.append(found)
        threshold = point.threshold if point else None
        results.galleries += galleries(outcome, threshold, predictions, options, out)
        if second is not None:
            theirs = _tuning(task, second[1], (name, column, classes), options)
            results.comparisons.append(
                compare(outcome, points, predictions, second[0], theirs, options, cases.ledger)
            )
        used |= set(outcome.table["case_id"])
        _note_one_class(outcome, cases.ledger)
    results.evaluated = cases.evaluated[cases.evaluated["case_id"].isin(used)]
    if second is not None:
        results.files += second[0].files
    main = results.binary[0]
    label = f"AUROC of {main.outcome}" if len(results.binary) > 1 else "AUROC"
    results.primary = Primary(name=label, number=main.auroc)


def _tuning(
    task: TaskFacts, cases: CaseTable, what: tuple[str, str, list[str]], options: EvaluateOptions
) -> Outcome | None:
    """The outcome on the tuning split, where that is not what is evaluated."""
    if not len(cases.tuning) or cases.split in ("all", options.choose_on):
        return None
    return binary_outcome(cases.tuning, task, *what, Ledger())


def _note_one_class(outcome: Outcome, ledger: Ledger) -> None:
    if not outcome.both_classes:
        only = f"only cases with {outcome.name}" if outcome.label.any() else f"no case with {outcome.name}"
        done = "rates of the one class are computed; AUROC, calibration slope and decision curve are not"
        ledger.add("one_class", only, done, outcome.table["case_id"])


def _calibration_words(predictions: Predictions) -> str:
    if "calibrated" in predictions.table.columns:
        flags = {str(cell).lower() for cell in predictions.table["calibrated"]} - {""}
        if flags == {"true"}:
            return "as scored, calibrated on the tuning split by the model"
        if flags == {"false"}:
            return "as scored, not calibrated"
    return "as given in the predictions table"


def characteristics(
    table: pd.DataFrame, task: TaskFacts, options: EvaluateOptions
) -> dict[str, dict[str, int]]:
    """Counts of the label and the subgroup columns among the evaluated cases."""
    found: dict[str, dict[str, int]] = {}
    labels = [
        c for c in task.label_columns if c in table.columns and task.kind not in ("regression", "survival")
    ]
    for column in [*labels, *columns_to_use(table, options)]:
        counted = Counter(bands(list(table[column]), column))
        common = dict(counted.most_common(MOST_VALUES))
        found[column] = {value: common[value] for value in sorted(common, key=natural)}
        if len(counted) > MOST_VALUES:
            found[column]["(other values)"] = sum(counted.values()) - sum(common.values())
    return found
