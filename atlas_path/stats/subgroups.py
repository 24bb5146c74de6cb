"""Does it work alike everywhere: bands of a column, heterogeneity of groups, labels told by a column.

Sources: Cochran, Biometrics 1954;10:101 (Q test, here on logit AUROCs); Good, Permutation, Parametric and
Bootstrap Tests of Hypotheses, 2005 (patients are permuted, not rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from atlas_path.stats import delong
from atlas_path.stats.intervals import Estimate, Floats, clusters, unknown
from atlas_path.stats.ranking import Bools

MANY_VALUES = 8
MOST_GROUPS = 30
AGE_EDGES = (40.0, 50.0, 60.0, 70.0)
UNKNOWN = "unknown"


def bands(cells: Sequence[str], name: str = "") -> list[str]:
    """Group of each cell: words stay, many-valued numbers become bands, empty cells 'unknown'.

    Ages are cut at 40, 50, 60 and 70 years; other numbers with more than eight values at their tertiles.
    """
    filled = [cell for cell in cells if cell != ""]
    try:
        value = np.array([float(cell) if cell != "" else np.nan for cell in cells])
    except ValueError:
        return [cell or UNKNOWN for cell in cells]
    is_age = "age" in name.lower().replace("_", " ").split() or name.lower() == "age"
    if len(set(filled)) <= MANY_VALUES and not is_age:
        return [cell or UNKNOWN for cell in cells]
    edges = np.array(AGE_EDGES) if is_age else np.unique(np.nanquantile(value, [1 / 3, 2 / 3]))
    names = [
        f"< {edges[0]:g}",
        *(f"{a:g} to < {b:g}" for a, b in pairwise(edges)),
        f">= {edges[-1]:g}",
    ]
    return [UNKNOWN if np.isnan(v) else names[int(np.searchsorted(edges, v, side="right"))] for v in value]


@dataclass(frozen=True)
class Heterogeneity:
    """Cochran's Q over groups: a small p says that the groups differ by more than chance."""

    q: float
    df: int
    p: float
    note: str


def auroc_heterogeneity(
    labels: Bools, scores: Floats, patients: ArrayLike, groups: Sequence[str], usable: Sequence[str]
) -> Heterogeneity | None:
    """Test whether the AUROC differs between the `usable` groups; None with fewer than two that allow it."""
    group, patient = np.asarray(groups), np.asarray(patients)
    centres, weights = [], []
    for name in usable:
        rows = group == name
        placed = delong.placements(labels[rows], scores[rows])
        value = float(placed.auroc_k[0])
        repeated = len(np.unique(patient[rows])) < rows.sum()
        try:
            variance = float(delong.covariance(placed, patient[rows] if repeated else None)[0, 0])
        except ValueError:
            continue
        if variance > 0 and 0 < value < 1:
            centres.append(np.log(value / (1 - value)))
            weights.append((value * (1 - value)) ** 2 / variance)
    if len(centres) < 2:
        return None
    centre, weight = np.array(centres), np.array(weights)
    q = float((weight * (centre - (weight * centre).sum() / weight.sum()) ** 2).sum())
    df = len(centres) - 1
    left_out = len(usable) - len(centres)
    note = f"{left_out} groups without a usable variance left out" if left_out else ""
    return Heterogeneity(q, df, float(stats.chi2.sf(q, df)), note)


@dataclass(frozen=True)
class ShortcutTest:
    """How well the label is told from a column alone, and the permutation p value."""

    auroc: Estimate
    p: float
    by_chance: float


def shortcut(
    labels: Bools, groups: Sequence[str], patients: ArrayLike, n_permutations: int = 999, seed: int = 0
) -> ShortcutTest:
    """AUROC of the best score that knows the column only: the prevalence of the row's own group.

    It is above one half by construction, so it is judged against patients whose column values were shuffled
    (`by_chance` is their mean); the p value is what counts, and no interval is given.
    """
    cluster, n_patients = clusters(patients)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    n_groups = int(group.max()) + 1 if group.size else 0
    if not 2 <= n_groups <= MOST_GROUPS or labels.all() or not labels.any():
        why = "needs both classes and 2 to 30 groups"
        return ShortcutTest(unknown(labels.size, n_patients, why), float("nan"), float("nan"))
    first_row = np.unique(cluster, return_index=True)[1]
    constant = bool((group == group[first_row][cluster]).all())
    random = np.random.default_rng(seed)
    observed = _prevalence_auroc(labels, group, n_groups)
    shuffled = np.empty(n_permutations)
    for k in range(n_permutations):
        drawn = (
            group[first_row][random.permutation(n_patients)][cluster]
            if constant
            else random.permutation(group)
        )
        shuffled[k] = _prevalence_auroc(labels, drawn, n_groups)
    p = float((1 + (shuffled >= observed - 1e-12).sum()) / (n_permutations + 1))
    method = f"permutation of {'patients' if constant else 'rows'}, {n_permutations} times"
    estimate = Estimate(observed, float("nan"), float("nan"), labels.size, n_patients, method)
    return ShortcutTest(estimate, p, float(shuffled.mean()))


def _prevalence_auroc(labels: Bools, group: np.ndarray, n_groups: int) -> float:
    positive: Floats = np.bincount(group, weights=labels, minlength=n_groups).astype(np.float64)
    total: Floats = np.bincount(group, minlength=n_groups).astype(np.float64)
    share = np.divide(positive, total, out=np.zeros(n_groups), where=total > 0)
    order = np.argsort(share)
    positive, negative = positive[order], (total - positive)[order]
    _, tie = np.unique(share[order], return_inverse=True)
    positive = np.bincount(tie, weights=positive).astype(np.float64)
    negative = np.bincount(tie, weights=negative).astype(np.float64)
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
