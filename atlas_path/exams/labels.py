"""Labels of exams: joined from the hospital's table, and cancer within N years with censoring.

Cancer within N years is positive if a cancer is found at t <= N years after the exam, negative only if the
woman was followed N years without one, and unknown otherwise: a woman lost after one year says nothing about
five. A cancer of year 0 was visible to the reader on this exam and is marked apart (`cancer_on_exam`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from atlas_path.cohort.table import is_missing
from atlas_path.errors import CohortError
from atlas_path.exams.tables import Exam

HORIZONS_YEARS = (1, 2, 3, 4, 5)
NO_CANCER_YEARS = 100.0
"""Mirai's spelling of 'never' in `years_to_cancer`."""
KEY_COLUMNS = ("study_uid", "accession", "patient_id")
LABEL_COLUMNS: dict[str, tuple[str, ...] | None] = {
    "cancer": ("0", "1"),
    "cancer_left": ("0", "1"),
    "cancer_right": ("0", "1"),
    "malignant_left": ("0", "1"),
    "malignant_right": ("0", "1"),
    "benign_left": ("0", "1"),
    "benign_right": ("0", "1"),
    "density": ("A", "B", "C", "D"),
    "birads": ("0", "1", "2", "3", "4", "5", "6"),
    "indication": ("screening", "diagnostic"),
    "split": ("train", "tune", "test"),
    "years_to_cancer": None,
    "years_to_last_followup": None,
}
"""Columns a label table may bring, with their values; None: a number. A closed list, so that no free text of
a hospital's table gets through."""
DENSITY_WORDS = {"1": "A", "2": "B", "3": "C", "4": "D"}


def within_years(years_to_cancer: float | None, years_followed: float | None, horizon: float) -> str:
    """'1', '0' or '' (censored) for cancer within `horizon` years; see the module."""
    if years_to_cancer is not None and years_to_cancer <= horizon:
        return "1"
    return "0" if years_followed is not None and years_followed >= horizon else ""


def derived(labels: Mapping[str, str]) -> dict[str, str]:
    """`labels` with what follows from `years_to_cancer` and `years_to_last_followup`.

    Adds `cancer_within_1y` ... `_5y`, `cancer_on_exam`, and `time_years`, `event` for survival models.
    """
    out = dict(labels)
    if "years_to_cancer" not in labels and "years_to_last_followup" not in labels:
        return out
    to_cancer, followed = _years(labels.get("years_to_cancer")), _years(labels.get("years_to_last_followup"))
    if to_cancer is not None and to_cancer >= NO_CANCER_YEARS:
        to_cancer = None
    if to_cancer is not None and followed is not None and to_cancer > followed:
        raise ValueError(f"cancer after {to_cancer:g} years, but only {followed:g} years followed")
    for horizon in HORIZONS_YEARS:
        out[f"cancer_within_{horizon}y"] = within_years(to_cancer, followed, horizon)
    out["cancer_on_exam"] = "" if to_cancer is None and followed is None else str(int(to_cancer == 0))
    time = to_cancer if to_cancer is not None else followed
    out["time_years"] = "" if time is None else f"{time:g}"
    out["event"] = "" if time is None else str(int(to_cancer is not None))
    return out


def breast_labels(labels: Mapping[str, str], laterality: str) -> dict[str, str]:
    """Labels of one breast: `<name>_left` or `_right` becomes `<name>`, the other side's is dropped."""
    mine, other = ("_left", "_right") if laterality == "L" else ("_right", "_left")
    kept = {name: value for name, value in labels.items() if not name.endswith((mine, other))}
    return kept | {name.removesuffix(mine): value for name, value in labels.items() if name.endswith(mine)}


def read_labels(path: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """A label table: (key column, key -> checked labels). Keys are the hospital's: they are never written.

    Raises:
        CohortError: no key column, no label column, a value outside the closed list, or two rows of one key
            that disagree.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    header = list(rows[0]) if rows else []
    key = next((name for name in KEY_COLUMNS if name in header), None)
    columns = [name for name in header if name in LABEL_COLUMNS]
    if key is None or not columns:
        raise CohortError(
            path, f"needs one of {', '.join(KEY_COLUMNS)} and a label column",
            f"known labels: {', '.join(LABEL_COLUMNS)}",
        )  # fmt: skip
    found: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            labels = {name: checked(name, row[name]) for name in columns}
            labels = derived(labels)
        except ValueError as error:
            raise CohortError(path, f"row {number}: {error}", "correct the row") from None
        if found.setdefault(row[key].strip(), labels) != labels:
            raise CohortError(path, f"row {number} contradicts an earlier row of the same exam", "keep one")
    return key, found


def checked(name: str, value: str | None) -> str:
    """A label in its closed spelling; '' when missing.

    Raises:
        ValueError: not one of the values this column may hold (the value itself is not quoted).
    """
    if is_missing(value):
        return ""
    text = str(value).strip()
    allowed = LABEL_COLUMNS[name]
    if allowed is None:
        years = _years(text)
        if years is None or years < 0:
            raise ValueError(f"{name} is not a number of years")
        return f"{years:g}"
    if name == "density":
        text = DENSITY_WORDS.get(text, text.upper())
    elif name in ("indication", "split"):
        text = {"dev": "tune", "val": "tune", "validation": "tune"}.get(text.lower(), text.lower())
    elif text.endswith(".0"):
        text = text[:-2]
    if text not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}")
    return text


def with_labels(exams: Sequence[Exam], key: str, labels: Mapping[str, Mapping[str, str]]) -> list[Exam]:
    """The exams with the labels of their key; exams the table does not name get none."""
    return [replace(exam, labels=dict(_labels_of(exam, key, labels))) for exam in exams]


def label_names(exams: Iterable[Exam]) -> list[str]:
    """All label columns that occur, in order of appearance."""
    return list(dict.fromkeys(name for exam in exams for name in exam.labels))


def _labels_of(exam: Exam, key: str, labels: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    for image in exam.images:
        found = labels.get(str(getattr(image.keys, key)))
        if found is not None:
            return found
    return {}


def _years(text: str | None) -> float | None:
    if is_missing(text):
        return None
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None
