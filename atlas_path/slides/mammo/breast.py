"""Where the breast is: the place of tissue detection in a mammogram.

The breast is the largest bright region after thin and small things (letters, tape, film edges) are opened
away. Everything else in the image is background, however bright it is: burned-in letters stand there, they
name view and side, sometimes the patient, and a model would read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

ImageSide = Literal["left", "right"]

WORK_PX = 512
SMOOTH_SIGMA_PX = 2.0
OPENING_SHARE = 0.02
EDGE_SHARE = 0.03
CLIP_PERCENTILE = 99.9
ABOVE_BACKGROUND = 12
OTSU_LOW, OTSU_HIGH = 0.45, 0.9
SMALLEST_AREA_SHARE = 0.01
SIDE_RATIO = 1.5
BRIDGE_SHARE = 0.08
MARGIN_SHARE = 0.015
ALMOST_ALL = 0.95


@dataclass(frozen=True)
class Breast:
    """The breast at working size (longest side 512 px or less); `mask_at` and `kept_at` give any other size.

    `chest_wall` is the image side the breast stands on. Flags: 'no_breast', 'flat', 'fills_image',
    'looks_inverted'.
    """

    mask: np.ndarray
    kept: np.ndarray
    chest_wall: ImageSide | None
    flags: tuple[str, ...]

    @property
    def area_share(self) -> float:
        return float(self.mask.mean())

    def mask_at(self, height_px: int, width_px: int) -> np.ndarray:
        """(height, width) bool: the breast."""
        return _resized(self.mask, height_px, width_px)

    def kept_at(self, height_px: int, width_px: int) -> np.ndarray:
        """(height, width) bool: the breast and a margin for its skin line, without letters that reach in."""
        return _resized(self.kept, height_px, width_px)


def find_breast(image: np.ndarray) -> Breast:
    """The breast in an image (height, width) in which tissue is bright and the background dark.

    The mask is empty, flagged 'no_breast', when nothing stands out.
    """
    height, width = image.shape
    factor = max(1.0, max(height, width) / WORK_PX)
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    work = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    low, high = float(work.min()), float(np.percentile(work, CLIP_PERCENTILE))
    nothing = np.zeros(work.shape, bool)
    if high <= low:
        return Breast(nothing, nothing, None, ("no_breast", "flat"))
    grey = (255 * np.clip((work - low) / (high - low), 0, 1)).astype(np.uint8)
    smooth = cv2.GaussianBlur(grey, (0, 0), SMOOTH_SIGMA_PX)
    bright = smooth > _threshold(smooth)
    mask = _largest_region(_opened(bright))
    if mask is None:
        return Breast(nothing, nothing, None, ("no_breast",))
    kept = _widened(mask, bright, max(2, round(MARGIN_SHARE * max(mask.shape))))
    return Breast(mask, kept, chest_wall_side(mask), _doubts(mask))


def chest_wall_side(mask: np.ndarray) -> ImageSide | None:
    """The image side the breast stands on: where its outermost column is tall. None when both are alike."""
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        return None
    strip = max(1, round(EDGE_SHARE * mask.shape[1]))
    left = float(mask[:, columns[0] : columns[0] + strip].mean())
    right = float(mask[:, columns[-1] + 1 - strip : columns[-1] + 1].mean())
    if max(left, right) < SIDE_RATIO * min(left, right):
        return None
    return "left" if left > right else "right"


def _largest_region(opened: np.ndarray) -> np.ndarray | None:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if count < 2:
        return None
    best = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[best, cv2.CC_STAT_AREA] < SMALLEST_AREA_SHARE * opened.size:
        return None
    return _without_holes(_without_bridges(labels == best))


def _without_bridges(mask: np.ndarray) -> np.ndarray:
    """Cut off what hangs on the breast by a thin strip: film borders and the label plates behind them."""
    size = max(3, round(min(mask.shape) * BRIDGE_SHARE) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    padded = np.pad(mask.astype(np.uint8), size)  # OpenCV takes the outside for bright, which keeps borders
    core = cv2.morphologyEx(padded, cv2.MORPH_OPEN, kernel)[size:-size, size:-size]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(core, connectivity=4)
    if count < 2:
        return mask
    best = (labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    return np.asarray((cv2.dilate(best, kernel) > 0) & mask)


def _widened(mask: np.ndarray, bright: np.ndarray, margin_px: int) -> np.ndarray:
    """The mask and a margin, less the bright things (letters) that reach into the margin from outside."""
    size = 2 * margin_px + 1
    widened = (
        cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))) > 0
    )
    count, labels = cv2.connectedComponents((bright & ~mask).astype(np.uint8), connectivity=8)
    grows_from_breast = np.zeros(count, bool)
    ring = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    grows_from_breast[np.unique(labels[ring])] = True
    grows_from_breast[0] = True
    return np.asarray(widened & grows_from_breast[labels])


def _doubts(mask: np.ndarray) -> tuple[str, ...]:
    if mask.mean() > ALMOST_ALL:
        return ("fills_image",)
    both_edges = min(float(mask[:, 0].mean()), float(mask[:, -1].mean()))
    return ("looks_inverted",) if both_edges > 0.5 else ()


def _threshold(smooth: np.ndarray) -> float:
    """Between the background's own level and Otsu's threshold: the thin rim of a fatty breast stays in."""
    histogram = np.convolve(np.bincount(smooth.ravel(), minlength=256), np.ones(5) / 5, "same")
    background = int(histogram[:100].argmax())
    otsu, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_OTSU)
    return float(min(max(background + ABOVE_BACKGROUND, OTSU_LOW * otsu), OTSU_HIGH * otsu))


def _opened(bright: np.ndarray) -> np.ndarray:
    size = max(3, round(min(bright.shape) * OPENING_SHARE) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return np.asarray(cv2.morphologyEx(bright.astype(np.uint8), cv2.MORPH_OPEN, kernel))


def _without_holes(mask: np.ndarray) -> np.ndarray:
    outside = np.pad((~mask).astype(np.uint8), 1, constant_values=1)
    _, labels = cv2.connectedComponents(outside, connectivity=4)
    return np.asarray(labels != labels[0, 0])[1:-1, 1:-1]


def _resized(mask: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    size = (width_px, height_px)
    return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)) > 0
