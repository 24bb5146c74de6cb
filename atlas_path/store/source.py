"""The pixels of level 0 of the store, a row of windows at a time, and what of them could not be read.

A column of the slide is read from top to bottom in rows of windows. Where the slide's level is JPEG tiles
they are decoded here, each tile of a column once, at 1/2, 1/4 or 1/8 by the decoder itself when the store is
coarser. Every other format goes through `Slide.read_region`. Windows that are not kept are not read.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from atlas_path.errors import SlideError
from atlas_path.geometry import WINDOW_PX
from atlas_path.slides.base import Slide
from atlas_path.slides.colour import apply_icc_srgb
from atlas_path.slides.jpeg_tiles import JpegTiles
from atlas_path.store.job import Job

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

    def rows(self, rows: range, cols: range) -> Iterator[tuple[int, np.ndarray | None]]:
        """(row, pixels (256, 256 * len(cols), channels)) of each row of windows; None where none is kept.

        Windows that are not kept, and pixels that are unreadable or beyond the slide, are background. The
        array is overwritten by the next row.
        """
        source = self._rows_of_tiles if self._tiles is not None else self._rows_of_regions
        for row, pixels in source(rows, cols):
            if pixels is not None:
                if self._icc_profile:
                    pixels[...] = apply_icc_srgb(pixels, self._icc_profile)
                for i in np.flatnonzero(~self._keep_of(row, cols)):
                    pixels[:, i * WINDOW_PX : (i + 1) * WINDOW_PX] = self._job.background
            yield row, pixels

    def _keep_of(self, row: int, cols: range) -> np.ndarray:
        """(len(cols),) bool, False beyond the grid."""
        keep = np.zeros(len(cols), bool)
        inside = self._keep[row, cols.start : cols.stop]
        keep[: len(inside)] = inside
        return keep

    def _rows_of_tiles(self, rows: range, cols: range) -> Iterator[tuple[int, np.ndarray | None]]:
        """Decode each row of tiles once; what reaches below the row of windows is carried to the next."""
        assert self._tiles is not None
        tile_h = self._tiles.tile_height_px // self._job.base.shrink
        shape = (WINDOW_PX + tile_h, len(cols) * WINDOW_PX, self._slide.n_channels)
        canvas = np.empty(shape, self._slide.dtype)  # starts at the upper edge of the row of windows
        decoded_to = None  # y in the store, up to which the canvas is filled
        for row in rows:
            top, low = row * WINDOW_PX, min((row + 1) * WINDOW_PX, self._job.base.height_px)
            if not self._keep_of(row, cols).any():
                decoded_to = None
                yield row, None
                continue
            if decoded_to is None:
                tile_row, filled = top // tile_h, top
            else:
                tile_row, filled = decoded_to // tile_h, decoded_to
            while filled < low:
                filled = self._decode_tile_row(tile_row, rows, cols, canvas, top)
                tile_row += 1
            if filled - top < WINDOW_PX:
                canvas[filled - top : WINDOW_PX] = self._job.background
            yield row, canvas[:WINDOW_PX]
            carried = max(filled - top - WINDOW_PX, 0)
            canvas[:carried] = canvas[WINDOW_PX : WINDOW_PX + carried].copy()
            decoded_to = filled

    def _decode_tile_row(self, tile_row: int, rows: range, cols: range, canvas: np.ndarray, top: int) -> int:
        """Decode one row of tiles into the canvas, whose first line is `top`; returns where it ends."""
        tiles, base = self._tiles, self._job.base
        assert tiles is not None
        tile_h, tile_w = tiles.tile_height_px // base.shrink, tiles.tile_width_px // base.shrink
        y0, y1 = max(tile_row * tile_h, top), min((tile_row + 1) * tile_h, base.height_px)
        x_start = cols.start * WINDOW_PX
        x_stop = min(cols.stop * WINDOW_PX, base.width_px)
        last_row = min((y1 - 1) // WINDOW_PX, rows.stop - 1)
        kept = self._keep[y0 // WINDOW_PX : last_row + 1].any(axis=0)
        kept_before = [0, *np.cumsum(kept).tolist()]  # windows kept left of each column
        for tile_col in range(x_start // tile_w, -(-x_stop // tile_w)):
            x0, x1 = max(tile_col * tile_w, x_start), min((tile_col + 1) * tile_w, x_stop)
            if kept_before[(x1 - 1) // WINDOW_PX + 1] == kept_before[x0 // WINDOW_PX]:
                continue
            target = canvas[y0 - top : y1 - top, x0 - x_start : x1 - x_start]
            tile = self._tile_or_none(tiles, tile_row, tile_col, (y0, x0, y1, x1), rows)
            if tile is None:
                target[...] = self._job.background
            else:
                at_y, at_x = y0 - tile_row * tile_h, x0 - tile_col * tile_w
                target[...] = tile[at_y : at_y + y1 - y0, at_x : at_x + x1 - x0]
        canvas[y0 - top : y1 - top, x_stop - x_start :] = self._job.background
        return y1

    def _tile_or_none(
        self, tiles: JpegTiles, tile_row: int, tile_col: int, box: tuple[int, int, int, int], rows: range
    ) -> np.ndarray | None:
        """The decoded tile; None, and its pixels counted as bad, where it is damaged."""
        try:
            return tiles.decode(tile_row, tile_col, self._job.base.shrink)
        except SlideError:
            y0, x0, y1, x1 = box
            self._add_bad(y0, x0, min(y1, rows.stop * WINDOW_PX), x1)
            return None

    def _rows_of_regions(self, rows: range, cols: range) -> Iterator[tuple[int, np.ndarray | None]]:
        """Read squares of 4 x 4 windows, single windows where a square fails."""
        shape = (READ_WINDOWS * WINDOW_PX, len(cols) * WINDOW_PX, self._slide.n_channels)
        canvas = np.empty(shape, self._slide.dtype)
        for first in range(rows.start, rows.stop, READ_WINDOWS):
            group = range(first, min(first + READ_WINDOWS, rows.stop))
            keep = np.stack([self._keep_of(row, cols) for row in group])
            if keep.any():
                canvas[...] = self._job.background
                for left in range(0, len(cols), READ_WINDOWS):
                    if keep[:, left : left + READ_WINDOWS].any():
                        square = range(cols.start + left, min(cols.start + left + READ_WINDOWS, cols.stop))
                        self._read_square(group, square, canvas[:, left * WINDOW_PX :])
            for i, row in enumerate(group):
                kept = bool(keep[i].any())
                yield row, canvas[i * WINDOW_PX : (i + 1) * WINDOW_PX] if kept else None

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
                    if self._keep_of(row, range(col, col + 1))[0]:
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
