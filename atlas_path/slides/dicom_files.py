"""Which files are DICOM, and which of them are levels of one whole-slide series."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

import pydicom

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", "")  # exports often write no suffix at all
WHOLE_SLIDE_SOP = "1.2.840.10008.5.1.4.1.1.77.1.6"


def is_dicom(path: Path) -> bool:
    """True for a file that starts as DICOM part 10 says: 128 bytes of preamble, then DICM."""
    if path.suffix.lower() not in DICOM_SUFFIXES or path.name == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def slide_series_uid(path: Path) -> str | None:
    """Series of a whole-slide instance; None for any other file. It tells files apart, it is never shown."""
    if not is_dicom(path):
        return None
    status = path.stat()
    return _series_uid(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16384)
def _series_uid(path: Path, _mtime_ns: int, _size: int) -> str | None:
    """Kept in memory: folders of thousands of instances are asked about once for each slide in them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesInstanceUID"]
            )
            is_slide = str(header.get("SOPClassUID", "")) == WHOLE_SLIDE_SOP
            uid = str(header.get("SeriesInstanceUID", ""))
    except Exception:  # noqa: BLE001 - a damaged header breaks the parser anywhere; opening it will say so
        return None
    return uid if is_slide and uid else None


def series_files(path: Path) -> list[Path]:
    """All files in the folder of a whole-slide instance that belong to its series; itself for other files."""
    uid = slide_series_uid(path)
    if uid is None:
        return [path]
    return sorted(file for file in path.parent.iterdir() if slide_series_uid(file) == uid)
