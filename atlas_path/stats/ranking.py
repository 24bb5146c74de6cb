"""AUROC, average precision and their curves; one row set, or many weighted resamples of it at once.

Ties count one half in the AUROC (Mann-Whitney); average precision is the step sum over distinct thresholds,
as in scikit-learn. A weight is how often a row occurs in a resample, so that B bootstrap resamples are one
(B, n) matrix and no loop over resamples is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atlas_path.stats.intervals import Floats

Bools = NDArray[np.bool_]


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise ratio; NaN where the denominator is not positive."""
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Bools, Floats]:
    """Labels as booleans and scores as floats of one length.

    Raises:
        ValueError: lengths differ, a score is not finite, or a label is neither 0 nor 1.
    """
    label, score = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if label.shape != score.shape or label.ndim != 1:
        raise ValueError(
            f"labels and scores must be vectors of one length, got {label.shape} and {score.shape}"
        )
    if not np.isin(label, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if not np.isfinite(score).all():
        raise ValueError(f"{int((~np.isfinite(score)).sum())} scores are missing or not finite")
    return label.astype(bool), score


@dataclass(frozen=True)
class Ranked:
    """Rows sorted by score, with the start of each group of tied scores: the shared part of all resamples."""

    order_n: NDArray[np.int64]
    start_g: NDArray[np.int64]
    positive_n: Bools  # in sorted order

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike) -> Ranked:
        label, score = checked(labels, scores)
        order = np.argsort(score, kind="stable")
        ranked = score[order]
        starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
        return cls(order, starts, label[order])

    def group_sums(self, weight_bn: Floats) -> tuple[Floats, Floats]:
        """Weight of positives and of negatives at each distinct score, ascending: two (B, groups)."""
        sorted_bn = weight_bn[:, self.order_n]
        positive = np.add.reduceat(sorted_bn * self.positive_n, self.start_g, axis=1)
        negative = np.add.reduceat(sorted_bn * ~self.positive_n, self.start_g, axis=1)
        return positive, negative

    def auroc(self, weight_bn: Floats) -> Floats:
        """AUROC of every resample, (B,); NaN where a resample lacks a class."""
        positive, negative = self.group_sums(weight_bn)
        below = np.cumsum(negative, axis=1) - negative
        wins = (positive * (below + negative / 2)).sum(axis=1)
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return divide(wins, pairs)

    def average_precision(self, weight_bn: Floats) -> Floats:
        """Average precision of every resample, (B,); NaN where a resample has no positive."""
        positive, negative = self.group_sums(weight_bn)
        positive, negative = positive[:, ::-1], negative[:, ::-1]
        true_positive, called = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
        precision = np.divide(true_positive, called, out=np.zeros_like(called), where=called > 0)
        total = positive.sum(axis=1)
        sums = (positive * precision).sum(axis=1)
        return divide(sums, total)


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting one half; NaN with one class."""
    label, score = checked(labels, scores)
    return float(Ranked.of(label, score).auroc(np.ones((1, label.size)))[0]) if label.size else float("nan")


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall steps; NaN without positives."""
    label, score = checked(labels, scores)
    ranked = Ranked.of(label, score)
    return float(ranked.average_precision(np.ones((1, label.size)))[0]) if label.size else float("nan")


@dataclass(frozen=True)
class Curve:
    """Points of a curve from the strictest threshold to the loosest; all (points,)."""

    threshold: Floats
    sensitivity: Floats
    specificity: Floats
    precision: Floats


def curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """Sensitivity, specificity and precision at 'score >= threshold' for every distinct score, and above all.

    Raises:
        ValueError: when one class is missing.
    """
    label, score = checked(labels, scores)
    if label.all() or not label.any():
        raise ValueError("a curve needs both classes")
    ranked = Ranked.of(label, score)
    positive, negative = ranked.group_sums(np.ones((1, label.size)))
    true_positive = np.concatenate(([0.0], np.cumsum(positive[0, ::-1])))
    false_positive = np.concatenate(([0.0], np.cumsum(negative[0, ::-1])))
    called = true_positive + false_positive
    return Curve(
        threshold=np.concatenate(([np.inf], score[ranked.order_n][ranked.start_g][::-1])),
        sensitivity=true_positive / label.sum(),
        specificity=1 - false_positive / (~label).sum(),
        precision=np.divide(true_positive, called, out=np.ones_like(called), where=called > 0),
    )
