"""TIFF through tifffile: plain tiled and stripped, BigTIFF, OME-TIFF, QPTIFF (one channel a page), ImageJ.

Depth and channels stay as they are in the file. Pages, planes and channels are laid out once at opening;
pixels are then read tile by tile with `pread`, so nothing is shared between threads but a bounded cache.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from atlas_path.errors import SlideError, UnreadableSlideError, UnsupportedSlideError
from atlas_path.slides.base import Kind, SlideReader, pyramid
from atlas_path.slides.jpeg_tiles import JpegTiles
from atlas_path.slides.tiff_metadata import OmeImage, qptiff_channel_name, tiff_mpp
from atlas_path.slides.tiff_pages import PALETTE, RGB, YCBCR, PageTiles, SharedFile, check_page
from atlas_path.slides.tiling import TileCache, fill_from_tiles

ICC_TAG = 34675
_NOT_A_SLIDE = re.compile(r"label|macro|thumbnail|overview", re.IGNORECASE)
_COMPRESSION_NAMES = {33003: "jpeg2000", 33005: "jpeg2000", 34712: "jpeg2000", 1: "none"}


class TiffSlide(SlideReader):
    """A TIFF slide. Of several focal planes the middle one is read; time series are refused.

    Raises:
        UnreadableSlideError: not a TIFF, or its directories are damaged or cut off.
        UnsupportedSlideError: a kind of pixels that would be shown wrongly.
    """

    reader = "tiff"
    reader_version = f"tifffile {tifffile.__version__}"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._files: dict[Path, SharedFile] = {}
        self._cache = TileCache()
        self._planes: list[list[PageTiles]] = []
        try:
            with tifffile.TiffFile(path) as tif:
                self._lay_out(tif)
        except SlideError:
            self.close()
            raise
        except Exception as error:  # a damaged header can break the parser anywhere
            self.close()
            raise UnreadableSlideError(
                path,
                f"its TIFF directories are damaged or cut off ({type(error).__name__}: {error})".replace(
                    "\n", " "
                ),
                "copy the file again and compare sizes",
            ) from error

    def jpeg_tiles(self, level: int) -> JpegTiles | None:
        planes = self._planes[level]
        return planes[0].jpeg if len(planes) == 1 else None

    def tile_px(self, level: int) -> tuple[int, int] | None:
        return self._planes[level][0].tile_height_px, self._planes[level][0].tile_width_px

    def close(self) -> None:
        self._cache.clear()
        for file in self._files.values():
            file.close()
        for planes in self._planes:
            for plane in planes:
                if plane.jpeg is not None:
                    plane.jpeg.close()

    def _read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        planes = self._planes[level]
        stored = sum(plane.n_samples for plane in planes)
        region = np.full((height_px, width_px, stored), self.background, self.dtype)
        channel = 0
        for index, plane in enumerate(planes):
            fill_from_tiles(
                region[..., channel : channel + plane.n_samples],
                y_px,
                x_px,
                plane.tile_height_px,
                plane.tile_width_px,
                lambda row, col, index=index, plane=plane: self._cache.get(  # type: ignore[misc]
                    (level, index, row, col), lambda: plane.fetch(row, col)
                ),
            )
            channel += plane.n_samples
        return region if stored == self.n_channels else _over_white(region, self.background)

    def _lay_out(self, tif: Any) -> None:
        series = _main_series(tif, self.path)
        stack = _levels_of(series, tif)
        first = series.pages[0]
        if first is None:
            raise UnreadableSlideError(
                self.path, "its first page is missing", "copy all files of the slide again"
            )
        check_page(self.path, first.keyframe)
        picks = [self._pick(level) for level in stack]
        self._planes = [[self._plane(page, plane) for page, plane in pick] for pick in picks]
        self.levels = pyramid(
            [(planes[0].height_px, planes[0].width_px) for planes in self._planes], self.path
        )
        finest = self._planes[0]
        self.dtype = finest[0].dtype
        self.vendor = _vendor(tif)
        self.mpp, self.mpp_source = tiff_mpp(tif, first, self.path)
        self._name_channels(tif, [page for page, _ in picks[0]])
        profile = first.tags.get(ICC_TAG)
        self.icc_profile = bytes(profile.value) if profile else None
        code = int(first.keyframe.compression)
        self.compression = _COMPRESSION_NAMES.get(code) or tifffile.COMPRESSION(code).name.lower()

    def _plane(self, page: Any, plane: int) -> PageTiles:
        where = Path(page.parent.filehandle.path)
        file = self._files.setdefault(where, SharedFile(where))
        return PageTiles(file, page, plane)

    def _pick(self, level: Any) -> list[tuple[Any, int]]:
        """(page, sample plane) of every channel group of one level, in channel order."""
        axes, shape = _with_channel_axis(level.axes), level.shape
        sizes = dict(zip(axes, shape, strict=True))
        outer = [axis for axis in axes if axis not in "YXS"]
        counts = [sizes[axis] for axis in outer]
        if len(level.pages) != math.prod(counts):
            raise UnsupportedSlideError(
                self.path, "its planes are not stored one a page", "save it as OME-TIFF with one plane a page"
            )
        index: list[int | slice] = []
        for axis, count in zip(outer, counts, strict=True):
            if axis == "C" or count == 1:
                index.append(slice(None) if axis == "C" else 0)
            elif axis == "T":
                raise UnsupportedSlideError(
                    self.path, f"is a time series of {count}", "export a single time point"
                )
            else:
                index.append(count // 2)
                note = f"plane {count // 2 + 1} of {count} along axis {axis} is read"
                self.notes = self.notes if note in self.notes else (*self.notes, note)
        numbers = np.arange(math.prod(counts)).reshape(counts or [1])[tuple(index) if counts else slice(None)]
        pages = [level.pages[int(number)] for number in np.atleast_1d(numbers).ravel()]
        if any(page is None for page in pages):
            raise UnreadableSlideError(
                self.path, "some of its pages are missing", "copy all files of the slide again"
            )
        key = pages[0].keyframe
        n_planes = int(key.samplesperpixel) if int(key.planarconfig) == 2 else 1
        return [(page, plane) for page in pages for plane in range(n_planes)]

    def _name_channels(self, tif: Any, pages: list[Any]) -> None:
        finest, key = self._planes[0], pages[0].keyframe
        stored = sum(plane.n_samples for plane in finest)
        colour = int(key.photometric) in (RGB, YCBCR, PALETTE) and len({id(page) for page in pages}) == 1
        alpha = colour and stored == 4 and any(int(extra) in (1, 2) for extra in key.extrasamples)
        names = _stated_names(tif, self.path, self.levels[0].height_px, self.levels[0].width_px, pages)
        lettered = [name.strip().lower()[:1] for name in names] == ["r", "g", "b"] and stored == 3
        self.kind = _kind(stored - alpha, (colour and stored in (3, 4)) or lettered)
        self.n_channels = 3 if self.kind == "rgb" else stored
        if self.kind == "rgb":
            return
        full = len(names) == stored and all(names)
        self.channel_names = tuple(names) if full else tuple(f"channel {i}" for i in range(stored))


def _kind(n_channels: int, colour: bool) -> Kind:
    if colour and n_channels == 3:
        return "rgb"
    return "mono" if n_channels == 1 else "multichannel"


def _main_series(tif: Any, path: Path) -> Any:
    """The series with the largest plane that is not a label, macro or thumbnail image."""
    slides = [
        series for series in tif.series if not _NOT_A_SLIDE.search(series.name or "") and _has_plane(series)
    ]
    if not slides:
        raise UnsupportedSlideError(path, "holds no image plane", "give a file with pixels")
    return max(slides, key=lambda series: _plane_area(series))


def _has_plane(series: Any) -> bool:
    return "Y" in series.axes and "X" in series.axes and len(series.pages) > 0


def _plane_area(series: Any) -> int:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return int(sizes["Y"]) * int(sizes["X"])


def _levels_of(series: Any, tif: Any) -> list[Any]:
    """The pyramid of a series; for plain TIFFs also smaller series of the same shape, which some writers
    leave unmarked."""
    levels = [level for level in series.levels if _has_plane(level)]
    if len(levels) > 1 or tif.is_ome:
        return levels
    height, width = _yx(series)
    for other in sorted(tif.series, key=_plane_area_or_zero, reverse=True):
        if other is series or not _has_plane(other) or _NOT_A_SLIDE.search(other.name or ""):
            continue
        h, w = _yx(other)
        factor = width / w
        same_view = (
            factor > 1.5 and abs(height / factor - h) <= 1 and abs(factor - round(factor)) * w <= factor
        )
        tiled_alike = other.keyframe.is_tiled == series.keyframe.is_tiled
        if same_view and tiled_alike and other.axes == series.axes and other.dtype == series.dtype:
            levels.append(other)
    return levels


def _plane_area_or_zero(series: Any) -> int:
    return _plane_area(series) if _has_plane(series) else 0


def _yx(series: Any) -> tuple[int, int]:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return int(sizes["Y"]), int(sizes["X"])


def _with_channel_axis(axes: str) -> str:
    """Pages of an undeclared kind ('I', 'Q') are channels when they are gray and no axis is one already."""
    if "C" in axes or "S" in axes:
        return axes
    for unknown in "IQ":
        if axes.count(unknown) == 1:
            return axes.replace(unknown, "C")
    return axes


def _stated_names(tif: Any, path: Path, height_px: int, width_px: int, pages: list[Any]) -> list[str]:
    if tif.is_ome and tif.ome_metadata:
        return OmeImage(path, tif.ome_metadata, height_px, width_px).channel_names
    if tif.is_qpi:
        whole = [page if hasattr(page, "description") else page.aspage() for page in pages]
        return [qptiff_channel_name(page.description) or "" for page in whole]
    if tif.is_imagej:
        return [str(label) for label in (tif.imagej_metadata or {}).get("Labels", [])]
    return []


def _vendor(tif: Any) -> str:
    kinds = {"is_ome": "ome-tiff", "is_qpi": "qptiff", "is_svs": "aperio", "is_philips": "philips"}
    kinds |= {"is_scn": "leica", "is_bif": "ventana", "is_ndpi": "hamamatsu", "is_imagej": "imagej"}
    return next((name for flag, name in kinds.items() if getattr(tif, flag, False)), "generic-tiff")


def _over_white(rgba: np.ndarray, white: int | float) -> np.ndarray:
    """RGB of pixels with alpha, laid on white."""
    opacity = rgba[..., 3:].astype(np.float32) / white
    blended: np.ndarray = np.rint(rgba[..., :3] * opacity + white * (1 - opacity))
    return blended.astype(rgba.dtype)
