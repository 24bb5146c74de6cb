"""How well the score ranks: AUROC and average precision with the interval the data call for.

One row a patient: DeLong. Patients with several rows: whole patients are resampled, because rows of one
patient are not independent and the naive interval is too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from atlas_path.stats import bootstrap, delong
from atlas_path.stats.intervals import LEVEL, Estimate, clusters, newcombe_auroc, unknown
from atlas_path.stats.ranking import Bools, Ranked, checked


def why_this_interval(found: Estimate) -> str:
    """Which interval an AUROC has, and why, in one sentence."""
    if found.method.startswith("DeLong"):
        return "DeLong's interval, because every patient has one row."
    if found.method.startswith("patient bootstrap"):
        return (
            "Patients were resampled with all their rows, because some patients have several rows and "
            "these are "
            "not independent."
        )
    return (
        "Newcombe's interval at the number of patients, because there are few of them or the classes "
        "separate."
    )


def patients_by_class(labels: Bools, patients: ArrayLike) -> tuple[int, int]:
    """Patients with a positive row, and patients with a negative row."""
    cluster, _ = clusters(patients)
    return len(np.unique(cluster[labels])), len(np.unique(cluster[~labels]))


def auroc_estimate(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: ArrayLike,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """AUROC with DeLong's interval (one row a patient) or a patient bootstrap; unknown with one class."""
    label, score = checked(labels, scores)
    cluster, n_patients = clusters(patients)
    if label.all() or not label.any():
        only = "positives" if label.any() else "negatives"
        return unknown(label.size, n_patients, f"only {only} here: the AUROC needs both classes")
    n_positive, n_negative = patients_by_class(label, cluster)
    value = float(Ranked.of(label, score).auroc(np.ones((1, label.size)))[0])
    if value in (0.0, 1.0):
        low, high = newcombe_auroc(value, n_positive, n_negative, level)
        method = "Newcombe method 5 at the number of patients (perfect separation)"
        return Estimate(value, low, high, label.size, n_patients, method, level)
    if min(n_positive, n_negative) < 2 or n_patients < bootstrap.LEAST_PATIENTS:
        low, high = newcombe_auroc(value, n_positive, n_negative, level)
        method, why = "Newcombe method 5 at the number of patients", f"only {n_patients} patients"
        return Estimate(value, low, high, label.size, n_patients, method, level, why)
    if n_patients == label.size:
        variance = float(delong.covariance(delong.placements(label, score))[0, 0])
        low, high, method = delong.interval(value, variance, n_positive, n_negative, level)
        return Estimate(value, low, high, label.size, n_patients, method, level)
    df = min(n_positive, n_negative) - 1
    return bootstrap.estimate(Ranked.of(label, score).auroc, cluster, n_resamples, seed, level, "logit", df)


def average_precision_estimate(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: ArrayLike,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Average precision with a patient-bootstrap interval; its chance level is the prevalence."""
    label, score = checked(labels, scores)
    cluster, n_patients = clusters(patients)
    if label.all() or not label.any():
        return unknown(label.size, n_patients, "average precision needs both classes")
    df = patients_by_class(label, cluster)[0] - 1
    found = bootstrap.estimate(
        Ranked.of(label, score).average_precision, cluster, n_resamples, seed, level, "logit", df
    )
    if not 0 < found.value < 1:
        nan, why = float("nan"), "perfect ranking: the bootstrap has no spread"
        return Estimate(found.value, nan, nan, found.n, found.n_patients, "no interval", level, why)
    return found


def macro_auroc(
    classes: ArrayLike,
    probabilities: ArrayLike,
    names: Sequence[str],
    patients: ArrayLike,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[Estimate, dict[str, Estimate]]:
    """One-against-rest AUROC of each class and their unweighted mean over the classes that occur.

    Args:
        classes: (n,) index into `names`.
        probabilities: (n, len(names)).
    """
    truth, prob = np.asarray(classes, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    cluster, n_patients = clusters(patients)
    each = {
        name: auroc_estimate(truth == k, prob[:, k], cluster, n_resamples, seed, level)
        for k, name in enumerate(names)
    }
    ranked = [Ranked.of(truth == k, prob[:, k]) for k, name in enumerate(names) if each[name].known]
    if not ranked:
        return unknown(truth.size, n_patients, "only one class occurs"), each
    mean = bootstrap.estimate(
        lambda weight: np.mean([one.auroc(weight) for one in ranked], axis=0),
        cluster, n_resamples, seed, level, "logit",
    )  # fmt: skip
    if len(ranked) < len(names):
        mean = mean.with_note(f"mean of the {len(ranked)} of {len(names)} classes that occur")
    return mean, each
