"""Two models on the same cases: difference of AUROCs, and who is right where the other is wrong.

Sources: DeLong et al. 1988 and Obuchowski 1997 (see `delong`); McNemar, Psychometrika 1947;12:153, in its
exact binomial form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from atlas_path.stats import bootstrap
from atlas_path.stats.discrimination import patients_by_class
from atlas_path.stats.intervals import LEVEL, Estimate, Floats, clusters, unknown
from atlas_path.stats.ranking import Ranked, checked


def auroc_difference(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, patients: ArrayLike,
    n_resamples: int = 2000, seed: int = 0, level: float = LEVEL,
) -> Estimate:  # fmt: skip
    """AUROC(first) - AUROC(second) with an interval from patient resamples shared by both models."""
    label, a = checked(labels, first)
    _, b = checked(labels, second)
    cluster, n_patients = clusters(patients)
    if label.all() or not label.any():
        return unknown(label.size, n_patients, "the AUROC needs both classes")
    one, two = Ranked.of(label, a), Ranked.of(label, b)
    df = min(patients_by_class(label, cluster)) - 1

    def statistic(weight: Floats) -> Floats:
        return one.auroc(weight) - two.auroc(weight)

    return bootstrap.estimate(statistic, cluster, n_resamples, seed, level, "identity", df)


@dataclass(frozen=True)
class McNemar:
    """Cases that only one of two models calls right, and the exact two-sided p value."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> McNemar:
    """Exact McNemar test: given that the models disagree, each is right half of the time under the null."""
    one, two = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if one.shape != two.shape:
        raise ValueError("both models must be judged on the same cases")
    b, c = int((one & ~two).sum()), int((~one & two).sum())
    p = 1.0 if b + c == 0 else float(stats.binomtest(b, b + c, 0.5).pvalue)
    return McNemar(b, c, p)
