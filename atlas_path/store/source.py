"""The pixels of level 0 of the store, read from the slide block by block, with a record of what was damaged.

Where the slide's level is JPEG tiles they are decoded here, each tile once a block, at 1/2, 1/4 or 1/8 by the
decoder itself when the store is coarser. Every other format goes through `Slide.read_region`. Windows that
are not kept are not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from atlas_path.errors import SlideError
from atlas_path.geometry import WINDOW_PX
from atlas_path.slides.base import Slide
from atlas_path.slides.colour import apply_icc_srgb
from atlas_path.slides.jpeg_tiles import JpegTiles
from atlas_path.store.job import Job

READ_WINDOWS = 4  # windows along each side of one read_region: large reads, small enough to find damage


@dataclass
class Block:
    """A square of level 0 of the store.

    Args:
        pixels: (height, width, channels), background where nothing was kept or readable.
        bad_px: (rows, cols) int64, unreadable pixels of each window.
    """

    pixels: np.ndarray
    bad_px: np.ndarray


class BaseReader:
    """Reads blocks of whole windows of level 0 of the store. Thread safe.

    Args:
        slide: the open slide; it must outlive the reader.
        job: says how level 0 is made of it.
    """

    def __init__(self, slide: Slide, job: Job) -> None:
        base = job.base
        self._slide, self._base, self._background = slide, base, job.background
        self._icc_profile = slide.icc_profile if job.icc_srgb else None
        tiles = None if base.resample else slide.jpeg_tiles(base.level)
        divides = (
            tiles is not None
            and tiles.tile_height_px % base.shrink == 0
            and tiles.tile_width_px % base.shrink == 0
        )
        self._tiles: JpegTiles | None = tiles if divides else None

    def read(self, row: int, col: int, keep: np.ndarray) -> Block:
        """The block whose first window is (row, col); `keep` (rows, cols) says which windows matter."""
        rows, cols = keep.shape
        shape = (rows * WINDOW_PX, cols * WINDOW_PX, self._slide.n_channels)
        block = Block(np.full(shape, self._background, self._slide.dtype), np.zeros(keep.shape, np.int64))
        if self._tiles is not None:
            self._decode_tiles(self._tiles, row, col, keep, block)
        else:
            self._read_regions(row, col, keep, block)
        if self._icc_profile:
            block.pixels = apply_icc_srgb(block.pixels, self._icc_profile)
        for r, c in np.argwhere(~keep):  # what a tile shows of its neighbours would depend on the tiling
            y, x = r * WINDOW_PX, c * WINDOW_PX
            block.pixels[y : y + WINDOW_PX, x : x + WINDOW_PX] = self._background
        return block

    def _decode_tiles(self, tiles: JpegTiles, row: int, col: int, keep: np.ndarray, block: Block) -> None:
        """Fill the block from the tiles that a kept window touches."""
        tile_h, tile_w = tiles.tile_height_px // self._base.shrink, tiles.tile_width_px // self._base.shrink
        y0, x0 = row * WINDOW_PX, col * WINDOW_PX
        y1 = min(y0 + block.pixels.shape[0], self._base.height_px)
        x1 = min(x0 + block.pixels.shape[1], self._base.width_px)
        for tile_row in range(y0 // tile_h, -(-y1 // tile_h)):
            top, low = max(tile_row * tile_h, y0), min((tile_row + 1) * tile_h, y1)
            kept: np.ndarray = np.any(keep[(top - y0) // WINDOW_PX : (low - 1 - y0) // WINDOW_PX + 1], axis=0)
            if not kept.any():
                continue
            for tile_col in range(x0 // tile_w, -(-x1 // tile_w)):
                left, right = max(tile_col * tile_w, x0), min((tile_col + 1) * tile_w, x1)
                if not kept[(left - x0) // WINDOW_PX : (right - 1 - x0) // WINDOW_PX + 1].any():
                    continue
                try:
                    tile = tiles.decode(tile_row, tile_col, self._base.shrink)
                except SlideError:
                    _add_bad(block.bad_px, top - y0, left - x0, low - y0, right - x0)
                    continue
                if tile is not None:
                    at_y, at_x = top - tile_row * tile_h, left - tile_col * tile_w
                    block.pixels[top - y0 : low - y0, left - x0 : right - x0] = tile[
                        at_y : at_y + low - top, at_x : at_x + right - left
                    ]

    def _read_regions(self, row: int, col: int, keep: np.ndarray, block: Block) -> None:
        """Fill the block by `read_region`, in squares of 4 x 4 windows, single windows where one fails."""
        for r in range(0, keep.shape[0], READ_WINDOWS):
            for c in range(0, keep.shape[1], READ_WINDOWS):
                if keep[r : r + READ_WINDOWS, c : c + READ_WINDOWS].any():
                    self._read_square(row, col, r, c, READ_WINDOWS, keep, block)

    def _read_square(
        self, row: int, col: int, r: int, c: int, n: int, keep: np.ndarray, block: Block
    ) -> None:
        y, x = (row + r) * WINDOW_PX, (col + c) * WINDOW_PX
        height = min(n * WINDOW_PX, self._base.height_px - y, (keep.shape[0] - r) * WINDOW_PX)
        width = min(n * WINDOW_PX, self._base.width_px - x, (keep.shape[1] - c) * WINDOW_PX)
        if height <= 0 or width <= 0:
            return
        at_y, at_x = r * WINDOW_PX, c * WINDOW_PX
        try:
            pixels = self._region(y, x, height, width)
        except SlideError:
            if n == 1:
                _add_bad(block.bad_px, at_y, at_x, at_y + height, at_x + width)
                return
            for rr in range(r, min(r + n, keep.shape[0])):
                for cc in range(c, min(c + n, keep.shape[1])):
                    if keep[rr, cc]:
                        self._read_square(row, col, rr, cc, 1, keep, block)
            return
        block.pixels[at_y : at_y + height, at_x : at_x + width] = pixels

    def _region(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Pixels of the store's level 0, reduced or resampled as the plan says.

        When resampling, (y, x) are whole windows; a part window at the edge is resampled whole, so that it
        does not depend on where the block ends.
        """
        base = self._base
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


def _add_bad(bad_px: np.ndarray, top: int, left: int, low: int, right: int) -> None:
    """Count the pixels of a box (block coordinates) as bad in the windows it touches."""
    for r in range(top // WINDOW_PX, (low - 1) // WINDOW_PX + 1):
        for c in range(left // WINDOW_PX, (right - 1) // WINDOW_PX + 1):
            height = min(low, (r + 1) * WINDOW_PX) - max(top, r * WINDOW_PX)
            width = min(right, (c + 1) * WINDOW_PX) - max(left, c * WINDOW_PX)
            bad_px[r, c] += height * width
