"""The tables of a scores folder, written from the records of its cases."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atlas_path.progress import say
from atlas_path.results import (
    LEADING_COLUMNS,
    ScoresInfo,
    decide,
    write_predictions,
    write_scores_info,
    write_table,
)
from pipelines.ensemble import Ensemble
from pipelines.score_case import CaseRecord, empty_row
from pipelines.score_feed import ImageFault
from pipelines.score_maps import relative
from pipelines.score_plan import PlannedCase

FAILURE_COLUMNS = ("case_id", "image_id", "status", "reason", "error")
IMAGE_COLUMNS = (
    "image_id", "case_id", "patient_id", "store", "in_distribution", "deviations", "has_map", "mpp",
    "n_windows", "tissue_mm2", "sharpness", "scanner", "compression",
)  # fmt: skip
PATIENT_TRAILING = ("n_cases", "n_images", "in_distribution", "model_sha256", "status", "reason")


@dataclass(frozen=True)
class Outcome:
    """What became of a case: its record, or the faults that prevented one (or left images out)."""

    record: CaseRecord | None
    faults: list[ImageFault] = field(default_factory=list)


def write_tables(
    out: Path,
    cases: Sequence[PlannedCase],
    outcomes: Mapping[str, Outcome],
    ensemble: Ensemble,
    options: dict[str, Any],
    model_dir: Path,
    seconds: dict[str, float],
) -> None:
    """Write all tables and `scores.json`; cases keep the plan's order."""
    rows, images, members, failures, leaks = [], [], [], [], []
    for case in cases:
        outcome = outcomes.get(case.case_id)
        if outcome is None:
            continue
        failures += [
            {"case_id": case.case_id, "image_id": f.image_id, "status": f.status, "reason": f.reason,
             "error": f.error}
            for f in outcome.faults
        ]  # fmt: skip
        if outcome.record is None:
            reason = outcome.faults[0].reason if outcome.faults else "not_scored"
            rows.append(empty_row(case.case_id, case.patient_id, ensemble, "failed", reason))
            continue
        rows.append(outcome.record.row)
        images += outcome.record.images
        members += outcome.record.members
        if outcome.record.leak:
            leaks.append(case.case_id)
    write_predictions(rows, ensemble.task, out)
    write_table(patient_rows(rows, ensemble, options), _patient_columns(ensemble), out / "patients.csv")
    further = sorted({key for image in images for key in image} - set(IMAGE_COLUMNS))
    write_table(images, [*IMAGE_COLUMNS, *further], out / "images.csv")
    n_outputs = ensemble.n_outputs
    member_columns = ["case_id", "member", "model_sha256", *(f"logit_{i}" for i in range(n_outputs))]
    member_columns += [*ensemble.task.value_columns(), "completeness_error"]
    write_table(members, member_columns, out / "members.csv")
    write_table(failures, FAILURE_COLUMNS, out / "failures.csv")
    _write_info(out, rows, leaks, ensemble, options, model_dir, seconds)
    _say_what_matters(rows, leaks)


def patient_rows(
    rows: Sequence[Mapping[str, Any]], ensemble: Ensemble, options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row a patient: the mean (or the largest positive probability) of the patient's scored cases.

    `max` follows the clinical rule that one positive specimen makes a positive patient; it is for binary,
    multilabel, survival and regression tasks, and takes the mean where classes exclude each other.
    """
    task, columns = ensemble.task, ensemble.task.value_columns()
    by_patient: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_patient.setdefault(row["patient_id"], []).append(row)
    table = []
    for patient_id, own in by_patient.items():
        done = [row for row in own if row["status"] == "done"]
        inside = [row["in_distribution"] for row in done if row["in_distribution"] is not None]
        entry: dict[str, Any] = {"case_id": "", "patient_id": patient_id, "task": task.name, "pred_label": ""}
        entry |= {
            "threshold": "",
            "calibrated": ensemble.calibrated,
            "n_cases": len(done),
            "n_images": sum(row["n_images"] for row in done),
            "in_distribution": all(inside) if inside else None,
            "model_sha256": ensemble.sha256,
            "status": "done" if done else own[0]["status"],
            "reason": ""
            if len(done) == len(own)
            else f"{len(own) - len(done)} of {len(own)} cases not scored",
        }
        if done:
            values = combine([[row[c] for c in columns] for row in done], task.kind, options["patient_rule"])
            label, threshold = decide(task, values, ensemble.points, options["operating_point"])
            entry |= dict(zip(columns, values, strict=True)) | {"pred_label": label, "threshold": threshold}
        table.append(entry)
    return table


def combine(values: Sequence[Sequence[float]], kind: str, rule: str) -> list[float]:
    """A patient's values from those of the cases, see `patient_rows`."""
    stacked = np.asarray(values, np.float64)
    if rule == "max" and kind == "binary":
        return [float(v) for v in stacked[stacked[:, 1].argmax()]]
    if rule == "max" and kind == "survival":
        return [float(v) for v in stacked[stacked[:, 0].argmax()]]
    if rule == "max" and kind in ("multilabel", "regression"):
        return [float(v) for v in stacked.max(axis=0)]
    return [float(v) for v in stacked.mean(axis=0)]


def _patient_columns(ensemble: Ensemble) -> list[str]:
    leading = [c for c in LEADING_COLUMNS if c != "case_id"]
    return [*leading, *ensemble.task.value_columns(), "threshold", "calibrated", *PATIENT_TRAILING]


def _write_info(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    leaks: list[str],
    ensemble: Ensemble,
    options: dict[str, Any],
    model_dir: Path,
    seconds: dict[str, float],
) -> None:
    paths = {"cohort", "stores", "mpp_csv"}
    shown = {k: relative(Path(v), out) if k in paths and v else v for k, v in options.items()}
    points = ensemble.info.get("operating_points") or []
    info = ScoresInfo(
        created_utc=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        model_path=relative(model_dir, out),
        model_sha256=ensemble.sha256,
        members=ensemble.member_infos(),
        task=ensemble.task,
        operating_points=points,
        operating_point=options["operating_point"] or (points[0]["name"] if points else None),
        mpp=ensemble.mpp,
        min_tissue=ensemble.min_tissue,
        options=shown,
        n_cases=len(rows),
        n_failed=sum(row["status"] == "failed" for row in rows),
        n_abstained=sum(row["status"] == "abstained" for row in rows),
        leaked_training_cases=leaks,
        seconds={k: round(v, 3) for k, v in seconds.items()},
    )
    write_scores_info(info, out)


def _say_what_matters(rows: Sequence[Mapping[str, Any]], leaks: Sequence[str]) -> None:
    outside = [row["case_id"] for row in rows if row["in_distribution"] is False]
    if outside:
        say(f"{len(outside)} cases are unlike the training images (images.csv says how): {_some(outside)}")
    if leaks:
        say(f"LEAK: {len(leaks)} cases were used for training; results on them say nothing: {_some(leaks)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
