"""Which statistics a task needs: yes/no, several labels, classes and grades, numbers, survival."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from pipelines.evaluate_cases import CaseTable, Ledger
from pipelines.evaluate_inputs import Predictions, TaskFacts
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import Outcome, binary_classes, binary_outcome
from pipelines.evaluate_points import frozen_points
from pipelines.evaluate_subgroups import columns_to_use, shortcuts, subgroup_tables

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
    task: TaskFacts, predictions: Predictions, cases: CaseTable, options: EvaluateOptions
) -> TaskResults:
    """Compute everything the task allows.

    Raises:
        CohortError: no case with both a label and a prediction is left.
    """
    results = TaskResults(cases.evaluated)
    _binary_task(task, predictions, cases, options, results)
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
    cases: CaseTable,
    options: EvaluateOptions,
    results: TaskResults,
) -> None:
    stored = predictions.info.operating_points if predictions.info else []
    calibrated = _calibration_words(predictions)
    used: list[str] = []
    for name, column, classes in outcomes_of(task, cases, options):
        outcome = binary_outcome(cases.evaluated, task, name, column, classes, cases.ledger)
        if not outcome.label.size:
            raise CohortError(
                "the cohort",
                f"no case has both a label ('{column}') and a prediction",
                "see the label column and --split",
            )
        tuning = (
            binary_outcome(cases.tuning, task, name, column, classes, Ledger()) if len(cases.tuning) else None
        )
        if cases.split in ("all", options.choose_on):
            tuning = None
        points = frozen_points(name, stored, tuning, options, cases.split)
        found = binary_result(outcome, tuning, points, calibrated, options, cases.ledger.faults)
        if task.kind == "binary" or options.subgroups is not None:
            first = found.operating_points[0] if found.operating_points else None
            found.subgroups = subgroup_tables(outcome, first, options)
            found.shortcuts = shortcuts(outcome, options)
        results.binary.append(found)
        used += list(outcome.table["case_id"])
        _note_one_class(outcome, cases.ledger)
    results.evaluated = cases.evaluated[cases.evaluated["case_id"].isin(used)]
    main = results.binary[0]
    label = f"AUROC of {main.outcome}" if len(results.binary) > 1 else "AUROC"
    results.primary = Primary(name=label, number=main.auroc)


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
        values, counts = np.unique(np.array(bands(list(table[column]), column)), return_counts=True)
        pairs: list[tuple[Any, Any]] = sorted(
            zip(values, counts, strict=True), key=lambda pair: -int(pair[1])
        )
        found[column] = {str(value): int(count) for value, count in pairs[:MOST_VALUES]}
        if len(pairs) > MOST_VALUES:
            found[column]["(other values)"] = int(sum(int(count) for _, count in pairs[MOST_VALUES:]))
    return found
