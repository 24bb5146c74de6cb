"""The whole slide at low resolution: the picture a person checks, and what it says about the background."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from atlas_path.slides.base import Slide
from atlas_path.tissue import TissueMask

PICTURE_PX = 1024
GLASS_PX = 512  # longest side on which the glass is measured
LEAST_GLASS_PX = 25
DARKEST_GLASS = 200
OUTLINE_RGB = (0, 160, 60)


def background_of(slide: Slide, overview: np.ndarray, tissue: TissueMask) -> int | float:
    """One value for pixels that are not stored.

    For 8-bit bright field the median of the glass, so that no false edge appears where storing ends (pure
    white is where scanners did not scan, and says nothing of the glass); white for other colour slides; 0
    where the background is dark.
    """
    if slide.kind != "rgb" or "fluorescence" in tissue.flags:
        return 0
    white = int(np.iinfo(slide.dtype).max) if slide.dtype.kind in "ui" else 1.0
    if overview.dtype != np.uint8:
        return white
    step = max(1, max(overview.shape[:2]) // GLASS_PX)
    few, mask = overview[::step, ::step], tissue.mask[::step, ::step]
    glass = few[~mask & (cv2.min(cv2.min(few[..., 0], few[..., 1]), few[..., 2]) < 255)]
    if len(glass) < LEAST_GLASS_PX:
        return white
    value = round(float(np.median(glass.mean(axis=1))))
    return value if value >= DARKEST_GLASS else white


def as_rgb8(pixels: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 for people: channels summed in false colour, each over its own range."""
    if pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return pixels
    hues = np.array([[1, 1, 1]] if pixels.shape[2] == 1 else [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    sum_rgb = np.zeros((*pixels.shape[:2], 3), np.float32)
    for c, (low, high) in enumerate(display_ranges(pixels)[:4]):
        scaled = np.clip((pixels[:, :, c].astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
        sum_rgb += scaled[:, :, None] * hues[c % len(hues)]
    return (np.clip(sum_rgb, 0, 1) * 255).astype(np.uint8)


def display_ranges(pixels: np.ndarray) -> list[tuple[float, float]]:
    """(low, high) of each channel that shows it well: 0 to 255 for 8-bit colour, else percentiles."""
    if pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return [(0.0, 255.0)] * 3
    ranges = []
    for c in range(pixels.shape[2]):
        low, high = np.percentile(pixels[:, :, c], (1, 99.8))
        ranges.append((float(low), float(max(high, low + 1))))
    return ranges


def outline_picture(overview: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The overview with the outline of the tissue, longest side at most 1024 px."""
    scale = PICTURE_PX / max(overview.shape[:2])
    size = max(1, round(overview.shape[1] * scale)), max(1, round(overview.shape[0] * scale))
    picture = as_rgb8(overview)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = np.ascontiguousarray(cv2.resize(picture, size, interpolation=how))
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, math.ceil(max(size) / 600))
    cv2.drawContours(picture, contours, -1, OUTLINE_RGB, thickness)
    return picture


def save_jpeg(path: Path, picture: np.ndarray) -> None:
    """Write a picture for people; no metadata of the slide goes into it."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=88)
