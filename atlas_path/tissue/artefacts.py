"""What is on slides and is no tissue: pen strokes and the black frame of unscanned areas.

Nothing here may cost tissue, so only what physics tells apart is taken out. Green and blue ink absorb in ways
that haematoxylin, eosin and DAB do not; strokes are even at this resolution and some tenths of a square
millimetre at least; and their hue is found nowhere else on the slide. Where it is, it is a stain (trichrome,
Alcian blue), and all is kept. Red and black ink look like blood and pigment: they are flagged and kept. What
lies under ink is denser than the ink alone and is kept too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from atlas_path.geometry import Mpp
from atlas_path.tissue.bands import in_bands
from atlas_path.tissue.pieces import without_small

LEAST_STROKE_UM2 = 150_000.0
LEAST_BLACK_UM2 = 100_000.0
LEAST_PIECE_PX = 4
SAME_HUE_ELSEWHERE = 0.1  # share of a stroke's area that may have its hue elsewhere
UNDER_INK = 1.25  # times the stroke's own density
_EVEN = 0.12  # spread of density over 5 px, relative to the density itself
_BLACK_LEVEL = 20.0
_CONSTANT = 1.0  # spread of grey levels over 3 px in areas a scanner filled in
_COARSE = 4
_HUES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "green": lambda red, green, blue: green < 0.75 * cv2.min(red, blue),
    "blue": lambda red, green, blue: (red > 1.45 * green) & (blue < green),
    "red": lambda red, green, blue: (red < 0.15 * green) & (blue > 0.8 * green) & (green > 0.5),
    "black": lambda red, green, blue: cv2.min(cv2.min(red, green), blue) > 1.6,
}


def pen_strokes(
    density: Sequence[np.ndarray], mean: np.ndarray, tissue: np.ndarray, mpp: Mpp
) -> tuple[bool, np.ndarray]:
    """(ink was seen, (h, w) bool of the ink that can be left out) by optical densities, three planes (h, w),
    and their mean.

    Hues after Ruifrok and Johnston, Anal Quant Cytol Histol 2001: haematoxylin, eosin and DAB absorb green at
    least as much as red; green ink lets green through best, blue ink absorbs red far more than green.
    """
    seen, removable = False, np.zeros_like(tissue)
    coarse = [np.ascontiguousarray(plane[::_COARSE, ::_COARSE]) for plane in density]
    least_px = LEAST_STROKE_UM2 / (mpp.y * mpp.x)
    for name, is_ink in _HUES.items():
        found = is_ink(*coarse) & tissue[::_COARSE, ::_COARSE]
        if np.count_nonzero(found) < 0.3 * least_px / _COARSE**2:
            continue  # a quick look: no stroke fits into so little of the hue
        hue, core = _hue_and_core(density, mean, tissue, is_ink)
        if np.count_nonzero(core) < least_px:
            continue
        strokes = _strokes(core, least_px)
        if not strokes.any():
            continue
        seen = True
        if name in ("green", "blue"):
            removable = removable | _ink_alone(strokes, hue, mean)
    return seen, removable


def _hue_and_core(
    density: Sequence[np.ndarray], mean: np.ndarray, tissue: np.ndarray, is_ink: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) bool: where the hue is that of ink; and where that is dense and even too."""
    hue, core = np.empty_like(tissue), np.empty_like(tissue)

    def work(own: slice, seen: slice, inner: slice) -> None:
        hue[own] = is_ink(*(plane[own] for plane in density)) & tissue[own] & (mean[own] > 0.06)
        core[own] = hue[own] & _even(mean[seen])[inner] & (mean[own] > 0.25)

    in_bands(len(mean), 2, work)
    return hue, core


def _strokes(core: np.ndarray, least_px: float) -> np.ndarray:
    opened = cv2.morphologyEx(core.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return without_small(opened, max(least_px, LEAST_PIECE_PX))


def _ink_alone(strokes: np.ndarray, hue: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The strokes with their soft edges, without what lies under them; nothing if the hue is a stain's."""
    near = np.asarray(cv2.dilate(strokes.astype(np.uint8), np.ones((9, 9), np.uint8)), bool)
    if np.count_nonzero(hue & ~near) > SAME_HUE_ELSEWHERE * np.count_nonzero(strokes):
        return np.zeros_like(strokes)
    ink = hue & near
    _, labels = cv2.connectedComponents(ink.astype(np.uint8), connectivity=8)
    sums = np.bincount(labels[strokes], weights=mean[strokes], minlength=labels.max() + 1)
    counts = np.bincount(labels[strokes], minlength=labels.max() + 1)
    usual = sums / np.maximum(counts, 1)
    return np.asarray(ink & (counts[labels] > 0) & (mean < UNDER_INK * usual[labels]))


def black_areas(planes: Sequence[np.ndarray], mpp: Mpp) -> np.ndarray:
    """Large black areas of constant value (0..255 scale), which scanners fill in where they did not scan."""
    brightest = functools.reduce(cv2.max, planes)
    dark: np.ndarray = brightest < _BLACK_LEVEL
    if not dark.any():
        return dark
    spread = cv2.dilate(brightest, np.ones((3, 3), np.uint8)) - cv2.erode(
        brightest, np.ones((3, 3), np.uint8)
    )
    least_px = max(LEAST_BLACK_UM2 / (mpp.y * mpp.x), LEAST_PIECE_PX)
    core = without_small(dark & (spread <= _CONSTANT), least_px)
    return np.asarray(cv2.dilate(core.astype(np.uint8), np.ones((5, 5), np.uint8)), bool)


def _even(plane: np.ndarray) -> np.ndarray:
    mean = cv2.blur(plane, (5, 5))
    squares = cv2.blur(cv2.multiply(plane, plane), (5, 5))
    variance = cv2.subtract(squares, cv2.multiply(mean, mean))
    limit = cv2.max(mean, 0.05)
    return np.asarray(variance < cv2.multiply(limit, limit, scale=_EVEN**2))
