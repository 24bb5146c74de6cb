"""What `score` writes and `evaluate`, `heatmap` and people read: one row a case, one file that explains it.

A scores folder holds

    predictions.csv, predictions.parquet   one row a case (`PREDICTION_COLUMNS`, probabilities in between)
    patients.csv                           the same, one row a patient
    images.csv                             one row an image: the guard's findings and where its store is
    members.csv                            one row a case and model of an ensemble: logits, completeness
    scores.json                            model, task, classes, calibration, operating points (`ScoresInfo`)
    attribution/<image_id>.zarr            why (`pipelines.attribution_store`)
    failures.csv                           what could not be scored, and why

Tables are plain CSV in UTF-8 with a header; missing values are empty. Probabilities are calibrated when
`calibrated` is true. Nothing in these files names a patient beyond the ids of the cohort table.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atlas_path import RESEARCH_USE_ONLY, __version__
from atlas_path.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "atlas-path-scores/1"
LEADING_COLUMNS = ("case_id", "patient_id", "task", "pred_label")
TRAILING_COLUMNS = (
    "threshold",
    "calibrated",
    "n_images",
    "n_windows",
    "in_distribution",
    "model_sha256",
    "status",
    "reason",
)
TEXT_COLUMNS = ("case_id", "patient_id", "task", "pred_label", "model_sha256", "status", "reason", "image_id")

TaskKind = Literal["binary", "multiclass", "multilabel", "ordinal", "regression", "survival"]
Status = Literal["done", "abstained", "failed"]


class OperatingPoint(BaseModel):
    """A threshold chosen on the tuning split, as frozen in `model.json`; unknown keys are kept."""

    model_config = ConfigDict(extra="allow")

    name: str
    threshold: float
    class_: str | None = Field(default=None, alias="class")


class Task(BaseModel):
    """What is predicted: the kind decides the columns, the classes name them."""

    model_config = ConfigDict(extra="allow")

    kind: TaskKind
    name: str
    classes: list[str]

    def value_columns(self) -> list[str]:
        """The columns of predicted values, in the order of `values` given to `prediction_row`."""
        if self.kind == "regression":
            return [f"value_{name}" for name in self.classes]
        if self.kind == "survival":
            return ["risk", *(f"survival_{name}" for name in self.classes)]
        return [f"prob_{name}" for name in self.classes]


class MemberInfo(BaseModel):
    """One model of the (possibly single-model) ensemble that scored."""

    name: str
    sha256: str
    calibration: dict[str, Any]


class ScoresInfo(BaseModel):
    """`scores.json`: everything a reader needs to interpret the tables. Paths are relative to the file."""

    format: str = FORMAT
    atlas_path_version: str = __version__
    intended_use: str = RESEARCH_USE_ONLY
    created_utc: str
    model_path: str
    model_sha256: str
    members: list[MemberInfo]
    task: Task
    operating_points: list[dict[str, Any]]
    operating_point: str | None
    mpp: float
    min_tissue: float
    options: dict[str, Any]
    n_cases: int
    n_failed: int
    n_abstained: int
    leaked_training_cases: list[str]
    seconds: dict[str, float]


def prediction_columns(task: Task) -> list[str]:
    """The columns of `predictions.csv` for a task."""
    return [*LEADING_COLUMNS, *task.value_columns(), *TRAILING_COLUMNS]


def decide(
    task: Task, values: Sequence[float], points: Sequence[OperatingPoint], name: str | None
) -> tuple[str, str]:
    """Predicted label and the threshold it used, both as text for the table.

    Args:
        values: calibrated values in the order of `Task.value_columns`.
        points: operating points of the model; a binary task uses the one called `name` (default: the first),
            a multilabel task the one of that name for each label. Without one the threshold is 0.5.

    Returns:
        `(label, threshold)`. Binary: the second class where its probability reaches the threshold.
        Multiclass: the most probable class, no threshold. Multilabel: labels that reach theirs, joined with
        ';'. Ordinal: the median class (the first whose cumulative probability reaches one half).
        Regression and survival: no label.

    Raises:
        UsageError: no operating point is called `name`.
    """
    if name is not None and task.kind in ("binary", "multilabel") and name not in {p.name for p in points}:
        known = ", ".join(sorted({p.name for p in points})) or "none"
        raise UsageError(
            f"operating point '{name}'", "the model has no such point", f"choose one of: {known}"
        )
    if task.kind == "binary":
        threshold = _threshold(points, name, None)
        return task.classes[int(values[1] >= threshold)], f"{threshold:.6g}"
    if task.kind == "multiclass":
        return task.classes[max(range(len(values)), key=values.__getitem__)], ""
    if task.kind == "multilabel":
        thresholds = [_threshold(points, name, label) for label in task.classes]
        hits = [label for label, v, t in zip(task.classes, values, thresholds, strict=True) if v >= t]
        return ";".join(hits), ";".join(f"{t:.6g}" for t in thresholds)
    if task.kind == "ordinal":
        cumulative = 0.0
        for label, value in zip(task.classes, values, strict=True):
            cumulative += value
            if cumulative >= 0.5:
                return label, ""
        return task.classes[-1], ""
    return "", ""


def _threshold(points: Sequence[OperatingPoint], name: str | None, label: str | None) -> float:
    for point in points:
        if (name is None or point.name == name) and (label is None or point.class_ == label):
            return point.threshold
    return 0.5


def write_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV, whole or not at all (beside, then renamed)."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=list(columns))
    commit_text(path, table.to_csv(index=False))


def write_predictions(rows: Sequence[Mapping[str, Any]], task: Task, folder: Path) -> None:
    """Write `predictions.csv` and `predictions.parquet` (same rows, same columns)."""
    import pandas as pd

    columns = prediction_columns(task)
    write_table(rows, columns, folder / "predictions.csv")
    table = pd.DataFrame(list(rows), columns=columns)
    table[task.value_columns()] = table[task.value_columns()].astype("float64")
    table["in_distribution"] = table["in_distribution"].astype("boolean")
    for column in ("case_id", "patient_id", "task", "pred_label", "threshold", "status", "reason"):
        table[column] = table[column].astype("string")
    part = folder / f".predictions.{uuid.uuid4().hex}.part"
    table.to_parquet(part, index=False)
    os.replace(part, folder / "predictions.parquet")


def read_table(path: Path) -> pd.DataFrame:
    """Read one of the CSV tables; ids stay text ('007' is not 7), empty text stays empty.

    Raises:
        UsageError: the table is missing.
    """
    import pandas as pd

    if not path.is_file():
        raise UsageError(path, "the table is missing", "run `atlas-path score` to make it")
    header = list(pd.read_csv(path, nrows=0).columns)
    text = [c for c in header if c in TEXT_COLUMNS]
    table = pd.read_csv(path, dtype=dict.fromkeys(text, "str"))
    table[text] = table[text].fillna("")
    return table


def read_predictions(folder: Path) -> pd.DataFrame:
    """`predictions.csv` of a scores folder as a table (columns: `prediction_columns`)."""
    return read_table(folder / "predictions.csv")


def write_scores_info(info: ScoresInfo, folder: Path) -> None:
    """Write `scores.json`."""
    commit_text(folder / "scores.json", json.dumps(info.model_dump(mode="json"), indent=1) + "\n")


def read_scores_info(folder: Path) -> ScoresInfo:
    """Read `scores.json` of a scores folder.

    Raises:
        UsageError: missing or of another format.
    """
    path = folder / "scores.json"
    try:
        raw = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(
            path, f"cannot be read ({type(error).__name__})", "give a folder made by `atlas-path score`"
        ) from error
    if raw.get("format") != FORMAT:
        raise UsageError(path, f"format is {raw.get('format')!r}, not {FORMAT!r}", "score again")
    return ScoresInfo.model_validate(raw)


def commit_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    with part.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)


def safe_name(identifier: str) -> str:
    """An id as a file name: letters, digits, '.', '_', '-' stay, a '/' becomes '__', the rest '_'."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", identifier.replace("/", "__")) or "_"
