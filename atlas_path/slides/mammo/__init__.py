"""Mammograms as slides: DICOM (and films that a table describes) behind the Slide protocol."""

from __future__ import annotations

from pathlib import Path

from atlas_path.dicom import Pseudonyms
from atlas_path.errors import SlideError
from atlas_path.geometry import Mpp
from atlas_path.slides.mammo.header import DICOM_SUFFIXES, has_dicom_magic, read_header, subject_of
from atlas_path.slides.mammo.reader import MammogramSlide
from atlas_path.slides.mammo.routing import is_whole_slide
from atlas_path.slides.mammo.table import FILM_SUFFIXES, film_row
from atlas_path.slides.mammo_options import MammoOptions

__all__ = ["MammoOptions", "MammogramSlide", "is_mammogram", "mammogram_id", "open_mammogram"]


def is_mammogram(path: Path, films: Path | None = None) -> bool:
    """Whether this reader answers for the file: DICOM other than a whole-slide image, or a film in a table.

    It also answers for what calls itself DICOM and is not (`.dcm` without the DICM mark), and for DICOM that
    is no mammogram, to refuse them with the right reason.
    """
    if not path.is_file():
        return False
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in FILM_SUFFIXES:
        return film_row(path, films) is not None
    if not has_dicom_magic(path):
        return path.suffix.lower() in DICOM_SUFFIXES
    try:
        return not is_whole_slide(read_header(path))
    except SlideError:
        return True


def open_mammogram(
    path: Path, mpp: Mpp | float | None = None, options: MammoOptions | None = None
) -> MammogramSlide:
    """Open one mammogram; see `MammogramSlide`."""
    return MammogramSlide(path, Mpp.square(mpp) if isinstance(mpp, (int, float)) else mpp, options)


def mammogram_id(path: Path, films: Path | None = None) -> str:
    """The pseudonym that names a mammogram's store, rows and pictures; its file name never does.

    The table's own `image_id`, else the salted hash of the SOP instance UID, else that of the path.
    """
    row = film_row(path, films)
    if row is not None and row.image_id:
        return row.image_id
    if row is not None and path.suffix.lower() in FILM_SUFFIXES:
        return Pseudonyms.of_site().id_of("film", row.file)
    try:
        return read_header(path).subject.rpartition(" ")[2]
    except SlideError:
        return subject_of(path).rpartition(" ")[2]
