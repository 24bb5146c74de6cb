"""Is this image like the ones the model was trained on? Simple measures, compared one by one, with reasons.

`train` calls `image_statistics` on its training images and stores `training_statistics(...)` of them in
`model.json`; `score` measures the same numbers on every image and asks `deviations`. A measure is out of
distribution when it lies outside the range seen in training widened by a margin, so each finding reads as
"stain_red 0.12; training images have 0.31 to 0.58". This finds other scanners, stains, resolutions and empty
or blurred slides; it does not find rare disease, and no guard can promise that a prediction is right.

Optical density after Beer-Lambert, -log10((I + 1) / 256), as in Ruifrok & Johnston 2001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas_path.geometry import WINDOW_PX, Mpp

SAMPLE_WINDOWS = 32
TISSUE_OD = 0.05
MIN_TRAINING_IMAGES = 5
ABSOLUTE_MARGIN = {
    "mpp_y": 0.05,
    "mpp_x": 0.05,
    "log10_tissue_mm2": 0.5,
    "sharpness": 0.35,
    "intensity_mean": 0.06,
    "intensity_std": 0.05,
    "stain_red": 0.06,
    "stain_green": 0.06,
    "stain_blue": 0.06,
    "saturation": 0.06,
}
"""Smaller differences are never called a deviation (mpp: a share of itself; sharpness, tissue: decades)."""
RANGE_MARGIN = 0.5
CATEGORIES = ("scanner", "compression")


def sample_rows(n: int, size: int = SAMPLE_WINDOWS) -> NDArray[np.int64]:
    """Indices of at most `size` of `n` windows, evenly spread and always the same."""
    return np.unique(np.linspace(0, n - 1, min(n, size)).round().astype(np.int64))


def image_statistics(
    windows_NCHW: NDArray[Any],
    mpp: Mpp,
    tissue_fraction_N: NDArray[Any],
    pixel_max: float = 255.0,
    scanner: str | None = None,
    compression: str | None = None,
) -> dict[str, float | str]:
    """The measures of one image.

    Args:
        windows_NCHW: a sample of its tissue windows (see `sample_rows`), uint8 or uint16.
        mpp: micrometres per pixel of the level they come from.
        tissue_fraction_N: tissue fraction of ALL kept windows of that level.
        pixel_max: value of full scale.
        scanner, compression: categories as the reader reports them; None when unknown.

    Returns:
        Numbers (and the known categories) by name; stain measures only for three channels.
    """
    pixels = windows_NCHW.astype(np.float32) / pixel_max
    tissue_mm2 = float(tissue_fraction_N.sum()) * WINDOW_PX**2 * mpp.y * mpp.x / 1e6
    grey = pixels.mean(axis=1)
    gradient = np.abs(np.diff(grey, axis=-1)).mean() + np.abs(np.diff(grey, axis=-2)).mean()
    measures: dict[str, float | str] = {
        "mpp_y": mpp.y,
        "mpp_x": mpp.x,
        "log10_tissue_mm2": float(np.log10(max(tissue_mm2, 1e-4))),
        "sharpness": float(np.log10(max(float(gradient), 1e-5))),
        "intensity_mean": float(grey.mean()),
        "intensity_std": float(grey.std()),
    }
    if pixels.shape[1] == 3:
        measures |= _stain(pixels)
    for name, value in (("scanner", scanner), ("compression", compression)):
        if value:
            measures[name] = value
    return measures


def _stain(pixels_NCHW: NDArray[np.float32]) -> dict[str, float]:
    """Mean optical density of the stained pixels per channel, and their mean saturation."""
    density = -np.log10((pixels_NCHW * 255.0 + 1.0) / 256.0)
    stained = density.mean(axis=1) > TISSUE_OD
    if not stained.any():
        return {"stain_red": 0.0, "stain_green": 0.0, "stain_blue": 0.0, "saturation": 0.0}
    red, green, blue = (float(density[:, c][stained].mean()) for c in range(3))
    high, low = pixels_NCHW.max(axis=1)[stained], pixels_NCHW.min(axis=1)[stained]
    saturation = float(((high - low) / np.maximum(high, 1e-6)).mean())
    return {"stain_red": red, "stain_green": green, "stain_blue": blue, "saturation": saturation}


def training_statistics(images: Sequence[Mapping[str, float | str]]) -> dict[str, Any]:
    """What `model.json` keeps of the training images: ranges of numbers, lists of categories.

    Returns:
        `{"n_images": n, "ranges": {name: [low, high]}, "categories": {name: [...]}}`, low and high being the
        1 % and 99 % quantiles.
    """
    ranges: dict[str, list[float]] = {}
    categories: dict[str, list[str]] = {}
    for name in sorted({key for image in images for key in image}):
        values = [image[name] for image in images if name in image]
        if name in CATEGORIES:
            categories[name] = sorted({str(v) for v in values})
        else:
            low, high = np.quantile(np.array(values, np.float64), [0.01, 0.99])
            ranges[name] = [float(low), float(high)]
    return {"n_images": len(images), "ranges": ranges, "categories": categories}


def deviations(image: Mapping[str, float | str], training: Mapping[str, Any] | None) -> list[str] | None:
    """How an image differs from the training images, a short line a measure; empty when it does not.

    Returns None when nothing can be said: the model carries no statistics, or of fewer than five images.
    """
    if not training or int(training.get("n_images", 0)) < MIN_TRAINING_IMAGES:
        return None
    found = []
    for name, (low, high) in training.get("ranges", {}).items():
        if name not in image:
            continue
        value = float(image[name])
        margin = max(RANGE_MARGIN * (high - low), _absolute_margin(name, low))
        if not low - margin <= value <= high + margin:
            found.append(f"{name} {value:.3g}; training images have {low:.3g} to {high:.3g}")
    for name, known in training.get("categories", {}).items():
        if name in image and known and str(image[name]) not in known:
            found.append(f"{name} {image[name]}; training images have {', '.join(known)}")
    return found


def _absolute_margin(name: str, low: float) -> float:
    margin = ABSOLUTE_MARGIN.get(name, 0.0)
    return margin * abs(low) if name.startswith("mpp") else margin


def leaked(case_id: str, fingerprints: Sequence[str], training_cases: Mapping[str, Any] | None) -> str | None:
    """Why a case looks like a training case, or None. Content decides: a renamed slide is still known.

    Args:
        fingerprints: content hashes of the case's images.
        training_cases: `model.json`'s `{"case_ids": [...], "image_fingerprints": [...]}`.
    """
    if not training_cases:
        return None
    known = set(training_cases.get("image_fingerprints", ()))
    if known.intersection(fingerprints):
        return "an image of it was used for training (same content)"
    if not known and case_id in set(training_cases.get("case_ids", ())):
        return "its case id is in the training list"
    return None
