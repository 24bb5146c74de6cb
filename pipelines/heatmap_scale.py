"""One colour scale for all images: where full colour is, and how small the cells of the picture are.

The limit is a quantile of the evidence, not of the tokens: 75 % of the absolute contribution of all images
lies in cells weaker than it. A few hot cells among a million quiet ones therefore keep their colour and noise
that adds up to little stays pale. Where all evidence together is negligible the quantile would still find
something to shout about, so an image wholly in full colour stands for at least one logit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipelines.exports.overlay import Scale, binned, density
from pipelines.token_map import TokenMap

EVIDENCE_BELOW_LIMIT = 0.75
LEAST_LOGITS = 1.0
LOWEST, HIGHEST, BINS = -12.0, 12.0, 4800
"""Histogram of log10 of the values: 0.005 decades wide, so the limit is right within about 1 %."""


def cohort_scale(maps: Iterable[TokenMap], limit: float | None, long_side_px: int) -> Scale:
    """The scale for a cohort's maps; one pass, in bounded memory.

    Args:
        maps: all images that will be shown.
        limit: given by the user (per mm2); None takes it from the evidence.
        long_side_px: longer side of the picture: cells are grown by powers of two until the largest image has
            no more cells than pixels.
    """
    histograms: dict[int, NDArray[np.float64]] = {}
    largest = 1
    signed = True
    areas_mm2: list[float] = []
    for token_map in maps:
        signed = token_map.signed
        areas_mm2.append(token_map.area_mm2())
        values = density(token_map)
        largest = max(largest, *values.shape)
        for bin_tokens in (1, 2, 4, 8, 16):
            histograms.setdefault(bin_tokens, np.zeros(BINS))
            histograms[bin_tokens] += _mass(binned(values, bin_tokens), bin_tokens)
    bin_tokens = 1
    while bin_tokens < 16 and largest / bin_tokens > long_side_px:
        bin_tokens *= 2
    unit = "logit per square mm" if signed else "share of attention per square mm"
    if limit is None:
        limit = _limit(histograms.get(bin_tokens, np.zeros(BINS)))
        if signed and areas_mm2:
            limit = max(limit, rounded(LEAST_LOGITS / float(np.median(areas_mm2))))
    return Scale(limit, bin_tokens, unit)


def _mass(values: NDArray[np.float32], bin_tokens: int) -> NDArray[np.float64]:
    """Absolute value summed over cells, by the logarithm of a cell's absolute value."""
    size = np.abs(values[np.isfinite(values)].astype(np.float64)) * bin_tokens**2
    per_mm2 = size / bin_tokens**2
    positive = per_mm2 > 0
    place = (np.log10(per_mm2[positive]) - LOWEST) / (HIGHEST - LOWEST) * BINS
    index = np.clip(place.astype(np.int64), 0, BINS - 1)
    return np.asarray(np.bincount(index, weights=size[positive], minlength=BINS), np.float64)


def _limit(histogram: NDArray[np.float64]) -> float:
    total = histogram.sum()
    if total <= 0:
        return 1.0
    index = int(np.searchsorted(np.cumsum(histogram), EVIDENCE_BELOW_LIMIT * total))
    return rounded(10.0 ** (LOWEST + (index + 1) * (HIGHEST - LOWEST) / BINS))


def rounded(value: float) -> float:
    """Two significant digits, upwards: a number that fits a legend."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / step - 1e-9) * step
