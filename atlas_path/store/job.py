"""One conversion, decided before the first pixel is written: levels, layouts, which windows are kept.

A job is plain data and pickles, so that the bands of a giant slide can be written by several processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atlas_path.geometry import Grid
from atlas_path.slides.mammo_options import MammoOptions
from atlas_path.store.layout import ArrayLayout
from atlas_path.store.meta import Origin
from atlas_path.store.plan import Base
from atlas_path.store.shard import FileRecord

CHAIN_TOP = 2  # levels 0..2 are made in memory from the slide's pixels, coarser ones from stored level 2


@dataclass(frozen=True)
class LevelPlan:
    """One level of the store.

    Args:
        height_px: its height.
        width_px: its width.
        origin: where its pixels come from.
        layout: how it is stored; None for a virtual level.
        keep: (rows, cols) bool, the windows that are stored.
        source_level: the slide's level whose tiles are copied, for 'copied'.
    """

    height_px: int
    width_px: int
    origin: Origin
    layout: ArrayLayout | None
    keep: np.ndarray
    source_level: int | None = None


@dataclass(frozen=True)
class Job:
    """Everything a worker needs to write its share of a store."""

    slide_path: Path
    mpp_given: float | None
    part: Path
    base: Base
    background: int | float
    levels: tuple[LevelPlan, ...]
    icc_srgb: bool
    max_bad: float
    check_tiles: str
    mammo: MammoOptions
    subject: str

    @property
    def n_kept(self) -> int:
        """Windows of level 0 that are stored."""
        return int(self.levels[0].keep.sum())

    @property
    def chain_top(self) -> int:
        """The coarsest level made in memory together with level 0."""
        if self.levels[0].origin != "decoded":
            return 0
        top = 0
        while top < min(CHAIN_TOP, len(self.levels) - 1) and self.levels[top + 1].origin == "reduced":
            top += 1
        return top


@dataclass
class Written:
    """What a share of the work wrote: files, and by level the unreadable pixels of its windows."""

    files: list[FileRecord] = field(default_factory=list)
    bad_px: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, other: Written) -> None:
        """Take in what another share wrote."""
        self.files += other.files
        for level, bad_px in other.bad_px.items():
            self.bad_px[level] = self.bad_px[level] + bad_px if level in self.bad_px else bad_px


def kept_windows(
    fractions: list[np.ndarray], sizes: list[tuple[int, int]], inside: np.ndarray | None
) -> list[np.ndarray]:
    """Which windows of each level are stored: those with any tissue, and those above a stored window.

    Args:
        fractions: tissue fraction (rows, cols) of each level, finest first.
        sizes: (height, width) of each level.
        inside: (rows, cols) bool, windows of level 0 that the scanner scanned; None for all.
    """
    kept: list[np.ndarray] = []
    for fraction, size in zip(fractions, sizes, strict=True):
        grid = Grid(*size)
        keep = np.asarray(fraction[: grid.rows, : grid.cols] > 0)
        if not kept and inside is not None:
            keep = keep & inside
        if kept:
            below = kept[-1]
            padded = np.zeros((grid.rows * 2, grid.cols * 2), bool)
            below = below[: grid.rows * 2, : grid.cols * 2]
            padded[: below.shape[0], : below.shape[1]] = below
            keep = np.asarray(padded.reshape(grid.rows, 2, grid.cols, 2).any(axis=(1, 3)))
        kept.append(keep)
    return kept
