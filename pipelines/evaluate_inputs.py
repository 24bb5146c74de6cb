"""Reading what `evaluate` is given: a scores folder or any predictions table, and a cohort in any form.

Everything becomes text tables with our column names, one row a case for predictions and one row an image (or
case) for the cohort. Nothing is judged here; that is `evaluate_cases`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_path.cohort.table import ALIASES, is_missing
from atlas_path.errors import CohortError, UsageError
from atlas_path.results import ScoresInfo, read_scores_info

if TYPE_CHECKING:
    import pandas as pd

PREDICTION_ALIASES = {
    "label": ("y_true", "y", "target", "truth"),
    "prob": ("probability", "score", "y_prob", "y_score", "prediction", "pred"),
    "time": ("time_at_event", "follow_up", "duration"),
    "event": ("status_event", "event_observed"),
}
IMAGE_FACTS = ("scanner", "compression")
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")


@dataclass(frozen=True)
class TaskFacts:
    """What is predicted, as far as the input says; `evaluate_cases` fills in the rest."""

    kind: str | None = None
    name: str = "outcome"
    classes: list[str] = field(default_factory=list)
    label_columns: list[str] = field(default_factory=list)
    time_column: str | None = None
    event_column: str | None = None


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model: the table (text cells), its `scores.json` if any, and the files read."""

    name: str
    table: pd.DataFrame
    info: ScoresInfo | None
    task: TaskFacts
    files: list[Path]
    folder: Path | None


@dataclass(frozen=True)
class CohortTable:
    """The reference table (text cells) and what its YAML said about the task."""

    table: pd.DataFrame
    task: TaskFacts
    files: list[Path]
    images: bool
    """Whether rows are images (else cases)."""
    failures: list[Path] = field(default_factory=list)
    """Lists of images that earlier stages left out, found beside the cohort and its stores."""


def read_any_predictions(path: Path) -> Predictions:
    """A scores folder made by `score`, or one CSV/Parquet table.

    Raises:
        UsageError: nothing there, no case ids, or no column of predictions.
    """
    if path.is_dir():
        source = path / "predictions.csv"
        if not source.is_file():
            raise UsageError(
                path, "no predictions.csv inside", "give a folder made by `atlas-path score`, or a table"
            )
        info = read_scores_info(path) if (path / "scores.json").is_file() else None
        files = [source] + ([path / "scores.json"] if info else [])
        folder: Path | None = path
    elif path.is_file():
        source, info, files, folder = path, None, [path], None
    else:
        raise UsageError(path, "no such file or folder", "give a scores folder or a predictions table")
    table = rename_columns(read_text_table(source), {**ALIASES, **PREDICTION_ALIASES})
    if "case_id" not in table.columns and "image_id" in table.columns:
        table = table.rename(columns={"image_id": "case_id"})
    if "case_id" not in table.columns:
        raise UsageError(source, "no column case_id", f"the columns are: {', '.join(table.columns)}")
    if folder is not None and (folder / "images.csv").is_file():
        table = _with_image_facts(table, folder / "images.csv")
        files.append(folder / "images.csv")
    task = TaskFacts() if info is None else task_of_scores(info)
    return Predictions(path.resolve().name, table, info, task, files, folder)


def _with_image_facts(table: pd.DataFrame, listing: Path) -> pd.DataFrame:
    """Add what the guard read from the images (scanner, compression) where all images of a case agree."""
    images = read_text_table(listing)
    for column in IMAGE_FACTS:
        if column in images.columns and column not in table.columns and "case_id" in images.columns:
            values = images.groupby("case_id")[column].agg(
                lambda cells: cells.iloc[0] if cells.nunique() == 1 else ""
            )
            table = table.assign(**{column: table["case_id"].map(values).fillna("")})
    return table


def task_of_scores(info: ScoresInfo) -> TaskFacts:
    """The task as `scores.json` copied it from the model."""
    extra: dict[str, Any] = info.task.model_extra or {}
    columns = extra.get("label_column") or extra.get("label_columns") or []
    if isinstance(columns, str):
        columns = [columns]
    if info.task.kind == "survival" and len(columns) == 2:
        return TaskFacts(info.task.kind, info.task.name, info.task.classes, [], columns[0], columns[1])
    time, event = extra.get("time"), extra.get("event")
    return TaskFacts(info.task.kind, info.task.name, info.task.classes, list(columns), time, event)


def read_any_cohort(path: Path) -> CohortTable:
    """A training YAML, a `cohort.lock.csv`, or any CSV/Parquet table with case_id (or image) and labels.

    For a YAML the `cohort.lock.csv` of its run is used where it exists, because only it holds the splits that
    training made; else the table it names.

    Raises:
        CohortError, ConfigError: the file cannot be read, or names no cases.
    """
    task, files, columns = TaskFacts(), [path], {}
    failures: list[Path] = []
    if path.suffix.lower() in (".yaml", ".yml"):
        from atlas_path.config import load_train_config

        config = load_train_config(path)
        survival = config.task.kind == "survival"
        task = TaskFacts(
            config.task.kind, config.task.name, list(config.task.classes or []),
            [] if survival else config.task.label_columns, config.task.time, config.task.event,
        )  # fmt: skip
        lock = config.run_dir / "cohort.lock.csv"
        columns = {} if lock.is_file() else config.columns
        path = lock if lock.is_file() else config.cohort
        files.append(path)
        beside = [config.cohort.parent / "exclusions.csv"]
        if config.data.stores is not None:
            beside.append(config.data.stores / "failures.csv")
        failures = [file for file in beside if file.is_file()]
    elif path.is_dir() and (path / "cohort.lock.csv").is_file():
        path = path / "cohort.lock.csv"
        files = [path]
    if not path.is_file():
        raise CohortError(
            path, "no such file", "give a cohort table, a training YAML or a run's cohort.lock.csv"
        )
    raw = read_text_table(path).rename(columns={theirs: ours for ours, theirs in columns.items()})
    table = rename_columns(raw, {**ALIASES, **{k: PREDICTION_ALIASES[k] for k in ("time", "event")}})
    has_images = bool({"image_id", "path"} & set(table.columns))
    if "image_id" not in table.columns and "path" in table.columns:
        from atlas_path.cohort.table import stem_of

        table["image_id"] = [stem_of(cell) for cell in table["path"]]
    if "case_id" not in table.columns:
        if "image_id" not in table.columns:
            raise CohortError(
                path, "no column names the cases", f"the columns are: {', '.join(table.columns)}"
            )
        table["case_id"] = table["image_id"]
    return CohortTable(table, task, files, has_images, failures)


def read_text_table(path: Path) -> pd.DataFrame:
    """A table with text cells, '' for missing.

    Raises:
        UsageError: not a readable table, or without rows.
    """
    import pandas as pd

    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise UsageError(path, f"'{path.suffix}' is not a table", "give CSV, TSV or Parquet")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = pd.read_parquet(path)
            frame = frame.astype(object).where(frame.notna(), "").map(str)
        else:
            separator = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig")
    except (ValueError, OSError, UnicodeDecodeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            path, f"cannot be read as a table ({first})", "save it as CSV (UTF-8) or Parquet"
        ) from error
    if frame.empty:
        raise UsageError(path, "the table has no rows", "give one row a case")
    frame.columns = [str(column).strip() for column in frame.columns]
    return frame.map(lambda cell: "" if is_missing(str(cell)) else str(cell).strip())


def rename_columns(table: pd.DataFrame, aliases: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """Our names for columns in the field's other spellings; our own names win where both exist."""
    lower = {str(column).lower(): str(column) for column in table.columns}
    renamed: dict[str, str] = {}
    for ours, others in aliases.items():
        if ours in table.columns:
            continue
        found = next((lower[a] for a in (ours, *others) if a in lower and lower[a] not in renamed), None)
        if found is not None:
            renamed[found] = ours
    return table.rename(columns=renamed)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hashes(files: Iterable[Path]) -> dict[str, str]:
    """File name -> SHA-256 (names only: a report holds no folder of the machine it was made on)."""
    named: dict[str, str] = {}
    for path in files:
        name = path.name if path.name not in named else f"{path.parent.name}/{path.name}"
        named[name] = sha256_of(path)
    return named
