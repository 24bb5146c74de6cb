"""The tissue behind a map: a picture of the image at a chosen size, with its place in level pixels known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.colours import is_dark

if TYPE_CHECKING:
    from atlas_path.store import Store


@dataclass(frozen=True)
class Picture:
    """`pixels` (h, w, 3) uint8 show the whole level; `step_y`, `step_x` are level pixels per pixel of it."""

    pixels: NDArray[np.uint8]
    step_y: float
    step_x: float
    dark: bool


def picture_of(store: Store, level: int, long_side_px: int) -> Picture:
    """The whole image at about `long_side_px`, read from the coarsest level that is not coarser than that.

    The aspect is the physical one: with anisotropic pixels the picture is stretched so that a millimetre is
    equally long along both sides.

    Args:
        level: the level the map belongs to; steps are given in its pixels.
    """
    shape = store.levels[level]
    height_um, width_um = shape.height_px * shape.mpp.y, shape.width_px * shape.mpp.x
    um_per_px = max(height_um, width_um) / long_side_px
    height, width = max(1, round(height_um / um_per_px)), max(1, round(width_um / um_per_px))
    source = _source_level(store, long_side_px)
    fine = store.levels[source]
    # Halving rounds odd sizes up, so a coarser level may reach past the image by less than one of its pixels,
    # which are no larger than those of the picture: no correction is needed.
    pixels = np.moveaxis(store.read_region(source, 0, 0, fine.height_px, fine.width_px), 0, -1)
    shrinking = fine.height_px >= height and fine.width_px >= width
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    picture = np.asarray(
        cv2.resize(to_rgb8(pixels, rgb8_range(store)), (width, height), interpolation=method), np.uint8
    )
    dark = store.meta.background == 0 or is_dark(picture)
    return Picture(picture, shape.height_px / height, shape.width_px / width, dark)


def _source_level(store: Store, long_side_px: int) -> int:
    """The coarsest level whose long side has at least the pixels asked for; else the finest."""
    best = 0
    for index, level in enumerate(store.levels):
        if max(level.height_px, level.width_px) >= long_side_px:
            best = index
    return best


def rgb8_range(store: Store) -> tuple[float, float] | None:
    """Values shown as black and white for images deeper than 8 bits: percentiles 0.5, 99.5 of a thumbnail.

    Mammograms bring the range of the breast with them.
    """
    if store.dtype == np.uint8:
        return None
    if "breast_range" in store.meta.facts:
        low, high = store.meta.facts["breast_range"]
        return float(low), float(high)
    low, high = np.percentile(store.thumbnail(1024), [0.5, 99.5])
    return float(low), float(high)


def to_rgb8(pixels: NDArray[np.generic], window: tuple[float, float] | None) -> NDArray[np.uint8]:
    """(h, w, c) to 8-bit RGB; `window` comes from `rgb8_range` (None: already 8 bits)."""
    values = np.asarray(pixels)
    if window is not None:
        share = (values.astype(np.float32) - window[0]) / max(window[1] - window[0], 1e-6)
        values = np.asarray(np.clip(share, 0, 1) * 255, np.uint8)
    if values.shape[-1] >= 3:
        return np.ascontiguousarray(values[..., :3], np.uint8)
    return np.repeat(values[..., :1].astype(np.uint8), 3, axis=-1)
