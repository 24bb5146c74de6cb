"""Mirai's exam table: one row an image, keys patient and exam, years to cancer and to the last follow-up."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from atlas_path.dicom import Pseudonyms
from atlas_path.errors import CohortError
from atlas_path.exams.images import ExamImage, Keys
from atlas_path.exams.labels import checked, derived
from atlas_path.slides.mammo import is_mammogram, mammogram_id
from atlas_path.slides.mammo.codes import view_from_words

REQUIRED = ("patient_id", "exam_id", "laterality", "view", "file_path")
OPTIONAL = {"years_to_cancer": "years_to_cancer", "years_to_last_followup": "years_to_last_followup"}
SPLITS = {"train": "train", "dev": "tune", "val": "tune", "test": "test"}


@dataclass(frozen=True)
class MiraiTable:
    """Images, and labels by exam id (pseudonyms)."""

    images: list[ExamImage]
    labels: dict[str, dict[str, str]]


def read_mirai(path: Path, pseudonyms: Pseudonyms) -> MiraiTable:
    """Read a Mirai CSV; relative `file_path`s are taken from its folder.

    `years_to_cancer` 100 is no cancer, 0 is a cancer on this exam. Files that are DICOM get the same ids as
    when they are found in a folder; other files get the pseudonym of their exam, side, view and place.

    Raises:
        CohortError: a column is missing, a view or side is unknown, or rows of one exam disagree.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in REQUIRED if not rows or name not in rows[0]]
    if missing:
        raise CohortError(path, f"has no column {', '.join(missing)}", f"Mirai's are {', '.join(REQUIRED)}")
    images: list[ExamImage] = []
    labels: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            image, found = _row(path, row, pseudonyms)
        except ValueError as error:
            raise CohortError(path, f"row {number}: {error}", "correct the row") from None
        if labels.setdefault(image.exam_id, found) != found:
            raise CohortError(path, f"row {number} contradicts another row of its exam", "make them agree")
        images.append(image)
    return MiraiTable(images, labels)


def _row(table: Path, row: dict[str, str], pseudonyms: Pseudonyms) -> tuple[ExamImage, dict[str, str]]:
    view = view_from_words(row["view"], row["laterality"])
    if view.view is None or view.laterality not in ("L", "R"):
        raise ValueError("view or laterality is not known")
    file = (table.parent / row["file_path"].strip()).absolute()
    patient, exam = row["patient_id"].strip(), row["exam_id"].strip()
    image_id = (
        mammogram_id(file) if is_mammogram(file) else pseudonyms.id_of("film", f"{patient}\t{exam}\t{file}")
    )
    image = ExamImage(
        image_id=image_id,
        exam_id=pseudonyms.exam_id(f"{patient}\t{exam}"),
        patient_id=pseudonyms.patient_id(patient),
        view=view.view,
        laterality=view.laterality,
        keys=Keys(file, patient, exam, exam),
    )
    found = {ours: checked(ours, row.get(theirs)) for ours, theirs in OPTIONAL.items() if theirs in row}
    if "split_group" in row:
        split = SPLITS.get(row["split_group"].strip().lower())
        if split is None:
            raise ValueError("split_group must be train, dev or test")
        found["split"] = split
    return image, derived(found)
