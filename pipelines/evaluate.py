"""Evaluate predictions against the truth: `metrics.json`, plots, and one page for a clinical reviewer.

Works on a scores folder of ours and on any table of predictions, so it serves people who never trained here.
"""

from __future__ import annotations

import json
from pathlib import Path

from atlas_path.progress import progress
from atlas_path.report.checklist import LIMITS, checklist
from atlas_path.report.page import write
from atlas_path.report.schema import Metrics, Primary
from atlas_path.report.schema_base import Number
from atlas_path.results import commit_text
from pipelines.evaluate_cases import CaseTable, match
from pipelines.evaluate_inputs import (
    CohortTable,
    Predictions,
    TaskFacts,
    read_any_cohort,
    read_any_predictions,
)
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import resolve_task
from pipelines.evaluate_provenance import flow, image_failures, provenance
from pipelines.evaluate_tasks import TaskResults, evaluate_task

__all__ = ["EvaluateOptions", "compute", "evaluate"]

NO_USE_STATED = "not stated: these predictions came without a model file"


def evaluate(scores: Path, cohort: Path | None, out: Path, options: EvaluateOptions | None = None) -> Path:
    """Evaluate and write `report.html`, `metrics.json`, `metrics.schema.json`, `plots/`, `gallery/`.

    Args:
        scores: a folder made by `score`, or a CSV/Parquet table (case_id, patient_id, label, prob).
        cohort: a training YAML, a run folder or its `cohort.lock.csv`, or a table with labels; None where the
            predictions table holds the labels itself.
        out: the report folder.

    Returns:
        Path of `report.html`.

    Raises:
        UsageError, CohortError: the tables cannot be used; the text names the column, rows or option.
    """
    out.mkdir(parents=True, exist_ok=True)
    with progress("evaluate", 2) as advance:
        metrics = compute(scores, cohort, out, options)
        advance("statistics", 1)
        write(metrics, out, commit_text)
        advance("report", 1)
    return out / "report.html"


def compute(scores: Path, cohort: Path | None, out: Path, options: EvaluateOptions | None = None) -> Metrics:
    """All numbers of the report; only gallery pictures are written (into `out`). Raises as `evaluate`."""
    chosen = options or EvaluateOptions()
    predictions = read_any_predictions(scores)
    reference = read_any_cohort(cohort) if cohort is not None else None
    cases = match(predictions, reference, chosen)
    second = None
    if chosen.compare is not None:
        other = read_any_predictions(chosen.compare)
        second = (other, match(other, reference, chosen))
    task = resolve_task(predictions, reference, cases, chosen)
    results = evaluate_task(task, predictions, second, cases, chosen, out)
    return _assemble(predictions, reference, cases, task, results, chosen)


def _assemble(
    predictions: Predictions,
    reference: CohortTable | None,
    cases: CaseTable,
    task: TaskFacts,
    results: TaskResults,
    options: EvaluateOptions,
) -> Metrics:
    files = [*predictions.files, *(reference.files if reference else []), *results.files]
    intended = options.intended_use or stated_use(predictions)
    metrics = Metrics(
        title=options.title,
        task=task.name,
        kind=task.kind or "",
        split=cases.split,
        intended_use=intended,
        primary=results.primary or Primary(name="none", number=Number(value=None)),
        faults=cases.ledger.faults,
        flow=flow(cases, results.evaluated, image_failures(_failure_files(predictions, reference, options))),
        binary=results.binary,
        classes=results.classes,
        regression=results.regression,
        survival=results.survival,
        localisation=results.localisation,
        comparisons=results.comparisons,
        galleries=results.galleries,
        limits=list(LIMITS),
        provenance=provenance(predictions, files, options),
        characteristics=results.characteristics,
    )
    metrics.checklist = checklist(metrics)
    return metrics


def stated_use(predictions: Predictions) -> str:
    """The intended use in the model file that `scores.json` points to, else what the scores say."""
    if predictions.info is None or predictions.folder is None:
        return NO_USE_STATED
    model = predictions.folder / predictions.info.model_path / "model.json"
    try:
        stated = json.loads(model.read_text(encoding="utf-8")).get("intended_use")
    except (OSError, ValueError):
        stated = None  # the model was moved; the scores still carry the general notice
    return str(stated or predictions.info.intended_use)


def _failure_files(
    predictions: Predictions, reference: CohortTable | None, options: EvaluateOptions
) -> list[Path]:
    """The lists named by the user, those beside the cohort and its stores, and that of the scores folder."""
    own = predictions.folder / "failures.csv" if predictions.folder else None
    found = reference.failures if reference else []
    return [*options.failures, *found, *([own] if own is not None and own.is_file() else [])]
