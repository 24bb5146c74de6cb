"""Write what was prepared: the pixels, whole or one band of a giant at a time; then finish and commit."""

from __future__ import annotations

import cv2
import numpy as np

from atlas_path.geometry import WINDOW_PX, Grid
from atlas_path.slides import open_slide
from atlas_path.store.arrays import open_level
from atlas_path.store.commit import PartFolder
from atlas_path.store.copy_tiles import copy_tiles
from atlas_path.store.job import Job, Written
from atlas_path.store.masks import write_array_metadata, write_masks, write_metadata
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


def whole(job: Job) -> range:
    """All shard rows of level 0."""
    layout = job.levels[0].layout
    assert layout is not None
    return range(layout.shard_grid[0])


def write_rows(job: Job, rows: range, threads: int) -> Written:
    """Write the shards in these rows of level 0, and those above them, from the slide.

    Raises:
        DamagedSlideError: too many windows are unreadable.
    """
    cv2.setNumThreads(1)  # the threads are ours: one a column
    with open_slide(job.slide_path, job.mpp_given, job.mammo) as slide:
        return ChainWriter(job, BaseReader(slide, job)).write(rows, threads)


def copy_levels(job: Job, threads: int) -> Written:
    """Copy the tiles of all levels that are copied from the slide.

    Raises:
        DamagedSlideError: too many tiles do not decode.
    """
    sources = {k: level.source_level for k, level in enumerate(job.levels) if level.source_level is not None}
    if not sources:
        return Written()
    with open_slide(job.slide_path, job.mpp_given, job.mammo) as slide:
        tiles_of = {}
        for k, source_level in sources.items():
            tiles = slide.jpeg_tiles(source_level)
            assert tiles is not None
            tiles_of[k] = tiles
        return copy_tiles(job, tiles_of, threads)


def finish(prepared: Prepared, written: Written, threads: int) -> tuple[StoreMeta, Written]:
    """Make the coarse levels, the masks and the metadata; `commit` is all that is left.

    Raises:
        DamagedSlideError: all bands together have too many unreadable windows.
    """
    job = prepared.job
    write_array_metadata(job, job.part)
    stored = [(lv.height_px, lv.width_px, str(k) if lv.layout else None) for k, lv in enumerate(job.levels)]
    for k in range(job.chain_top + 1, len(job.levels)):
        if job.levels[k].origin == "reduced":
            finer = open_level(job.part, k - 1, stored)
            written.add(reduce_level(job, k, finer.read_region, threads))
    bad_px = written.bad_px.get(0, np.zeros(job.levels[0].keep.shape, np.int64))
    n_bad = int(np.count_nonzero(bad_px))
    if n_bad > job.max_bad * job.n_kept:
        raise too_damaged(job, n_bad)
    counts = prepared.meta.counts.model_copy(update={"bad": n_bad, "bad_px": int(bad_px.sum())})
    meta = prepared.meta.model_copy(update={"counts": counts})
    write_masks(prepared, meta, job.part, valid_fractions(job, written.bad_px))
    write_metadata(prepared, meta, job.part)
    return meta, written


def commit(part: PartFolder, meta: StoreMeta, written: Written, replace: bool) -> bool:
    """Make the store visible; False when another run was faster."""
    return part.commit(
        written.files,
        replace,
        fingerprint=meta.source.fingerprint,
        parameters_sha256=meta.parameters_sha256,
        atlas_path_version=meta.atlas_path_version,
    )


def valid_fractions(job: Job, bad_px: dict[int, np.ndarray]) -> list[np.ndarray]:
    """(rows, cols) float32 of each level: the fraction of each window's pixels that were readable.

    Unreadable pixels of a level are those of its own tiles, when they were copied, and a quarter of those of
    the level below, of which it is made or beside which it would contradict.
    """
    fractions = []
    bad = np.zeros((0, 0))
    for k, level in enumerate(job.levels):
        grid = Grid(level.height_px, level.width_px)
        below = np.zeros((grid.rows * 2, grid.cols * 2))
        part = bad[: grid.rows * 2, : grid.cols * 2]
        below[: part.shape[0], : part.shape[1]] = part
        bad = below.reshape(grid.rows, 2, grid.cols, 2).sum(axis=(1, 3)) / 4 + bad_px.get(k, 0)
        rows = np.minimum(WINDOW_PX, level.height_px - np.arange(grid.rows) * WINDOW_PX)
        cols = np.minimum(WINDOW_PX, level.width_px - np.arange(grid.cols) * WINDOW_PX)
        fractions.append(np.clip(1 - bad / np.outer(rows, cols), 0, 1).astype(np.float32))
    return fractions
