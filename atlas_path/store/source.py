"""The pixels of level 0 of the store, a window at a time, and what of them could not be read.

A column of the slide is read from top to bottom in rows of windows. Where the slide's level is JPEG tiles
they are decoded here, each tile of a column once, at 1/2, 1/4 or 1/8 by the decoder itself when the store is
coarser. Every other format goes through `Slide.read_region`. Windows that are not kept are not read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from atlas_path.errors import SlideError
from atlas_path.geometry import WINDOW_PX
from atlas_path.slides.base import Slide
from atlas_path.slides.colour import apply_icc_srgb
from atlas_path.slides.jpeg_tiles import Tile
from atlas_path.store.job import Job

Tiles = dict[tuple[int, int], np.ndarray | None]  # by row and column
READ_WINDOWS = 4  # windows along each side of one read_region: large reads, small enough to find damage


class BaseReader:
    """Reads columns of level 0 of the store. Columns may be read by several threads at once.

    Args:
        slide: the open slide; it must outlive the reader.
        job: says how level 0 is made of it.
    """

    def __init__(self, slide: Slide, job: Job) -> None:
        self._slide, self._job = slide, job
        self._keep = job.levels[0].keep
        self._icc_profile = slide.icc_profile if job.icc_srgb else None
        self.bad_px = np.zeros(self._keep.shape, np.int64)  # unreadable pixels of each window
        self.n_bad = 0  # windows with any
        base = job.base
        tiles = None if base.resample else slide.jpeg_tiles(base.level)
        if tiles is not None and (tiles.tile_height_px % base.shrink or tiles.tile_width_px % base.shrink):
            tiles = None
        self._tiles = tiles

    def windows(self, rows: range, cols: range) -> Iterator[tuple[int, Iterator[tuple[int, np.ndarray]]]]:
        """(row, windows) of each row; of the windows that are kept (col, pixels (256, 256, channels)).

        Pixels that are unreadable or beyond the slide are background. An array is the caller's to change
        until the next one is asked for. All windows of a row must be taken before the next row.
        """
        source = self._windows_of_tiles if self._tiles is not None else self._windows_of_regions
        for row, windows in source(rows, cols):
            yield row, self._in_srgb(windows) if self._icc_profile else windows

    def _in_srgb(self, windows: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        for col, pixels in windows:
            pixels[...] = apply_icc_srgb(pixels, self._icc_profile)  # what it returns cannot be written to
            yield col, pixels

    def _kept(self, row: int, cols: range) -> list[int]:
        """Columns of the windows of a row that are kept."""
        return [int(i) + cols.start for i in np.flatnonzero(self._keep[row, cols.start : cols.stop])]

    def _windows_of_tiles(
        self, rows: range, cols: range
    ) -> Iterator[tuple[int, Iterator[tuple[int, np.ndarray]]]]:
        """Each window from the tiles it touches; a tile is decoded once, and dropped behind its last row."""
        assert self._tiles is not None
        tile_h = self._tiles.tile_height_px // self._job.base.shrink
        decoded: Tiles = {}
        for row in rows:
            for at in [at for at in decoded if (at[0] + 1) * tile_h <= row * WINDOW_PX]:
                del decoded[at]
            yield row, self._row_from_tiles(row, rows, cols, decoded)

    def _row_from_tiles(
        self, row: int, rows: range, cols: range, decoded: Tiles
    ) -> Iterator[tuple[int, np.ndarray]]:
        """A window at a time, so that its pixels are still in the processor's cache when it is encoded."""
        tiles, base, background = self._tiles, self._job.base, self._job.background
        assert tiles is not None
        tile_h, tile_w = tiles.tile_height_px // base.shrink, tiles.tile_width_px // base.shrink
        window = np.empty((WINDOW_PX, WINDOW_PX, self._slide.n_channels), self._slide.dtype)
        down = _overlaps(row, tile_h, base.height_px)
        across = {col: _overlaps(col, tile_w, base.width_px) for col in self._kept(row, cols)}
        under = {(y.tile, x.tile) for y in down for overlaps in across.values() for x in overlaps}
        new = sorted(under - decoded.keys())
        raw = dict(zip(new, tiles.raw_many(new), strict=True))
        for col, overlaps in across.items():
            parts = list(itertools.product(down, overlaps))
            here = [(y.tile, x.tile) for y, x in parts if (y.tile, x.tile) in raw]
            coded = [raw.pop(at) for at in here]
            for at, tile in zip(here, tiles.decode_many(here, coded, base.shrink), strict=True):
                decoded[at] = self._tile_or_none(at, tile, rows, cols)
            whole = down[-1].to.stop == overlaps[-1].to.stop == WINDOW_PX
            only = decoded[down[0].tile, overlaps[0].tile]
            if whole and only is not None and tile_h == tile_w == WINDOW_PX:
                yield col, only  # no other window has a share in this tile
                continue
            if not whole:
                window[...] = background
            for y, x in parts:
                tile = decoded[y.tile, x.tile]
                window[y.to, x.to] = background if tile is None else tile[y.of, x.of]
            yield col, window

    def _tile_or_none(self, at: tuple[int, int], tile: Tile, rows: range, cols: range) -> np.ndarray | None:
        """The decoded tile; None where there is none, or where it is damaged: its pixels count as bad."""
        if not isinstance(tile, SlideError):
            return tile
        tiles, base = self._tiles, self._job.base
        assert tiles is not None
        tile_h, tile_w = tiles.tile_height_px // base.shrink, tiles.tile_width_px // base.shrink
        self._add_bad(
            max(at[0] * tile_h, rows.start * WINDOW_PX),
            max(at[1] * tile_w, cols.start * WINDOW_PX),
            min((at[0] + 1) * tile_h, base.height_px, rows.stop * WINDOW_PX),
            min((at[1] + 1) * tile_w, base.width_px, cols.stop * WINDOW_PX),
        )
        return None

    def _windows_of_regions(
        self, rows: range, cols: range
    ) -> Iterator[tuple[int, Iterator[tuple[int, np.ndarray]]]]:
        """Read squares of 4 x 4 windows, single windows where a square fails."""
        cols = range(cols.start, min(cols.stop, self._keep.shape[1]))
        shape = (READ_WINDOWS * WINDOW_PX, len(cols) * WINDOW_PX, self._slide.n_channels)
        canvas = np.empty(shape, self._slide.dtype)
        for first in range(rows.start, rows.stop, READ_WINDOWS):
            group = range(first, min(first + READ_WINDOWS, rows.stop))
            keep = self._keep[group.start : group.stop, cols.start : cols.stop]
            if keep.any():
                canvas[...] = self._job.background
                for left in range(0, len(cols), READ_WINDOWS):
                    if keep[:, left : left + READ_WINDOWS].any():
                        square = range(cols.start + left, min(cols.start + left + READ_WINDOWS, cols.stop))
                        self._read_square(group, square, canvas[:, left * WINDOW_PX :])
            for i, row in enumerate(group):
                yield row, self._cut(canvas[i * WINDOW_PX : (i + 1) * WINDOW_PX], row, cols)

    def _cut(self, canvas: np.ndarray, row: int, cols: range) -> Iterator[tuple[int, np.ndarray]]:
        """The kept windows of a row of windows."""
        for col in self._kept(row, cols):
            left = (col - cols.start) * WINDOW_PX
            yield col, np.ascontiguousarray(canvas[:, left : left + WINDOW_PX])

    def _read_square(self, rows: range, cols: range, canvas: np.ndarray) -> None:
        """Read windows into the upper left corner of the canvas."""
        base = self._job.base
        y, x = rows.start * WINDOW_PX, cols.start * WINDOW_PX
        height, width = (
            min(len(rows) * WINDOW_PX, base.height_px - y),
            min(len(cols) * WINDOW_PX, base.width_px - x),
        )
        if height <= 0 or width <= 0:
            return
        try:
            canvas[:height, :width] = self._region(y, x, height, width)
        except SlideError:
            if len(rows) == len(cols) == 1:
                self._add_bad(y, x, y + height, x + width)
                return
            for i, row in enumerate(rows):
                for j, col in enumerate(cols):
                    if self._keep[row, col]:
                        part = canvas[i * WINDOW_PX :, j * WINDOW_PX :]
                        self._read_square(range(row, row + 1), range(col, col + 1), part)

    def _region(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Pixels of the store's level 0, reduced or resampled as the plan says.

        When resampling, (y, x) are whole windows; a part window at the edge is resampled whole, so that it
        does not depend on where the block ends.
        """
        base = self._job.base
        if base.resample is None:
            shrink = base.shrink
            pixels = self._slide.read_region(
                base.level, y * shrink, x * shrink, height * shrink, width * shrink
            )
            return _resize(pixels, height, width) if shrink > 1 else pixels
        per_y, per_x = base.resample[0] * base.shrink, base.resample[1] * base.shrink
        rows, cols = -(-height // WINDOW_PX), -(-width // WINDOW_PX)
        pixels = self._slide.read_region(
            base.level, y // WINDOW_PX * per_y, x // WINDOW_PX * per_x, rows * per_y, cols * per_x
        )
        return _resize(pixels, rows * WINDOW_PX, cols * WINDOW_PX)[:height, :width]

    def _add_bad(self, y0: int, x0: int, y1: int, x1: int) -> None:
        """Count the pixels of a box as bad in the kept windows it touches."""
        for row in range(y0 // WINDOW_PX, (y1 - 1) // WINDOW_PX + 1):
            for col in range(x0 // WINDOW_PX, (x1 - 1) // WINDOW_PX + 1):
                if self._keep[row, col]:
                    height = min(y1, (row + 1) * WINDOW_PX) - max(y0, row * WINDOW_PX)
                    width = min(x1, (col + 1) * WINDOW_PX) - max(x0, col * WINDOW_PX)
                    self.n_bad += int(self.bad_px[row, col] == 0)
                    self.bad_px[row, col] += height * width


@dataclass(frozen=True, slots=True)
class Overlap:
    """Along one axis: the pixels `of` a tile that a window shows, and where in the window they go `to`."""

    tile: int
    of: slice
    to: slice


def _overlaps(window: int, tile_px: int, level_px: int) -> list[Overlap]:
    """The tiles under a window (its row or column), within a level of that size."""
    start, stop = window * WINDOW_PX, min((window + 1) * WINDOW_PX, level_px)
    return [
        Overlap(
            tile,
            slice(max(start - tile * tile_px, 0), min(stop - tile * tile_px, tile_px)),
            slice(max(tile * tile_px - start, 0), min((tile + 1) * tile_px, stop) - start),
        )
        for tile in range(start // tile_px, (stop - 1) // tile_px + 1)
    ]


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area average; keeps the channel axis that cv2 drops for one channel."""
    if pixels.dtype.kind not in "ui" or pixels.itemsize <= 2:
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    else:
        small = cv2.resize(pixels.astype(np.float64), (width, height), interpolation=cv2.INTER_AREA)
        small = np.rint(small).astype(pixels.dtype)
    return np.asarray(small).reshape(height, width, pixels.shape[2])


def halve(pixels: np.ndarray) -> np.ndarray:
    """2x mean downsampling of (height, width, channels) with even sides, rounded to the nearest."""
    return _resize(pixels, pixels.shape[0] // 2, pixels.shape[1] // 2)
