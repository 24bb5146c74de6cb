"""Colours of a signed map: two hues of equal lightness and strength, nothing where nothing is.

Evidence for a class is vermilion, evidence against it blue (distinct to the colour-blind).
Both ends have one lightness and one chroma in OKLab (Ottosson 2020, "A perceptual color space for image
processing"), so equal amounts for and against look equally strong, and zero leaves the tissue as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LIGHTNESS, CHROMA = 0.62, 0.19
HUE_FOR_DEG, HUE_AGAINST_DEG = 42.0, 255.0
NEGLIGIBLE = 0.03
"""Below this share of the scale nothing is drawn."""
INK = 0.88
"""Full colour is not quite opaque: tissue has to show under the strongest evidence."""

_OKLAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_LINEAR = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def oklab_to_srgb(lightness: float, chroma: float, hue_deg: float) -> NDArray[np.float64]:
    """One colour as sRGB in 0..1, shape (3,); out-of-gamut parts are clipped."""
    hue = np.deg2rad(hue_deg)
    lab = np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    linear = _LMS_TO_LINEAR @ (_OKLAB_TO_LMS @ lab) ** 3
    linear = np.clip(linear, 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(srgb, np.float64)


FOR = oklab_to_srgb(LIGHTNESS, CHROMA, HUE_FOR_DEG)
AGAINST = oklab_to_srgb(LIGHTNESS, CHROMA, HUE_AGAINST_DEG)


def strength(share: NDArray[Any]) -> NDArray[np.float32]:
    """How much colour a value gets: its absolute share of the scale; negligible or missing ones get 0."""
    amount = np.clip(np.nan_to_num(np.abs(share), nan=0.0), 0.0, 1.0).astype(np.float32)
    return np.where(amount < NEGLIGIBLE, 0.0, amount).astype(np.float32)


def paint(grey: NDArray[Any], share: NDArray[Any], dark: bool = False) -> NDArray[np.uint8]:
    """Colour a grey picture with a signed map.

    Args:
        grey: (h, w) in 0..1.
        share: (h, w), value divided by the scale's limit; NaN where nothing was evaluated.
        dark: the picture has a dark background (fluorescence, mammography): light is added. Otherwise ink is
            laid over it (multiplied), so nuclei stay dark under any colour.

    Returns:
        (h, w, 3) uint8 sRGB.
    """
    amount = strength(share)[..., None]
    hue = np.where((np.nan_to_num(share) > 0)[..., None], FOR, AGAINST).astype(np.float32)
    base = np.asarray(grey, np.float32)[..., None]
    if dark:
        picture = base * (1.0 - 0.7 * amount) + amount * hue * (0.7 + 0.3 * base)
    else:
        picture = base * (1.0 - INK * amount * (1.0 - hue))
    return np.asarray(np.round(np.clip(picture, 0.0, 1.0) * 255.0), np.uint8)


def grey_of(picture: NDArray[np.uint8], dark: bool = False) -> NDArray[np.float32]:
    """(h, w, 3) uint8 to grey in 0..1; bright-field pictures are lightened so that colour shows on tissue."""
    channels = picture[..., :3].astype(np.float32) / 255.0
    if dark:  # a single bright channel is all there is: blue nuclei must not vanish
        return np.asarray(channels.max(axis=-1), np.float32)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(0.35 + 0.65 * (channels @ weights), np.float32)


def is_dark(picture: NDArray[np.uint8]) -> bool:
    """Whether a thumbnail has a dark background: half of it is darker than a quarter of full scale."""
    return bool(np.median(picture.astype(np.float32).mean(axis=-1)) < 64)
