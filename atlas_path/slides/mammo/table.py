"""`mammograms.csv`: what a folder of films says about itself, or what corrects DICOM headers.

A folder that holds a table of this name (or lies below such a folder) is a mammography folder. One row a
file: `file` (relative to the table), `view`, `laterality`, and if known `mpp` (micrometres) or `spacing_mm`,
`bits`, `photometric`, `image_id`, `exam_id`, `patient_id`. Values here beat those of a DICOM header.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from atlas_path.errors import CohortError
from atlas_path.geometry import Mpp

TABLE_NAME = "mammograms.csv"
FOLDERS_UP = 4
FILE_COLUMNS = ("file", "path", "file_path")
FILM_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".pgm"})
PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class FilmRow:
    """One row: values as the table gives them, checked; None where it is silent."""

    file: str
    view: str | None = None
    laterality: str | None = None
    mpp: Mpp | None = None
    bits: int | None = None
    photometric: str | None = None
    image_id: str | None = None
    exam_id: str | None = None
    patient_id: str | None = None


def film_row(path: Path, table: Path | None = None) -> FilmRow | None:
    """The row of `path` in `table`, else in the nearest `mammograms.csv` at or above its folder, else None.

    Raises:
        CohortError: the table has no `file` column, or the row holds a value that cannot be.
    """
    absolute = path.absolute()
    if table is not None:
        row = _row(table, os.path.relpath(absolute, table.absolute().parent)) or _row(table, str(absolute))
        if row is not None:
            return row
    for folder in [absolute.parent, *absolute.parents[1 : FOLDERS_UP + 1]]:
        near = folder / TABLE_NAME
        if near.is_file():
            return _row(near, absolute.relative_to(folder).as_posix())
    return None


def _row(table: Path, file: str) -> FilmRow | None:
    status = table.stat()
    row = _rows(table, status.st_mtime_ns, status.st_size).get(file)
    return None if row is None else _checked(table, row)


@lru_cache(maxsize=8)
def _rows(table: Path, _mtime_ns: int, _size: int) -> dict[str, dict[str, str]]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        key = next((name for name in FILE_COLUMNS if name in (reader.fieldnames or ())), None)
        if key is None:
            raise CohortError(table.name, "has no column 'file'", "name each image relative to the table")
        return {
            row[key].strip(): {k: (v or "").strip() for k, v in row.items() if k is not None}
            for row in reader
        }


def _checked(table: Path, row: Mapping[str, str]) -> FilmRow:
    def number(column: str) -> float | None:
        text = row.get(column, "")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not value > 0:
            raise CohortError(table.name, f"column '{column}' holds '{text}'", "give a positive number")
        return value

    mpp, spacing_mm, bits = number("mpp"), number("spacing_mm"), number("bits")
    um = mpp if mpp is not None else (spacing_mm * 1000.0 if spacing_mm is not None else None)
    photometric = row.get("photometric", "").upper() or None
    if photometric is not None and photometric not in PHOTOMETRIC:
        raise CohortError(table.name, f"photometric '{photometric}'", "use MONOCHROME1 or MONOCHROME2")
    if bits is not None and not (bits == int(bits) and bits <= 16):
        raise CohortError(table.name, f"bits {bits:g}", "use a whole number up to 16")
    return FilmRow(
        row.get("file") or row.get("path") or "",
        row.get("view") or None,
        row.get("laterality") or row.get("side") or None,
        None if um is None else Mpp.square(um),
        None if bits is None else int(bits),
        photometric,
        row.get("image_id") or None,
        row.get("exam_id") or None,
        row.get("patient_id") or None,
    )
