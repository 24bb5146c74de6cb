"""From matched cases to arrays: which column is the truth, which the prediction, which cells are usable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas_path.errors import UsageError
from pipelines.evaluate_cases import CaseTable, Ledger
from pipelines.evaluate_inputs import CohortTable, Predictions, TaskFacts
from pipelines.evaluate_options import EvaluateOptions

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """A yes/no outcome on the cases where both truth and prediction are known.

    `table` holds the same rows as the arrays (case_id, patient_id and every cohort column, as text).
    """

    name: str
    label: NDArray[np.bool_]
    prob: Floats
    patient: NDArray[Any]
    table: pd.DataFrame
    is_probability: bool
    label_column: str = "label"
    negative: str = ""

    @property
    def title(self) -> str:
        """The condition for people: 'label = 1' where the class alone says nothing."""
        return self._named(self.name)

    @property
    def other_title(self) -> str:
        """Its absence for people: the negative class, or 'not ...' for one label of several."""
        return self._named(self.negative) if self.negative else f"not {self.title}"

    def _named(self, name: str) -> str:
        bare = name.lower() in ("0", "1", "true", "false", "yes", "no", "positive", "negative")
        return f"{self.label_column} = {name}" if bare else name

    @property
    def both_classes(self) -> bool:
        return bool(self.label.any() and not self.label.all())


def resolve_task(
    predictions: Predictions, cohort: CohortTable | None, cases: CaseTable, options: EvaluateOptions
) -> TaskFacts:
    """Complete what the inputs say about the task: options first, then the model, the YAML, the columns.

    Raises:
        UsageError: the kind or the label column cannot be told.
    """
    known = [predictions.task, cohort.task if cohort else TaskFacts()]
    columns = list(cases.evaluated.columns)
    probs = [c.removeprefix("prob_") for c in columns if c.startswith("prob_")]
    time = options.time or _first(f.time_column for f in known) or ("time" if "time" in columns else None)
    event = (
        options.event or _first(f.event_column for f in known) or ("event" if "event" in columns else None)
    )
    kind = options.kind or _first(f.kind for f in known)
    if kind is None and "risk" in columns and time and event:
        kind = "survival"
    if kind is None and (len(probs) > 2 or (len(probs) == 2 and "prob" not in columns)):
        kind = "multiclass" if len(probs) > 2 else "binary"
    if kind is None and ("prob" in columns or len(probs) == 1):
        kind = "binary"
    if kind is None:
        raise UsageError(
            "the predictions",
            "no column of probabilities (prob, or prob_<class>)",
            f"columns: {', '.join(columns)}",
        )
    classes = _first(list(f.classes) for f in known) or probs
    labels = [options.label] if options.label else _first(list(f.label_columns) for f in known) or []
    if not labels and kind != "survival":
        labels = list(classes) if kind == "multilabel" else ["label"]
    needed = [time, event] if kind == "survival" else labels
    absent = [str(c) for c in needed if c is None or c not in columns]
    if absent:
        raise UsageError(
            "the label table",
            f"no column {', '.join(absent)}",
            f"use --label (or --time, --event); columns: {', '.join(columns)}",
        )
    name = _first(f.name for f in known if f.name not in ("outcome", "task")) or (
        labels[0] if labels else "outcome"
    )
    return TaskFacts(kind, name, classes, labels, time, event)


def binary_classes(task: TaskFacts, cases: CaseTable, options: EvaluateOptions) -> TaskFacts:
    """The task with [negative, positive] as classes, from the model, `--positive`, or labels 0 and 1.

    Raises:
        UsageError: labels are words and nothing says which is positive.
    """
    seen = sorted({plain(cell) for cell in cases.evaluated[task.label_columns[0]]} - {""})
    if options.positive is not None:
        negative = next(
            (c for c in (*seen, *task.classes) if c != options.positive), "not " + options.positive
        )
        return replace(task, classes=[negative, options.positive])
    if len(task.classes) == 2:
        return task
    if set(seen) <= {"0", "1"}:
        return replace(task, classes=["0", "1"])
    if {cell.lower() for cell in seen} <= {"false", "true"}:
        return replace(task, classes=["false", "true"])
    raise UsageError(
        f"label column {task.label_columns[0]}",
        f"its values are {', '.join(seen[:6])}",
        "say which is positive: --positive VALUE",
    )


def binary_outcome(
    table: pd.DataFrame, task: TaskFacts, name: str, label_column: str, classes: list[str], ledger: Ledger
) -> Outcome:
    """Rows with a usable label and probability for one yes/no outcome.

    Args:
        classes: [negative, positive] as the label column writes them.
    """
    own = f"prob_{name}"
    column = own if own in table.columns else "prob" if "prob" in table.columns else None
    if column is None:
        singles = [c for c in table.columns if c.startswith("prob_")]
        if len(singles) != 1:
            raise UsageError(
                "the predictions", f"no column {own} or prob", f"the columns are: {', '.join(table.columns)}"
            )
        column = singles[0]
    cells = [plain(cell).lower() for cell in table[label_column]]
    negative, positive = (plain(c).lower() for c in classes)
    truth = np.array([1 if c == positive else 0 if c == negative else -1 for c in cells])
    blank = np.array([c == "" for c in cells], dtype=bool)
    case = table["case_id"].to_numpy()
    if (truth < 0).all() and set(cells) <= {"", "0", "1"}:
        truth = np.array([1 if c == "1" else 0 if c == "0" else -1 for c in cells])
        what = f"{label_column} holds 0 and 1 where the model has the classes {classes[0]} and {classes[1]}"
        ledger.add("label_by_position", what, f"1 is read as {classes[1]}", case[~blank])
    other = (truth < 0) & ~blank
    tag = "" if task.kind == "binary" else f" ({name})"
    ledger.add("label_missing", f"no label in {label_column}", "excluded", case[blank], f"no label{tag}")
    what = f"label in {label_column} is neither {classes[0]!r} nor {classes[1]!r}"
    ledger.add("label_unknown", what, "excluded", case[other], f"unknown label{tag}")
    prob = numbers(table[column])
    gone = ~np.isfinite(prob) & (truth >= 0)
    ledger.add(
        "prob_missing", f"{column} is empty or not a number", "excluded", case[gone], f"no probability{tag}"
    )
    keep = (truth >= 0) & np.isfinite(prob)
    outside = keep & ((prob < 0) | (prob > 1))
    done = "ranking is computed; calibration and decision curve are left out"
    ledger.add("prob_outside", f"{column} lies outside [0, 1]", done, case[outside])
    kept = table[keep].reset_index(drop=True)
    return Outcome(
        name,
        truth[keep] == 1,
        prob[keep],
        kept["patient_id"].to_numpy(),
        kept,
        is_probability=not outside.any(),
        label_column=label_column,
        negative="" if task.kind == "multilabel" else classes[0],
    )


def numbers(cells: Any) -> Floats:
    """Cells as floats; what is not a number becomes NaN."""
    import pandas as pd

    return np.asarray(pd.to_numeric(pd.Series(list(cells)), errors="coerce"), dtype=np.float64)


def plain(text: str) -> str:
    """Class names as people mean them: '1.0' and '1' are one class."""
    try:
        value = float(text)
    except ValueError:
        return str(text).strip()
    return str(int(value)) if value.is_integer() else str(text).strip()


def _first(candidates: Any) -> Any:
    return next((candidate for candidate in candidates if candidate), None)
