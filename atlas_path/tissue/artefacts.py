"""What is on slides and is no tissue: pen strokes and the black frame of unscanned areas.

Both are told by physics, not by guess. Ink absorbs in ways that no common stain does, is even at this
resolution, and a stroke is some tenths of a square millimetre at least. When 'ink' makes up much of what is
on the slide it is a special stain (trichrome, Alcian blue), and nothing is removed.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from atlas_path.geometry import Mpp

LEAST_STROKE_UM2 = 150_000.0
LEAST_BLACK_UM2 = 100_000.0
MOST_PEN_SHARE = 0.5
_EVEN = 0.12  # spread of density over 5 px, relative to the density itself
_BLACK_LEVEL = 20.0


def pen_strokes(density: np.ndarray, tissue: np.ndarray, mpp: Mpp) -> np.ndarray:
    """Ink among `tissue` (h, w) by its optical densities (h, w, 3); (h, w) bool.

    Green ink lets green through best, blue ink absorbs red far more than green, red ink absorbs blue as much
    as green and lets red through, black ink absorbs all alike and strongly. Haematoxylin, eosin and DAB
    absorb green at least as much as red, and eosin absorbs much less blue than green (Ruifrok and Johnston,
    Anal Quant Cytol Histol 2001).
    """
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    mean = (red + green + blue) / 3
    strong = tissue & (mean > 0.25)
    green_ink = (green < 0.75 * np.minimum(red, blue)) & (np.minimum(red, blue) > 0.25)
    blue_ink = (red > 1.45 * green) & (red > 0.5) & (blue < green)
    red_ink = (red < 0.15 * green) & (blue > 0.8 * green) & (green > 0.5)
    darkest = np.minimum(np.minimum(red, green), blue)
    black_ink = (darkest > 1.6) & (np.maximum(np.maximum(red, green), blue) - darkest < 0.25)
    ink: np.ndarray = strong & (green_ink | blue_ink | red_ink | black_ink)
    if not ink.any():
        return ink
    core = ink & _even(mean)
    core = np.asarray(
        cv2.morphologyEx(core.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), bool
    )
    strokes = _large(core, LEAST_STROKE_UM2 / (mpp.y * mpp.x))
    if not strokes.any() or strokes.sum() > MOST_PEN_SHARE * tissue.sum():
        return np.zeros_like(tissue)
    near = np.asarray(cv2.dilate(strokes.astype(np.uint8), np.ones((5, 5), np.uint8)), bool)
    return np.asarray(strokes | (ink & near))


def black_areas(image: np.ndarray, mpp: Mpp) -> np.ndarray:
    """Large even black areas (0..255 scale): frames that scanners write around or between scanned areas."""
    dark: np.ndarray = functools.reduce(np.maximum, np.moveaxis(image, -1, 0)) < _BLACK_LEVEL
    if not dark.any():
        return dark
    even = np.asarray(cv2.erode(dark.astype(np.uint8), np.ones((3, 3), np.uint8)), bool)
    core = _large(even, LEAST_BLACK_UM2 / (mpp.y * mpp.x))
    return np.asarray(cv2.dilate(core.astype(np.uint8), np.ones((5, 5), np.uint8)), bool)


def _even(plane: np.ndarray) -> np.ndarray:
    mean = cv2.blur(plane, (5, 5))
    spread = np.sqrt(np.maximum(cv2.blur(plane * plane, (5, 5)) - mean * mean, 0))
    return np.asarray(spread < _EVEN * np.maximum(mean, 0.05))


def _large(mask: np.ndarray, least_px: float) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= max(least_px, 4)
    kept[0] = False
    return np.asarray(kept[labels])
