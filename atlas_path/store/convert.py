"""Write what was prepared: the pixels, whole or one band of a giant at a time; then finish and commit."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from atlas_path.geometry import WINDOW_PX, Grid
from atlas_path.slides import open_slide
from atlas_path.store.arrays import StoredArray
from atlas_path.store.commit import PartFolder
from atlas_path.store.job import Job, Written
from atlas_path.store.masks import write_masks, write_metadata
from atlas_path.store.meta import StoreMeta
from atlas_path.store.prepare import Prepared
from atlas_path.store.pyramid import BAND_SHARD_ROWS, ChainWriter, reduce_level, too_damaged
from atlas_path.store.source import BaseReader


def bands(job: Job) -> list[range]:
    """Shard rows of level 0 that can be written independently of each other."""
    layout = job.levels[0].layout
    assert layout is not None
    rows, step = layout.shard_grid[0], BAND_SHARD_ROWS
    return [range(start, min(start + step, rows)) for start in range(0, rows, step)]


def write_rows(job: Job, rows: range, threads: int) -> Written:
    """Write the shards in these rows of level 0, and those above them, from the slide.

    Raises:
        DamagedSlideError: too many windows are unreadable.
    """
    cv2.setNumThreads(1)  # the threads are ours: one a shard
    with open_slide(job.slide_path, job.mpp_given, job.mammo) as slide:
        return ChainWriter(job, BaseReader(slide, job)).write(rows, threads)


def finish(
    prepared: Prepared, written: Written, part: PartFolder, replace: bool, threads: int
) -> tuple[StoreMeta, bool]:
    """Make what remains, and commit. Returns the metadata, and False when another run was faster.

    Raises:
        DamagedSlideError: all bands together have too many unreadable windows.
    """
    job = prepared.job
    for level in range(job.chain_top + 1, len(job.levels)):
        below = StoredArray(part.path / str(level - 1), job.levels[level - 1].layout)
        written.add(reduce_level(job, level, below.read_region, threads))
    bad_px = written.bad_px if written.bad_px is not None else np.zeros(job.levels[0].keep.shape, np.int64)
    n_bad = int((bad_px > 0).sum())
    if n_bad > job.max_bad * job.n_kept:
        raise too_damaged(job, n_bad)
    counts = prepared.meta.counts.model_copy(update={"bad": n_bad, "bad_px": int(bad_px.sum())})
    meta = prepared.meta.model_copy(update={"counts": counts})
    sizes = [(level.height_px, level.width_px) for level in job.levels]
    write_masks(prepared, meta, part.path, valid_fractions(bad_px, sizes))
    write_metadata(prepared, meta, part.path)
    placed = part.commit(
        written.files,
        replace,
        fingerprint=meta.source.fingerprint,
        parameters_sha256=meta.parameters_sha256,
        atlas_path_version=meta.atlas_path_version,
    )
    return meta, placed


def valid_fractions(bad_px: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """(rows, cols) float32 of each level: the fraction of each window's pixels that were readable."""
    fractions = []
    bad = bad_px.astype(np.float64)
    for k, (height, width) in enumerate(sizes):
        grid = Grid(height, width)
        if k:
            padded = np.zeros((grid.rows * 2, grid.cols * 2))
            padded[: bad.shape[0], : bad.shape[1]] = bad
            bad = padded.reshape(grid.rows, 2, grid.cols, 2).sum(axis=(1, 3)) / 4
        rows = np.minimum(WINDOW_PX, height - np.arange(grid.rows) * WINDOW_PX)
        cols = np.minimum(WINDOW_PX, width - np.arange(grid.cols) * WINDOW_PX)
        fractions.append(np.clip(1 - bad / np.outer(rows, cols), 0, 1).astype(np.float32))
    return fractions
