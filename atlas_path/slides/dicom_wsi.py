"""DICOM whole-slide images: OpenSlide where it can."""

from __future__ import annotations

from pathlib import Path

from atlas_path.slides.base import SlideReader


def open_dicom(path: Path) -> SlideReader:
    """Open a DICOM whole-slide instance and the other levels of its series.

    Raises:
        UnreadableSlideError: damaged or cut off.
        UnsupportedSlideError: not a slide.
    """
    from atlas_path.slides.openslide_reader import OpenSlideSlide

    slide = OpenSlideSlide(path)
    if slide.mpp:
        slide.mpp_source = "dicom"
    return slide
