"""A folder of plain images as a cohort: `train/<class>/*.jpg`, `val/<class>/*.jpg`, as benchmarks come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from atlas_path.cohort.table import SPLIT_ALIASES, SPLITS, Case, Cohort, ImageRow
from atlas_path.errors import CohortError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
LABEL = "label"


def read_folder_cohort(folder: Path, label_columns: tuple[str, ...] = (LABEL,)) -> Cohort:
    """Every image is a case; its class is its folder's name, its split the folder above.

    Args:
        folder: holds `train` and any of `val`, `tune`, `test`, each with one folder a class.
        label_columns: only `label` exists.

    Raises:
        CohortError: no such layout, no images, or another label column asked for.
    """
    if tuple(label_columns) != (LABEL,):
        raise CohortError(folder, "an image folder has one label, its classes", "set task.label: label")
    cases = list(_cases(folder))
    splits = {case.split for case in cases}
    if "train" not in splits:
        raise CohortError(
            folder, "no images under train/<class>/", "give train/<class>/*.jpg and val/<class>/*.jpg"
        )
    return Cohort(folder / "images", tuple(cases), (LABEL,))


def _cases(folder: Path) -> Iterator[Case]:
    row = 0
    for split_folder in sorted(p for p in folder.iterdir() if p.is_dir()):
        split = SPLIT_ALIASES.get(split_folder.name.lower(), split_folder.name.lower())
        if split not in SPLITS:
            continue
        for class_folder in sorted(p for p in split_folder.iterdir() if p.is_dir()):
            for path in sorted(class_folder.iterdir()):
                if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                    continue
                row += 1
                place = path.relative_to(folder)
                name = place.with_suffix("").as_posix()
                image = ImageRow(name, place.as_posix(), None, row)
                yield Case(name, name, (image,), {LABEL: class_folder.name}, split=split)
