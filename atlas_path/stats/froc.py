"""CAMELYON16 free-response ROC: which lesions are found at how many false positives an image.

Definition of the challenge (Ehteshami Bejnordi et al., JAMA 2017;318:2199, and its evaluation script):

* the lesion mask is widened by 37.5 um on every side and its holes are filled; touching parts are one lesion;
* lesions whose major axis is below 275 um (isolated tumour cells) are ignored: hits on them count neither way
  and they leave the denominator;
* a detection inside a lesion is a hit with its confidence, the best hit of a lesion counts; every other
  detection, and every detection in an image without lesions, is a false positive;
* thresholds are the distinct scores (0 for a missed lesion) except the smallest, plus one above all;
* the score is the mean sensitivity, linearly interpolated, at 1/4, 1/2, 1, 2, 4 and 8 false positives an
  image, counted over all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from atlas_path.stats import bootstrap
from atlas_path.stats.intervals import LEVEL, Estimate, Floats, clusters, unknown
from atlas_path.stats.ranking import divide

WIDEN_UM = 37.5
SMALL_UM = 275.0
FALSE_POSITIVES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class LesionMask:
    """Lesions of one image as a label raster: 0 background, 1..n lesions; `ignored_n` marks small ones."""

    labels: NDArray[np.int32]
    mpp: float
    major_axis_um: Floats
    ignored_n: NDArray[np.bool_]

    @property
    def n_counted(self) -> int:
        return int((~self.ignored_n).sum())


def lesion_mask(
    mask: ArrayLike, mpp: float, widen_um: float = WIDEN_UM, small_um: float = SMALL_UM
) -> LesionMask:
    """Label the lesions of a boolean mask (h, w) whose pixels are `mpp` micrometres wide.

    `widen_um=0` and `small_um=0` take the mask as it is (eight-connected parts, none ignored).
    """
    inside = np.asarray(mask, dtype=bool)
    if widen_um > 0 and inside.any():
        inside = ndimage.distance_transform_edt(~inside) < widen_um / mpp
        inside = ndimage.binary_fill_holes(inside)
    labels, n = ndimage.label(inside, structure=np.ones((3, 3)))
    axes = np.array([major_axis_px(labels == k) * mpp for k in range(1, n + 1)], dtype=np.float64)
    return LesionMask(labels.astype(np.int32), mpp, axes, axes < small_um)


def major_axis_px(region: NDArray[np.bool_]) -> float:
    """Major axis of the ellipse with the region's second moments, in pixels."""
    coordinates = np.argwhere(region).astype(np.float64)
    spread = np.atleast_2d(np.cov(coordinates.T, bias=True))
    return float(4 * np.sqrt(max(0.0, np.linalg.eigvalsh(spread)[-1])))


@dataclass(frozen=True)
class ImageHits:
    """One image judged: best confidence of each counted lesion (0 where missed), and false positives."""

    best_l: Floats
    size_um_l: Floats
    false_positive_d: Floats
    n_ignored: int
    n_detections: int


def judge(lesions: LesionMask | None, confidence: ArrayLike, y_px: ArrayLike, x_px: ArrayLike) -> ImageHits:
    """Compare the detections of one image with its lesions (None: an image without lesions).

    Coordinates are pixels of the lesion mask; detections outside of it lie off-lesion.
    """
    score = np.asarray(confidence, dtype=np.float64)
    if lesions is None:
        return ImageHits(np.zeros(0), np.zeros(0), score, 0, score.size)
    height, width = lesions.labels.shape
    row, col = np.floor(np.asarray(y_px)).astype(int), np.floor(np.asarray(x_px)).astype(int)
    within = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    hit = np.zeros(score.size, dtype=np.int64)
    hit[within] = lesions.labels[row[within], col[within]]
    best = np.zeros(lesions.ignored_n.size + 1)
    np.maximum.at(best, hit, score)
    counted = ~lesions.ignored_n
    return ImageHits(
        best[1:][counted],
        lesions.major_axis_um[counted],
        score[hit == 0],
        int(lesions.ignored_n.sum()),
        score.size,
    )


@dataclass(frozen=True)
class Froc:
    """False positives an image against sensitivity, from the loosest threshold to none called."""

    threshold: Floats
    false_positives: Floats
    sensitivity: Floats
    at: Floats
    score: float


@dataclass(frozen=True)
class Tally:
    """Counts at every threshold for every image: the shared part of all resamples."""

    threshold: Floats
    false_positive_it: Floats
    true_positive_it: Floats
    n_lesions_i: Floats

    @classmethod
    def of(cls, images: Sequence[ImageHits]) -> Tally:
        scores = [values for image in images for values in (image.best_l, image.false_positive_d)]
        threshold = np.unique(np.concatenate(scores))[1:] if scores else np.zeros(0)

        def at_least(values: Floats) -> Floats:
            return values.size - np.searchsorted(np.sort(values), threshold, side="left").astype(np.float64)

        none = np.zeros((len(images), 1))
        return cls(
            np.append(threshold, np.inf),
            np.hstack((np.stack([at_least(image.false_positive_d) for image in images]), none)),
            np.hstack((np.stack([at_least(image.best_l) for image in images]), none)),
            np.array([image.best_l.size for image in images], dtype=np.float64),
        )

    def curves(self, weight_bi: Floats) -> tuple[Floats, Floats]:
        """False positives an image and sensitivity of every resample of images, (B, thresholds) each."""
        n_lesions = (weight_bi @ self.n_lesions_i)[:, None]
        n_images = weight_bi.sum(1, keepdims=True)
        return divide(weight_bi @ self.false_positive_it, n_images), divide(
            weight_bi @ self.true_positive_it, n_lesions
        )

    def score(self, weight_bi: Floats) -> Floats:
        """The challenge's score of every resample, (B,)."""
        false_positive, sensitivity = self.curves(weight_bi)
        return np.array(
            [
                _at_rates(x, y).mean() if np.isfinite(y).all() else np.nan
                for x, y in zip(false_positive, sensitivity, strict=True)
            ]
        )


def _at_rates(false_positive: Floats, sensitivity: Floats) -> Floats:
    return np.interp(FALSE_POSITIVES, false_positive[::-1], sensitivity[::-1])


def froc(images: Sequence[ImageHits]) -> Froc:
    """The curve over all images.

    Raises:
        ValueError: no image, or no counted lesion.
    """
    if not images or not any(image.best_l.size for image in images):
        raise ValueError("a FROC curve needs at least one lesion")
    tally = Tally.of(images)
    false_positive, sensitivity = tally.curves(np.ones((1, len(images))))
    at = _at_rates(false_positive[0], sensitivity[0])
    return Froc(tally.threshold, false_positive[0], sensitivity[0], at, float(at.mean()))


def froc_estimate(
    images: Sequence[ImageHits],
    patients: ArrayLike,
    n_resamples: int = 500,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """The score with an interval from resampled patients (images of a patient stay together)."""
    cluster, n_patients = clusters(patients)
    if not any(image.best_l.size for image in images):
        return unknown(len(images), n_patients, "no lesion")
    tally = Tally.of(images)
    return bootstrap.estimate(tally.score, cluster, n_resamples, seed, level, "bca")
