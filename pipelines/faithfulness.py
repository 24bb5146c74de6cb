"""Does the map point at what the model used? Windows are taken away, and given back, in the map's order.

Deletion: the windows that support the prediction most are removed; support should fall faster than when
windows are removed at random. Insertion: only those windows are shown; support should be higher than with
random ones. Removal is exact here: a window that is not in the batch is background, and models are trained
with random windows dropped, so what is left is something they know (Petsiuk et al. 2018, RISE, had to paint
over pixels).

Support is the probability of the explained class where it is at least one half, else one minus it; for tasks
without probabilities, the explained number in the direction of its evidence. High is "as predicted".
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atlas import WindowBatch
from pipelines.ensemble import Ensemble, mean_values
from pipelines.explain import Explained

SHARES = (0.05, 0.1, 0.25)
"""Shares of the windows removed or shown; the mean over them is reported."""
MOST_WINDOWS = 512
DELETION_DRAWS, INSERTION_DRAWS = 1, 3
"""Random orders to compare with; a deletion costs nearly a full pass, an insertion little."""


@dataclass(frozen=True)
class Faithfulness:
    """Mean support over the shares tested. `faithful`: deletion is below random and insertion above it.

    Fields are None where they were not measured; `note` says why.
    """

    support: float | None = None
    deletion_map: float | None = None
    deletion_random: float | None = None
    insertion_map: float | None = None
    insertion_random: float | None = None
    windows_tested: str = ""
    faithful: bool | None = None
    note: str = ""

    def columns(self) -> dict[str, Any]:
        """As columns of `heatmaps.csv`."""
        return asdict(self)


def measure(
    ensemble: Ensemble,
    batch: WindowBatch,
    evidence_N: NDArray[np.floating[Any]],
    explained: Explained,
    seconds: float,
    seed: int = 0,
) -> Faithfulness:
    """Test the order of windows that a map gives for one case.

    Args:
        evidence_N: the map summed over each window of the batch, positive for the explained class.
        seconds: time allowed. The first pass over all windows is timed; what would not fit is left out, the
            removals first (they cost a full pass each), and said in `note`.
    """
    n = len(evidence_N)
    counts = sorted({min(max(1, round(share * n)), MOST_WINDOWS, n - 1) for share in SHARES if n > 1})
    if n < 4:
        return Faithfulness(note="fewer than four windows")
    started = time.perf_counter()
    whole = _explained_number(ensemble, batch, explained)
    pass_seconds = time.perf_counter() - started
    direction, offset = _support(ensemble, explained, whole)
    order = np.argsort(-direction * evidence_N, kind="stable")
    rng = np.random.default_rng(seed)
    draws = [rng.permutation(n) for _ in range(max(DELETION_DRAWS, INSERTION_DRAWS))]
    left = seconds - pass_seconds
    window_seconds = pass_seconds / n
    inserting = _affordable(counts, [(1 + INSERTION_DRAWS) * window_seconds * k for k in counts], left / 2)
    left -= sum((1 + INSERTION_DRAWS) * window_seconds * k for k in inserting)
    deleting = _affordable(counts, [(1 + DELETION_DRAWS) * window_seconds * (n - k) for k in counts], left)

    def support(kept: NDArray[np.int64]) -> float:
        part = batch.select(torch.from_numpy(np.sort(kept)))
        return offset + direction * _explained_number(ensemble, part, explained)

    deleted = [support(order[k:]) for k in deleting]
    deleted_random = [support(draw[k:]) for k in deleting for draw in draws[:DELETION_DRAWS]]
    inserted = [support(order[:k]) for k in inserting]
    inserted_random = [support(draw[:k]) for k in inserting for draw in draws[:INSERTION_DRAWS]]
    skipped = (
        "" if len(deleting) + len(inserting) == 2 * len(counts) else "time was short: some steps left out"
    )
    result = Faithfulness(
        support=offset + direction * whole,
        deletion_map=_mean(deleted),
        deletion_random=_mean(deleted_random),
        insertion_map=_mean(inserted),
        insertion_random=_mean(inserted_random),
        windows_tested=" ".join(str(k) for k in sorted({*deleting, *inserting})),
        note=skipped,
    )
    return _judged(result)


def _judged(result: Faithfulness) -> Faithfulness:
    verdicts = []
    if result.deletion_map is not None and result.deletion_random is not None:
        verdicts.append(result.deletion_map < result.deletion_random)
    if result.insertion_map is not None and result.insertion_random is not None:
        verdicts.append(result.insertion_map > result.insertion_random)
    faithful = all(verdicts) if verdicts else None
    return Faithfulness(**{**asdict(result), "faithful": faithful})


def _explained_number(ensemble: Ensemble, batch: WindowBatch, explained: Explained) -> float:
    """Probability of the explained class, or the explained combination of the logits."""
    (results, maps) = ensemble.run(batch, maps=False)[0]
    column = f"prob_{explained.label}"
    columns = ensemble.task.value_columns()
    if column in columns:
        return float(mean_values(results)[columns.index(column)])
    return float(maps.logits_O @ explained.weight_O)


def _support(ensemble: Ensemble, explained: Explained, whole: float) -> tuple[float, float]:
    """(direction, offset): support is offset + direction x number, see the top of the module."""
    if f"prob_{explained.label}" in ensemble.task.value_columns():
        return (1.0, 0.0) if whole >= 0.5 else (-1.0, 1.0)
    return (1.0, 0.0) if whole >= 0 else (-1.0, 0.0)


def _affordable(counts: list[int], costs: list[float], seconds: float) -> list[int]:
    """As many counts as fit the time, the largest first (they tell most), in ascending order."""
    chosen: list[int] = []
    for count, cost in sorted(zip(counts, costs, strict=True), reverse=True):
        if cost <= seconds:
            chosen.append(count)
            seconds -= cost
    return sorted(chosen)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def summary(results: list[Faithfulness]) -> dict[str, Any]:
    """How many cases were tested and how many maps beat the random order, with the mean differences."""
    tested = [r for r in results if r.faithful is not None]
    deletion = [r.deletion_random - r.deletion_map for r in tested if r.deletion_map is not None
                and r.deletion_random is not None]  # fmt: skip
    insertion = [r.insertion_map - r.insertion_random for r in tested if r.insertion_map is not None
                 and r.insertion_random is not None]  # fmt: skip
    return {
        "cases": len(results),
        "tested": len(tested),
        "faithful": sum(bool(r.faithful) for r in tested),
        "why_not": "; ".join(sorted({r.note for r in results if r.faithful is None and r.note})),
        "deletion_gain": _mean(deletion),
        "insertion_gain": _mean(insertion),
    }
