"""From label cells to numbers: classes, bins and masks, as the losses in `atlas.losses` expect them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from atlas_path.cohort.table import Case, Cohort, cohort_faults
from atlas_path.config.schema import TaskConfig

YES_NO = {"true": "1", "yes": "1", "false": "0", "no": "0"}


@dataclass(frozen=True)
class Targets:
    """Targets of a cohort.

    Attributes:
        kind: the task kind.
        classes: class names in output order (for `survival` the time bins as text).
        n_outputs: width of the model's logits.
        value: case_id -> target: () class index, (labels,) 0/1, () number, or (2,) = (time bin, event).
        known: case_id -> mask of the same leading shape as the logits' labels; False = label missing.
        bin_edges: `survival`: inner time edges.
        scale: `regression`: (mean, standard deviation) of the training labels; values are standardised.
    """

    kind: str
    classes: list[str]
    n_outputs: int
    value: dict[str, np.ndarray] = field(repr=False)
    known: dict[str, np.ndarray] = field(repr=False)
    bin_edges: list[float] = field(default_factory=list)
    scale: tuple[float, float] = (0.0, 1.0)

    def is_labelled(self, case_id: str) -> bool:
        return bool(self.known[case_id].any())

    def stratum(self, case_id: str) -> str:
        """Coarse label for stratified splits and balancing; '' when unlabelled."""
        if not self.is_labelled(case_id):
            return ""
        value = self.value[case_id]
        if self.kind == "survival":
            return f"event{int(value[1])}"
        if self.kind == "regression":
            return f"{np.clip(round(float(value)), -1, 1):+.0f}"
        return "".join(str(int(v)) for v in np.atleast_1d(value))


def encode_targets(cohort: Cohort, task: TaskConfig) -> Targets:
    """Encode the labels of all cases.

    Scales and bins are fitted on the cases that are not in the test split, so that the models of all folds
    speak of the same ones.

    Raises:
        CohortError: labels outside the classes, not numeric where numbers are needed, or only one class.
    """
    fit = [c for c in cohort.cases if c.split != "test"]
    if task.kind == "survival":
        return _survival(cohort, task, fit)
    if task.kind == "regression":
        return _regression(cohort, task, fit)
    if task.kind == "multilabel":
        return _multilabel(cohort, task)
    return _classes(cohort, task)


def _classes(cohort: Cohort, task: TaskConfig) -> Targets:
    column = task.label_columns[0]
    present = {text for c in cohort.cases if (text := c.labels[column]) is not None}
    plain = {text: _plain(text) for text in present}
    classes = [_plain(c) for c in task.classes] if task.classes else sorted(set(plain.values()), key=_order)
    faults = [
        f"case {c.case_id}: label '{text}' is none of {', '.join(classes)}"
        for c in cohort.cases
        if (text := c.labels[column]) is not None and plain[text] not in classes
    ]
    if len(classes) < 2:
        faults.append(
            f"column '{column}' has {len(classes)} class ({', '.join(classes) or 'no label at all'})"
        )
    if task.kind == "binary" and len(classes) > 2:
        faults.append(
            f"column '{column}' has {len(classes)} classes ({', '.join(classes)}), a binary task two"
        )
    if faults:
        raise cohort_faults(cohort.source, faults, "check task.label, task.kind and task.classes")
    value, known = {}, {}
    for case in cohort.cases:
        text = case.labels[column]
        value[case.case_id] = np.asarray(classes.index(plain[text]) if text is not None else 0, np.int64)
        known[case.case_id] = np.asarray(text is not None)
    n_outputs = {"binary": 1, "ordinal": len(classes) - 1}.get(task.kind, len(classes))
    return Targets(task.kind, classes, n_outputs, value, known)


def _multilabel(cohort: Cohort, task: TaskConfig) -> Targets:
    faults: list[str] = []
    value, known = {}, {}
    for case in cohort.cases:
        texts = [case.labels[column] for column in task.label_columns]
        texts = [t if t is None else _plain(YES_NO.get(t.lower(), t)) for t in texts]
        bad = [t for t in texts if t not in (None, "0", "1")]
        faults += [f"case {case.case_id}: label '{t}' is neither 0 nor 1" for t in bad]
        value[case.case_id] = np.asarray([float(t == "1") for t in texts], np.float32)
        known[case.case_id] = np.asarray([t is not None for t in texts])
    if faults:
        raise cohort_faults(cohort.source, faults, "multilabel columns hold 0, 1 or nothing")
    return Targets(task.kind, task.label_columns, len(task.label_columns), value, known)


def _regression(cohort: Cohort, task: TaskConfig, fit: Sequence[Case]) -> Targets:
    column = task.label_columns[0]
    numbers = _numbers(cohort, column)
    fitted = np.asarray([n for c in fit if (n := numbers[c.case_id]) is not None])
    if fitted.size < 2:
        raise cohort_faults(
            cohort.source, [f"column '{column}' has fewer than two training values"], "add labels"
        )
    mean, std = float(fitted.mean()), float(fitted.std()) or 1.0
    value = {
        k: np.asarray(((v if v is not None else mean) - mean) / std, np.float32) for k, v in numbers.items()
    }
    known = {k: np.asarray(v is not None) for k, v in numbers.items()}
    return Targets("regression", [column], 1, value, known, scale=(mean, std))


def _survival(cohort: Cohort, task: TaskConfig, fit: Sequence[Case]) -> Targets:
    times, events = _numbers(cohort, str(task.time)), _numbers(cohort, str(task.event))
    faults = [f"case {k}: time {t} is negative" for k, t in times.items() if t is not None and t < 0]
    faults += [
        f"case {k}: event {e:g} is neither 0 nor 1" for k, e in events.items() if e not in (None, 0, 1)
    ]
    if faults:
        raise cohort_faults(cohort.source, faults, "check task.time and task.event")
    seen = np.asarray([t for c in fit if (t := times[c.case_id]) is not None and events[c.case_id] == 1])
    if seen.size < 2:
        raise cohort_faults(cohort.source, ["fewer than two training events"], "survival needs events")
    edges = np.unique(np.quantile(seen, np.linspace(0, 1, task.n_bins + 1)[1:-1]))
    value, known = {}, {}
    for case in cohort.cases:
        time, event = times[case.case_id], events[case.case_id]
        labelled = time is not None and event is not None
        bin_index = int(np.searchsorted(edges, time or 0.0, side="right"))
        value[case.case_id] = np.asarray([bin_index, int(event or 0)], np.int64)
        known[case.case_id] = np.asarray(labelled)
    bounds = [0.0, *edges.tolist(), float("inf")]
    names = [f"{a:g}-{b:g}" for a, b in itertools.pairwise(bounds)]
    return Targets("survival", names, len(names), value, known, bin_edges=[float(e) for e in edges])


def _numbers(cohort: Cohort, column: str) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {}
    faults = []
    for case in cohort.cases:
        text = case.labels[column]
        try:
            numbers[case.case_id] = None if text is None else float(YES_NO.get(text.lower(), text))
        except ValueError:
            faults.append(f"case {case.case_id}: {column} '{text}' is not a number")
    if faults:
        raise cohort_faults(cohort.source, faults, "write plain numbers")
    return numbers


def _plain(text: str) -> str:
    """Class names as people mean them: '1.0' and '1' are one class."""
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def _order(text: str) -> tuple[int, float, str]:
    """Numbers before words, numbers by value."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text
