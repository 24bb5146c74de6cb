"""Is this image like the ones the model was trained on? Simple measures, compared one by one, with reasons.

`train` measures its training images and keeps `training_statistics` of them in `model.json`; `score` measures
the same numbers on every image and asks `deviations`. A measure deviates when it lies outside the range seen
in training widened by a margin, so each finding reads as "stain_0 0.12; training images have 0.31 to 0.58".
This finds other scanners, stains, resolutions and empty or blurred slides; it does not find rare disease, and
no guard of this kind can promise that a prediction is right.

Optical density after Beer-Lambert, -log10((I + 1) / 256), as in Ruifrok & Johnston 2001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_WINDOWS = 32
STAINED_OD = 0.05
MIN_TRAINING_IMAGES = 5
MARGIN = 0.5
"""Ranges are widened by this share of their width on both sides."""
CATEGORIES = ("scanner", "compression")
LOG_SCALE = {"tissue_mm2": 0.5, "sharpness": 0.3}
"""Compared as log10; the number is the least margin in decades."""
RELATIVE = {"mpp": 0.05}
ABSOLUTE = {"mean_": 0.06, "std_": 0.05, "stain_": 0.06, "saturation": 0.06}
NOT_COMPARED = ("n_windows",)
"""Follows from tissue area and resolution."""


def sample_rows(n: int, size: int = SAMPLE_WINDOWS) -> NDArray[np.int64]:
    """Indices of at most `size` of `n` windows, evenly spread and always the same."""
    return np.unique(np.linspace(0, n - 1, min(n, size)).round().astype(np.int64))


def window_statistics(
    pixels_NCHW: NDArray[Any], n_windows: int, mpp_yx: tuple[float, float]
) -> dict[str, float]:
    """The measures of one image from a sample of its kept windows.

    Args:
        pixels_NCHW: the sample; integers are divided by the largest value of their type.
        n_windows: how many windows the image has in all.
        mpp_yx: micrometres per pixel of the level they come from.

    Returns:
        `mpp`, `n_windows`, `tissue_mm2` (area of the kept windows), `sharpness` (mean absolute difference of
        horizontal neighbours), per channel c `mean_c` and `std_c` (share of full scale), and for three
        channels `stain_c` (mean optical density of stained pixels) and their `saturation`.
    """
    top = float(np.iinfo(pixels_NCHW.dtype).max) if np.issubdtype(pixels_NCHW.dtype, np.integer) else 1.0
    sample = pixels_NCHW[:, :, ::2, :].astype(np.float32) / top
    side = pixels_NCHW.shape[-1]
    measures = {
        "mpp": float((mpp_yx[0] * mpp_yx[1]) ** 0.5),
        "n_windows": float(n_windows),
        "tissue_mm2": n_windows * side * side * mpp_yx[0] * mpp_yx[1] / 1e6,
        "sharpness": float(np.abs(np.diff(sample, axis=-1)).mean()),
    }
    for c in range(sample.shape[1]):
        measures[f"mean_{c}"] = float(sample[:, c].mean())
        measures[f"std_{c}"] = float(sample[:, c].std())
    return measures | (_stain(sample) if sample.shape[1] == 3 else {})


def _stain(sample_NCHW: NDArray[np.float32]) -> dict[str, float]:
    """Mean optical density of the stained pixels per channel, and their mean saturation."""
    density = -np.log10((sample_NCHW * 255.0 + 1.0) / 256.0)
    stained = density.mean(axis=1) > STAINED_OD
    if not stained.any():
        return {"stain_0": 0.0, "stain_1": 0.0, "stain_2": 0.0, "saturation": 0.0}
    measures = {f"stain_{c}": float(density[:, c][stained].mean()) for c in range(3)}
    high, low = sample_NCHW.max(axis=1)[stained], sample_NCHW.min(axis=1)[stained]
    return measures | {"saturation": float(((high - low) / np.maximum(high, 1e-6)).mean())}


def source_categories(vendor: str | None, compression: str | None) -> dict[str, str]:
    """Scanner family and compression of the source file, as far as its reader knows them."""
    known = {"scanner": vendor, "compression": compression}
    return {name: value for name, value in known.items() if value}


def training_statistics(images: Sequence[Mapping[str, float | str]]) -> dict[str, Any]:
    """What `model.json` keeps of the measures (and categories) of the training images.

    Returns:
        `{"n_images": n, "features": {name: {"mean", "std", "min", "max", "p01", "p50", "p99"}},
        "categories": {name: [values seen]}}`.
    """
    features: dict[str, dict[str, float]] = {}
    categories: dict[str, list[str]] = {}
    for name in sorted({key for image in images for key in image}):
        found = [image[name] for image in images if name in image]
        if name in CATEGORIES:
            categories[name] = sorted({str(value) for value in found})
            continue
        values = np.asarray(found, np.float64)
        low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
        features[name] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
            "p01": float(low),
            "p50": float(middle),
            "p99": float(high),
        }
    return {"n_images": len(images), "features": features, "categories": categories}


def deviations(image: Mapping[str, float | str], training: Mapping[str, Any] | None) -> list[str] | None:
    """How an image differs from the training images, a short line a measure; empty when it does not.

    Returns None when nothing can be said: the model carries no statistics, or of fewer than five images.
    """
    if not training or int(training.get("n_images", 0)) < MIN_TRAINING_IMAGES:
        return None
    found = []
    for name, seen in training.get("features", {}).items():
        if name not in image or name in NOT_COMPARED:
            continue
        value, low, high = float(image[name]), float(seen["p01"]), float(seen["p99"])
        if not _inside(name, value, low, high):
            found.append(f"{name} {value:.3g}; training images have {low:.3g} to {high:.3g}")
    for name, known in training.get("categories", {}).items():
        if name in image and known and str(image[name]) not in known:
            found.append(f"{name} {image[name]}; training images have {', '.join(known)}")
    return found


def _inside(name: str, value: float, low: float, high: float) -> bool:
    if name in LOG_SCALE:
        value, low, high = (float(np.log10(max(v, 1e-6))) for v in (value, low, high))
        least = LOG_SCALE[name]
    elif name in RELATIVE:
        least = RELATIVE[name] * abs(low)
    else:
        least = next((m for start, m in ABSOLUTE.items() if name.startswith(start)), 0.0)
    margin = max(MARGIN * (high - low), least)
    return low - margin <= value <= high + margin


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
    if not (known and any(fingerprints)) and case_id in set(training_cases.get("case_ids", ())):
        return "its case id is in the training list"
    return None
