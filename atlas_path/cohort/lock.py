"""`cohort.lock.csv`: exactly which images were used, in which split, with which fingerprint."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from atlas_path.cohort.table import Cohort

FIRST = ("case_id", "patient_id", "image_id", "path", "split", "fold")


def write_lock(path: Path, cohort: Cohort, facts: Mapping[str, Mapping[str, str]]) -> None:
    """Write one row an image.

    Args:
        path: the file to write.
        cohort: cases with their splits.
        facts: image_id -> further columns, such as fingerprint, mpp, windows.
    """
    extra = sorted({key for case in cohort.cases for image in case.images for key in image.attributes})
    fact_names = list(dict.fromkeys(key for row in facts.values() for key in row))
    names = list(dict.fromkeys((*FIRST, *cohort.label_columns, *fact_names, *extra)))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        for case in cohort.cases:
            for image in case.images:
                writer.writerow(
                    {
                        **image.attributes,
                        "case_id": case.case_id,
                        "patient_id": case.patient_id,
                        "image_id": image.image_id,
                        "path": image.path or "",
                        "split": case.split or "",
                        "fold": "" if case.fold is None else case.fold,
                        **{label: value or "" for label, value in case.labels.items()},
                        **facts.get(image.image_id, {}),
                    }
                )


def read_lock(path: Path) -> list[dict[str, str]]:
    """Rows of a `cohort.lock.csv`."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
