"""A whole slide at a few micrometres per pixel, for tissue finding and for people.

The coarsest level that is fine enough is read and averaged down. Where the pyramid has no such level its JPEG
tiles are decoded at up to 1/8, which needs no inverse transform to speak of; other tiles are read in bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from atlas_path.errors import UnreadableSlideError
from atlas_path.geometry import Mpp
from atlas_path.slides.base import Slide, background_of
from atlas_path.slides.jpeg_tiles import DECODE_SCALES, JpegTiles
from atlas_path.slides.registry import require_mpp

TISSUE_MPP = 8.0
BAND_BYTES = 2**26
LARGEST_THUMBNAIL_PX = 400_000_000  # a thousand glass slides
SMALLEST_READ_PX = 256
VALID = 255  # of a pixel that could be decoded
_SLACK = 1.05  # a level up to 5 % coarser or finer than asked for is taken as it is


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a whole slide.

    Attributes:
        pixels: (height, width, channels), the slide's own type.
        mpp: micrometres per pixel of the picture (it covers the slide exactly).
        valid: (height, width) bool, False where the source could not be decoded (shown as background).
    """

    pixels: np.ndarray
    mpp: Mpp
    valid: np.ndarray


def read_thumbnail(slide: Slide, mpp: float = TISSUE_MPP, threads: int = 2) -> Thumbnail:
    """The slide at about `mpp` micrometres per pixel, or at its own resolution when that is coarser.

    Raises:
        MissingMppError: the slide's resolution is not known.
        UnreadableSlideError: size and resolution together cannot be true.
    """
    native = require_mpp(slide)
    full = slide.levels[0]
    height = max(1, round(full.height_px * min(1.0, native.y / mpp)))
    width = max(1, round(full.width_px * min(1.0, native.x / mpp)))
    if height * width > LARGEST_THUMBNAIL_PX:
        raise UnreadableSlideError(
            slide.path,
            f"cannot be {full.height_px} x {full.width_px} px at {native.mean:g} um",
            "check its mpp",
        )
    factor = min(full.height_px / height, full.width_px / width)
    level = max(
        (
            i
            for i, one in enumerate(slide.levels)
            if max(one.downsample_y, one.downsample_x) <= factor * _SLACK
        ),
        default=0,
    )
    tiles = slide.jpeg_tiles(level)
    extra = factor / max(slide.levels[level].downsample_y, slide.levels[level].downsample_x)
    scale = _decode_scale(tiles, extra) if tiles is not None else 1
    if tiles is not None and scale > 1:
        pixels, valid = _from_scaled_tiles(tiles, scale, threads, slide.n_channels)
    else:
        pixels, valid = _from_bands(slide, level, max(1, int(extra * _SLACK)), threads)
    as_stored = pixels.shape[:2] == (slide.levels[level].height_px, slide.levels[level].width_px)
    if not as_stored or extra > _SLACK:
        pixels, valid = _resize(pixels, height, width), _resize(valid, height, width)
    height, width = pixels.shape[:2]
    per_px = native.scaled(full.height_px / height, full.width_px / width)
    return Thumbnail(pixels, per_px, valid >= VALID / 2)


def _decode_scale(tiles: JpegTiles, extra: float) -> int:
    """The largest DCT scale that neither overshoots nor cuts a tile at a fraction of a pixel."""
    fitting = [
        scale
        for scale in DECODE_SCALES
        if scale <= extra * _SLACK and tiles.tile_height_px % scale == 0 and tiles.tile_width_px % scale == 0
    ]
    return max(fitting, default=1)


def _from_scaled_tiles(
    tiles: JpegTiles, scale: int, threads: int, n_channels: int
) -> tuple[np.ndarray, np.ndarray]:
    tile_h, tile_w = tiles.tile_height_px // scale, tiles.tile_width_px // scale
    canvas = np.full(
        (tiles.rows * tile_h, tiles.cols * tile_w, n_channels), 255 if n_channels == 3 else 0, np.uint8
    )
    valid = np.full(canvas.shape[:2], VALID, np.uint8)

    def row_of_tiles(row: int) -> None:
        for col in range(tiles.cols):
            area = np.s_[row * tile_h : (row + 1) * tile_h, col * tile_w : (col + 1) * tile_w]
            try:
                tile = tiles.decode(row, col, scale)
            except UnreadableSlideError:
                valid[area] = 0
                continue
            if tile is not None:
                canvas[area] = tile

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(row_of_tiles, range(tiles.rows)))
    height, width = max(1, tiles.height_px // scale), max(1, tiles.width_px // scale)  # no tile padding
    return canvas[:height, :width], valid[:height, :width]


def _from_bands(slide: Slide, level: int, step: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """A level averaged over `step` x `step` pixels, read in bands of bounded size."""
    frame = slide.levels[level]
    row_bytes = frame.width_px * slide.n_channels * slide.dtype.itemsize
    tile_h, _ = slide.tile_px(level) or (1, 1)
    share = max(tile_h, -(-frame.height_px // threads))  # of a thread; a tile is decoded once, not by each
    band = min(max(1, BAND_BYTES // max(1, row_bytes * step)), -(-share // step)) * step

    small_h, small_w = -(-frame.height_px // step), -(-frame.width_px // step)
    small = np.empty((small_h, small_w, slide.n_channels), slide.dtype)
    small_valid = np.full((small_h, small_w), VALID, np.uint8)

    def piece(y: int) -> None:
        height = min(band, frame.height_px - y)
        rows = slice(y // step, -(-(y + height) // step))
        if step == 1:
            pixels, valid = small[rows], small_valid[rows]
        else:
            pixels = np.empty((height, frame.width_px, slide.n_channels), slide.dtype)
            valid = np.full((height, frame.width_px), VALID, np.uint8)
        for top, left, h, w, part in _readable_parts(slide, level, y, 0, height, frame.width_px):
            area = np.s_[top - y : top - y + h, left : left + w]
            if part is None:
                valid[area] = 0
                pixels[area] = background_of(slide)
            else:
                pixels[area] = part
        if step > 1:
            shape = small[rows].shape[:2]
            small[rows], small_valid[rows] = _resize(pixels, *shape), _resize(valid, *shape)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(piece, range(0, frame.height_px, band)))
    return small, small_valid


def _readable_parts(
    slide: Slide, level: int, y: int, x: int, height: int, width: int
) -> Iterator[tuple[int, int, int, int, np.ndarray | None]]:
    """(y, x, height, width, pixels or None) of an area: all of it, or its tiles where some are damaged."""
    try:
        yield y, x, height, width, slide.read_region(level, y, x, height, width)
        return
    except UnreadableSlideError:
        tile_h, tile_w = slide.tile_px(level) or (SMALLEST_READ_PX, SMALLEST_READ_PX)
    for top in range(y // tile_h * tile_h, y + height, tile_h):
        for left in range(x // tile_w * tile_w, x + width, tile_w):
            y0, x0 = max(top, y), max(left, x)
            h, w = min(top + tile_h, y + height) - y0, min(left + tile_w, x + width) - x0
            try:
                yield y0, x0, h, w, slide.read_region(level, y0, x0, h, w)
            except UnreadableSlideError:
                yield y0, x0, h, w, None


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area average to (height, width); any number of channels, type kept."""
    if image.shape[:2] == (height, width):
        return image
    work = image.astype(np.float32) if image.dtype not in (np.uint8, np.uint16, np.float32) else image
    if work.ndim == 2 or work.shape[-1] == 3:
        return np.asarray(cv2.resize(work, (width, height), interpolation=cv2.INTER_AREA), image.dtype)
    planes = [
        cv2.resize(np.ascontiguousarray(work[..., c]), (width, height), interpolation=cv2.INTER_AREA)
        for c in range(work.shape[-1])
    ]
    return np.stack(planes, axis=-1).astype(image.dtype)
