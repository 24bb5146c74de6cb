"""Which reader opens a file. Decided by content; by suffix only where content says too little.

OpenSlide takes the vendor formats. It would give the first channel of some 16-bit and multichannel files as
8-bit RGB without a word, so every TIFF is looked at first and such files go to the TIFF reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from atlas_path.errors import (
    MissingMppError,
    SlideError,
    UnreadableSlideError,
    UnsupportedSlideError,
    UsageError,
)
from atlas_path.geometry import Mpp
from atlas_path.slides.base import Slide, SlideReader
from atlas_path.slides.dicom_files import is_dicom
from atlas_path.slides.find import is_zarr_folder, may_be_mammogram
from atlas_path.slides.tiff_directories import check_directories

if TYPE_CHECKING:
    from atlas_path.slides.mammo_options import MammoOptions

GIVEN_MPP = (0.01, 1000.0)  # wider than what is believed of a file: reduced mammograms have 400 um/px
_OPENSLIDE_SUFFIXES = {".mrxs", ".vms", ".vmu", ".svslide", ".czi"}
_TIFF_FALLBACK = {"aperio", "hamamatsu", "leica"}  # not those whose tiles overlap: they need stitching
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC, _JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def open_slide(path: Path, mpp: float | Mpp | None = None, mammo: MammoOptions | None = None) -> Slide:
    """Open any supported image. `mpp`, when given, overrides what the file says; `mammo` holds the policies
    of the mammography reader.

    Raises:
        UnreadableSlideError: missing, empty, cut off, damaged or not an image.
        UnsupportedSlideError: an image of a kind that would be read wrongly.
        UsageError: the given `mpp` cannot be.
    """
    given = None if mpp is None else _checked(Path(path), mpp)
    slide = _open(Path(path), mammo)
    if given is not None:
        slide.mpp, slide.mpp_source = given, "given"
    return slide


def _checked(path: Path, mpp: float | Mpp) -> Mpp:
    given = mpp if isinstance(mpp, Mpp) else Mpp.square(float(mpp))
    low, high = GIVEN_MPP
    if not (low <= given.y <= high and low <= given.x <= high):
        raise UsageError(
            path,
            f"cannot have {given.y:g} x {given.x:g} um per pixel",
            f"give a value from {low:g} to {high:g}",
        )
    return given


def require_mpp(slide: Slide) -> Mpp:
    """The slide's micrometres per pixel.

    Raises:
        MissingMppError: neither the file nor the caller says it.
    """
    if slide.mpp is None:
        raise MissingMppError(
            getattr(slide, "subject", slide.path),
            "says no micrometres per pixel",
            "give them in --mpp-csv (columns wsi,mpp) or in the cohort's mpp column",
        )
    return slide.mpp


def _open(path: Path, mammo: MammoOptions | None) -> SlideReader:
    if not path.exists():
        raise UnreadableSlideError(path, "does not exist", "check the path")
    if path.is_dir():
        return _open_folder(path)
    films = mammo.films if mammo else None
    if may_be_mammogram(path, films):
        from atlas_path.slides.mammo import MammogramSlide, is_mammogram

        if is_mammogram(path, films):
            return MammogramSlide(path, options=mammo)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UnreadableSlideError(
            path, f"cannot be read ({error.strerror})", "check its permissions"
        ) from error
    if size == 0:
        raise UnreadableSlideError(path, "is empty (0 bytes)", "copy the file again")
    if path.suffix.lower() == ".mrxs" and not (path.with_suffix("") / "Slidedat.ini").is_file():
        raise UnreadableSlideError(
            path, f"its folder {path.stem}/ with Slidedat.ini is missing", "copy the folder beside it"
        )
    if path.suffix.lower() in _OPENSLIDE_SUFFIXES:
        return _openslide(path)
    if head[:4] in _TIFF_MAGIC:
        return _open_tiff(path)
    if head[128:132] == b"DICM":
        return _open_dicom(path)
    if head[:8] == _PNG_MAGIC or head[:3] == _JPEG_MAGIC:
        from atlas_path.slides.flat import FlatSlide

        return FlatSlide(path)
    raise UnreadableSlideError(path, f"is not an image of a known format ({_guess(head)})", "check the file")


def _open_folder(path: Path) -> SlideReader:
    if is_zarr_folder(path):
        from atlas_path.slides.ome_zarr import OmeZarrSlide

        return OmeZarrSlide(path)
    instances = sorted(file for file in path.iterdir() if is_dicom(file))
    if instances:
        return _open_dicom(instances[0])
    raise UnsupportedSlideError(
        path, "is a folder but no slide", "give the slide file, or a folder to search"
    )


def _open_tiff(path: Path) -> SlideReader:
    from atlas_path.slides.tiff import TiffSlide

    vendor = _openslide_vendor(path)
    if vendor in (None, "generic-tiff"):
        check_directories(path)
        return TiffSlide(path)
    loss = _what_openslide_would_lose(path)
    if loss:
        slide = TiffSlide(path)
        slide.notes = (*slide.notes, f"read with tifffile: OpenSlide would lose {loss}")
        return slide
    try:
        return _openslide(path)
    except SlideError as refusal:
        if vendor not in _TIFF_FALLBACK:
            raise
        check_directories(path)
        try:
            slide = TiffSlide(path)
        except SlideError:
            raise refusal from None
        slide.notes = (*slide.notes, f"read with tifffile: OpenSlide does not open this {vendor} file")
        return slide


def _open_dicom(path: Path) -> SlideReader:
    from atlas_path.slides.dicom_wsi import open_dicom

    return open_dicom(path)


def _openslide(path: Path) -> SlideReader:
    from atlas_path.slides.openslide_reader import OpenSlideSlide

    return OpenSlideSlide(path)


def _openslide_vendor(path: Path) -> str | None:
    import openslide

    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except (openslide.OpenSlideError, OSError):
        return None
    return str(vendor) if vendor else None


def _what_openslide_would_lose(path: Path) -> str | None:
    """Depth or channels that OpenSlide's 8-bit RGB cannot hold, in words; None when it loses nothing."""
    try:
        with tifffile.TiffFile(path) as tif:
            largest = max(tif.pages, key=lambda page: page.imagelength * page.imagewidth)
            if largest.dtype is not None and np.dtype(largest.dtype) != np.uint8:
                return f"the depth of {np.dtype(largest.dtype).name} pixels"
            if largest.samplesperpixel not in (3, 4):
                return f"the kind of its {largest.samplesperpixel}-channel pixels"
            if tif.is_qpi or tif.is_ome:
                return "its channels"
    except Exception:  # noqa: BLE001 - damage breaks the parser anywhere; OpenSlide will say what is wrong
        return None
    return None


def _guess(head: bytes) -> str:
    if not head.strip(b"\0"):
        return "only zero bytes"
    if b"\0" not in head:
        try:
            head.decode("utf-8")
        except UnicodeDecodeError as error:
            return "plain text" if error.start > len(head) - 4 else "unknown bytes"
        return "plain text"
    return "unknown bytes"
