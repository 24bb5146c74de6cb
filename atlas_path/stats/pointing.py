"""Pointing game: does the map's highest point lie on a lesion, and how often would a blind guess?

Source: Zhang et al., IJCV 2018;126:1084. The chance level of a case is the share of evaluated area that
counts as a hit; the p value is exact for independent cases with unequal chances (Poisson-binomial).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from atlas_path.stats.intervals import LEVEL, Estimate, Floats, proportion


@dataclass(frozen=True)
class Pointing:
    """Hit rate with interval, the mean chance level, and P(as many hits by chance)."""

    rate: Estimate
    chance: float
    p: float


def pointing(hits: ArrayLike, chances: ArrayLike, patients: ArrayLike, level: float = LEVEL) -> Pointing:
    """Judge a set of cases.

    Args:
        hits: (n,) whether the highest point lies on a lesion.
        chances: (n,) share of the evaluated area where a point would be a hit.

    Raises:
        ValueError: no case, or a chance outside [0, 1].
    """
    hit, chance = np.asarray(hits, dtype=bool), np.asarray(chances, dtype=np.float64)
    if hit.size == 0 or hit.shape != chance.shape:
        raise ValueError("the pointing game needs one chance level a case and at least one case")
    if not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError("chance levels lie between 0 and 1")
    tail = poisson_binomial_tail(chance, int(hit.sum()))
    return Pointing(proportion(hit, patients, level), float(chance.mean()), tail)


def poisson_binomial_tail(chances: Floats, at_least: int) -> float:
    """P(number of successes >= `at_least`) for independent trials with these chances."""
    mass = np.zeros(chances.size + 1)
    mass[0] = 1.0
    for chance in chances:
        mass[1:] = mass[1:] * (1 - chance) + mass[:-1] * chance
        mass[0] *= 1 - chance
    return float(min(1.0, mass[at_least:].sum()))
