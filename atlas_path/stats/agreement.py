"""Agreement of classes and grades: accuracy, balanced accuracy, Cohen's kappa (plain or quadratic).

Source: Cohen, Psychological Bulletin 1968;70:213. Everything is computed from weighted confusion matrices, so
that patient resamples are one matrix product.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atlas_path.stats import bootstrap
from atlas_path.stats.intervals import LEVEL, Estimate, Floats, clusters, proportion, unknown
from atlas_path.stats.ranking import divide


def confusion(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Counts (true class, predicted class).

    Raises:
        ValueError: a class index outside [0, n_classes).
    """
    counts = confusions(truth, predicted, n_classes, np.ones((1, np.size(truth))))[0]
    return np.asarray(counts, dtype=np.int64)


def confusions(truth: ArrayLike, predicted: ArrayLike, n_classes: int, weight_bn: Floats) -> Floats:
    """Weighted confusion matrices of resamples, (B, classes, classes)."""
    row, column = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if row.size and (min(row.min(), column.min()) < 0 or max(row.max(), column.max()) >= n_classes):
        raise ValueError(f"class indices must lie in [0, {n_classes})")
    cell = row * n_classes + column
    one_hot = (cell[:, None] == np.arange(n_classes**2)).astype(np.float64)
    return np.asarray((weight_bn @ one_hot).reshape(-1, n_classes, n_classes))


def kappa_of(table_bkk: Floats, weights: str = "quadratic") -> Floats:
    """Cohen's kappa of confusion matrices (B, k, k), `weights` 'none' or 'quadratic'; NaN where undefined."""
    k = table_bkk.shape[-1]
    index = np.arange(k, dtype=np.float64)
    gap = (index[:, None] - index[None, :]) ** 2 if weights == "quadratic" else 1.0 - np.eye(k)
    total = table_bkk.sum((1, 2))
    expected = table_bkk.sum(2)[:, :, None] * table_bkk.sum(1)[:, None, :]
    disagreed = (table_bkk * gap).sum((1, 2)) * total
    return np.asarray(1 - divide(disagreed, (expected * gap).sum((1, 2))))


def balanced_accuracy_of(table_bkk: Floats) -> Floats:
    """Mean recall over the classes that occur, (B,)."""
    recall = divide(np.diagonal(table_bkk, axis1=1, axis2=2), table_bkk.sum(2))
    count = np.isfinite(recall).sum(1)
    return divide(np.nansum(recall, 1), count.astype(np.float64))


def kappa_estimate(
    truth: ArrayLike, predicted: ArrayLike, patients: ArrayLike, n_classes: int, weights: str = "quadratic",
    n_resamples: int = 1000, seed: int = 0, level: float = LEVEL,
) -> Estimate:  # fmt: skip
    """Kappa with a BCa patient-bootstrap interval."""
    row, column = np.asarray(truth), np.asarray(predicted)
    _, n_patients = clusters(patients)
    if row.size == 0 or len(np.unique(np.concatenate([row, column]))) < 2:
        return unknown(row.size, n_patients, "only one class occurs: agreement beyond chance is undefined")

    def statistic(weight: Floats) -> Floats:
        return kappa_of(confusions(row, column, n_classes, weight), weights)

    return bootstrap.estimate(statistic, patients, n_resamples, seed, level, "bca")


def accuracy_estimates(
    truth: ArrayLike, predicted: ArrayLike, patients: ArrayLike, n_classes: int,
    n_resamples: int = 1000, seed: int = 0, level: float = LEVEL,
) -> tuple[Estimate, Estimate]:  # fmt: skip
    """Accuracy (Wilson, clustered where patients repeat) and balanced accuracy (patient bootstrap)."""
    row, column = np.asarray(truth), np.asarray(predicted)
    accuracy = proportion(row == column, patients, level)

    def statistic(weight: Floats) -> Floats:
        return balanced_accuracy_of(confusions(row, column, n_classes, weight))

    balanced = bootstrap.estimate(statistic, patients, n_resamples, seed, level, "logit")
    if balanced.value in (0.0, 1.0):
        return accuracy, Estimate(
            balanced.value, accuracy.low, accuracy.high, balanced.n, balanced.n_patients, accuracy.method,
            level,            "interval of the accuracy: all cases agree",
        )  # fmt: skip
    return accuracy, balanced
