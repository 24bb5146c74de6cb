"""Slides of any format behind one `Slide`: find them, open them, read their pixels."""

from __future__ import annotations

from atlas_path.slides.base import (
    KeepsAttributes,
    Kind,
    KnowsItsTissue,
    Level,
    Slide,
    SlideReader,
    SlideSource,
)
from atlas_path.slides.colour import apply_icc_srgb
from atlas_path.slides.describe import describe
from atlas_path.slides.find import find_slides
from atlas_path.slides.fingerprint import Fingerprint, fingerprint
from atlas_path.slides.jpeg_tiles import JpegTiles
from atlas_path.slides.registry import open_slide, require_mpp
from atlas_path.slides.thumbnail import Thumbnail, read_thumbnail

__all__ = [
    "Fingerprint",
    "JpegTiles",
    "KeepsAttributes",
    "Kind",
    "KnowsItsTissue",
    "Level",
    "Slide",
    "SlideReader",
    "SlideSource",
    "Thumbnail",
    "apply_icc_srgb",
    "describe",
    "find_slides",
    "fingerprint",
    "open_slide",
    "read_thumbnail",
    "require_mpp",
]
