"""Vendor formats through OpenSlide, with three of its habits mended.

One unreadable tile makes every later read of the same handle fail: the handle is replaced and the read tried
once more on a fresh one. Formats that are plain tiled JPEG underneath (Aperio, Philips, DICOM) are read from
the raw tiles: the same pixels, twice as fast, and never shifted by a fraction of a pixel on coarse levels.
Areas the scanner did not visit are transparent in OpenSlide; here they are background.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile
from openslide import lowlevel

from atlas_path.errors import UnreadableSlideError, UnsupportedSlideError
from atlas_path.slides.base import SlideReader, plausible_mpp, pyramid
from atlas_path.slides.jpeg_tiles import JpegTiles
from atlas_path.slides.tiff_pages import JPEG2000, PageTiles, SharedFile
from atlas_path.slides.tiling import TileCache, fill_from_tiles

_PLAIN_TILED_VENDORS = {"aperio", "philips"}
_ERRORS = (openslide.OpenSlideError, OSError, ValueError)


class OpenSlideSlide(SlideReader):
    """A slide that OpenSlide opens. Its pixels are 8-bit RGB: others are routed away before they come here.

    Raises:
        UnreadableSlideError: empty, truncated, damaged, or a companion file is missing.
        UnsupportedSlideError: not a format of OpenSlide.
    """

    reader = "openslide"
    reader_version = f"openslide {openslide.__library_version__}"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()
        self._handle: openslide.OpenSlide | None = self._open()
        self._cache = TileCache()
        properties = self._handle.properties
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR)
        self._white = _background(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR))
        self._steps = tuple(self._handle.level_downsamples)
        self.levels = pyramid([(height, width) for width, height in self._handle.level_dimensions], path)
        self.mpp = plausible_mpp(
            _number(properties.get(openslide.PROPERTY_NAME_MPP_Y)),
            _number(properties.get(openslide.PROPERTY_NAME_MPP_X)),
        )
        self.mpp_source = "openslide.mpp-x" if self.mpp else None
        self.bounds_px = _bounds(properties)
        if self._handle.color_profile is not None:
            self.icc_profile = bytes(lowlevel.read_icc_profile(self._handle._osr))
        self._raw: dict[int, JpegTiles] = {}
        self._stored: dict[int, PageTiles] = {}
        self._files: list[SharedFile] = []
        self._tile_px = [
            (
                properties.get(f"openslide.level[{i}].tile-height"),
                properties.get(f"openslide.level[{i}].tile-width"),
            )
            for i in range(len(self.levels))
        ]
        self._look_underneath()

    def jpeg_tiles(self, level: int) -> JpegTiles | None:
        return self._raw.get(level)

    def use_raw_tiles(self, level: int, tiles: JpegTiles) -> None:
        """Read a level from these tiles from now on; they must hold the same pixels."""
        self._raw[level] = tiles

    def tile_px(self, level: int) -> tuple[int, int] | None:
        height, width = self._tile_px[level]
        return (int(height), int(width)) if height and width else None

    def close(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None
        self._cache.clear()
        for tiles in self._raw.values():
            tiles.close()
        for file in self._files:
            file.close()

    def _read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        raw = self._raw.get(level)
        if raw is None:
            return self._read_openslide(level, y_px, x_px, height_px, width_px)
        region = np.full((height_px, width_px, 3), self.background, np.uint8)
        fill_from_tiles(
            region,
            y_px,
            x_px,
            raw.tile_height_px,
            raw.tile_width_px,
            lambda row, col: self._cache.get((level, row, col), lambda: raw.decode(row, col)),
        )
        return region

    def _read_openslide(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        if level in self._stored:
            self._stored[level].check_area(y_px, x_px, height_px, width_px)
        step = self._steps[level]
        corner, size = (round(x_px * step), round(y_px * step)), (width_px, height_px)
        handle = self._current()
        try:
            return self._flatten(handle.read_region(corner, level, size))
        except _ERRORS:
            self._replace(handle)
        fresh = self._open()  # of our own: another thread's bad tile cannot spoil the second try
        try:
            return self._flatten(fresh.read_region(corner, level, size))
        except _ERRORS as error:
            raise UnreadableSlideError(
                self.path,
                f"level {level} does not decode at y={y_px} x={x_px} ({_one_line(error, self.path)})",
                "copy the file again or rescan the slide",
            ) from error
        finally:
            fresh.close()

    def _flatten(self, image: Any) -> np.ndarray:
        """RGB on the slide's background colour."""
        rgba = np.asarray(image)
        alpha = rgba[..., 3]
        rgb = np.ascontiguousarray(rgba[..., :3])
        if alpha.min() == 255:
            return rgb
        opacity = alpha[..., None].astype(np.float32) / 255
        return np.asarray(np.rint(rgb * opacity + self._white * (1 - opacity)), np.uint8)

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self.path)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise UnsupportedSlideError(
                self.path, "not a slide format that OpenSlide knows", "check that the file is a slide"
            ) from error
        except _ERRORS as error:
            raise UnreadableSlideError(
                self.path,
                f"damaged, cut off, or with a missing companion file ({_one_line(error, self.path)})",
                "copy all files of the slide again and compare sizes",
            ) from error

    def _current(self) -> openslide.OpenSlide:
        with self._lock:
            if self._handle is None:
                self._handle = self._open()
            return self._handle

    def _replace(self, broken: openslide.OpenSlide) -> None:
        """Drop the handle that failed. It is left to the garbage collector: other threads may be reading."""
        with self._lock:
            if self._handle is broken:
                self._handle = None

    def _look_underneath(self) -> None:
        """Compression of level 0 and, for plain tiled TIFFs, the raw JPEG tiles of each level."""
        try:
            with tifffile.TiffFile(self.path) as tif:
                largest = max(tif.pages, key=lambda page: page.imagelength * page.imagewidth)
                self.compression = _compression(largest)
                if self.vendor not in _PLAIN_TILED_VENDORS:
                    return
                file = SharedFile(self.path)
                tiled = {(page.imagelength, page.imagewidth): page for page in tif.pages if page.is_tiled}
                for number, level in enumerate(self.levels):
                    page = tiled.get((level.height_px, level.width_px))
                    if page is None:
                        continue
                    stored = PageTiles(file, page)
                    if stored.jpeg is not None:
                        self._raw[number] = stored.jpeg
                    else:
                        self._stored[number] = stored
                        self._files.append(file)
        except Exception:  # noqa: BLE001 - no TIFF, or one that tifffile cannot parse: OpenSlide alone reads it
            self.compression = None


def _compression(page: Any) -> str | None:
    code = int(page.compression)
    return "jpeg2000" if code in JPEG2000 else tifffile.COMPRESSION(code).name.lower()


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _bounds(properties: Any) -> tuple[int, int, int, int] | None:
    names = ("bounds-y", "bounds-x", "bounds-height", "bounds-width")
    values = [properties.get(f"openslide.{name}") for name in names]
    if any(value is None for value in values):
        return None
    y, x, height, width = (int(float(value)) for value in values)
    return y, x, height, width


def _background(hexadecimal: str | None) -> np.ndarray:
    value = hexadecimal or "FFFFFF"
    return np.array([int(value[i : i + 2], 16) for i in (0, 2, 4)], np.float32)


def _one_line(error: BaseException, path: Path) -> str:
    """OpenSlide's words without the path, which the error names already."""
    return " ".join(str(error).replace(str(path.parent), "").split())[:200]
