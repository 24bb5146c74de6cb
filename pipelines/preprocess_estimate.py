"""`preprocess --dry-run`: what a run would take, from the slides' thumbnails and a few windows of each.

Nothing is written into the folder of stores. Time and bytes are measured on windows of the slide itself
(decoded and encoded as the run would), not taken from a table.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas_path.errors import AtlasPathError
from atlas_path.slides import open_slide
from atlas_path.store.copy_tiles import tiles_of_windows
from atlas_path.store.job import Job
from atlas_path.store.layout import ArrayLayout
from atlas_path.store.options import PreprocessOptions
from atlas_path.store.prepare import prepare
from atlas_path.store.source import BaseReader
from pipelines.cluster import available_cores
from pipelines.preprocess_image import failed, request_for, up_to_date
from pipelines.preprocess_inputs import Item, collect

SAMPLED_SQUARES = 4
SQUARE_WINDOWS = 4
SAMPLED_TILES = 64
ALL_LEVELS = 4 / 3  # a 2x pyramid holds a third more than its finest level
COPIED_LEVELS = 16 / 15  # scanners mostly store every second level


@dataclass(frozen=True)
class Estimate:
    """What one image would take.

    Attributes:
        image_id: the image.
        state: 'to do', 'up to date', or the reason why it would fail.
        tissue_mm2: area of tissue.
        windows: windows of level 0 that would be stored.
        n_bytes: size of the store.
        core_s: seconds of one core.
        note: the line a person reads about a failure.
    """

    image_id: str
    state: str
    tissue_mm2: float = 0.0
    windows: int = 0
    n_bytes: float = 0.0
    core_s: float = 0.0
    note: str = ""


def estimate(inputs: Sequence[Path], out: Path, options: PreprocessOptions) -> list[Estimate]:
    """Estimate every image of a run.

    Raises:
        UsageError: there is nothing to do, or an option cannot be used.
    """
    return [_estimate_one(item, out, options) for item in collect(inputs, out, options)]


def report(estimates: Sequence[Estimate], out: Path, options: PreprocessOptions) -> list[str]:
    """The estimate in lines for people, one an image and a total."""
    lines = [f"{'image':32s} {'state':12s} {'mm2':>8s} {'windows':>8s} {'GB':>7s} {'core-s':>7s}"]
    for one in estimates:
        lines.append(
            f"{one.image_id:32s} {one.state:12s} {one.tissue_mm2:8.2f} {one.windows:8d} "
            f"{one.n_bytes / 1e9:7.3f} {one.core_s:7.1f}"
        )
        if one.note:
            lines.append(f"    {one.note}")
    cores = options.workers or available_cores()
    n_bytes, core_s = sum(one.n_bytes for one in estimates), sum(one.core_s for one in estimates)
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    lines.append(
        f"total: {sum(one.windows for one in estimates)} windows, "
        f"{sum(one.tissue_mm2 for one in estimates):.1f} mm2 of tissue, {n_bytes / 1e9:.2f} GB "
        f"({free / 1e9:.0f} GB free), about {core_s / cores / 60:.1f} minutes on {cores} cores"
    )
    if n_bytes > free:
        lines.append("this disk is too small for the run")
    return lines


def _estimate_one(item: Item, out: Path, options: PreprocessOptions) -> Estimate:
    known = up_to_date(item, out, options)
    if known is not None:
        return Estimate(item.image_id, "up to date" if known.ok else known.reason, note=known.error)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.thread_time()
        try:
            request = request_for(item, Path(scratch), options)
            prepared = prepare(request, options, Path(scratch) / "part")
            looking_s = time.thread_time() - started
            core_s, n_bytes = _sample(prepared.job)
        except (AtlasPathError, OSError, ValueError) as error:
            record = failed(item, error)
            return Estimate(item.image_id, record.reason, note=record.error)
    meta = prepared.meta
    return Estimate(
        item.image_id,
        "to do",
        meta.tissue.area_mm2,
        meta.counts.stored,
        n_bytes,
        core_s + looking_s,
    )


def _sample(job: Job) -> tuple[float, float]:
    """(seconds of one core, bytes) of all levels, from a few squares of windows of level 0."""
    plan = job.levels[0]
    assert plan.layout is not None
    kept = np.argwhere(plan.keep)
    chosen = kept[np.linspace(0, len(kept) - 1, min(SAMPLED_SQUARES, len(kept))).astype(int)]
    with open_slide(job.slide_path, job.mpp_given, job.mammo) as slide:
        if plan.source_level is not None:
            started = time.thread_time()
            tiles = slide.jpeg_tiles(plan.source_level)
            assert tiles is not None
            copied = tiles.bytecounts[tiles_of_windows(plan.keep, tiles)]
            some = np.argwhere(tiles.bytecounts > 0)[:: max(1, tiles.bytecounts.size // SAMPLED_TILES)]
            for row, col in some:
                tiles.raw(int(row), int(col))
            per_tile = (time.thread_time() - started) / max(len(some), 1)
            return per_tile * len(copied), float(copied.sum()) * COPIED_LEVELS
        reader = BaseReader(slide, job)
        started, n_windows, n_bytes = time.thread_time(), 0, 0
        for row, col in chosen:
            rows = range(int(row), min(int(row) + SQUARE_WINDOWS, plan.keep.shape[0]))
            cols = range(int(col), min(int(col) + SQUARE_WINDOWS, plan.keep.shape[1]))
            for _, windows in reader.windows(rows, cols):
                for _, pixels in windows:
                    n_windows += 1
                    n_bytes += _coded_bytes(plan.layout, pixels)
        scale = job.n_kept / max(n_windows, 1) * ALL_LEVELS
        return (time.thread_time() - started) * scale, n_bytes * scale


def _coded_bytes(layout: ArrayLayout, window: np.ndarray) -> int:
    step = layout.chunk[0]
    parts = range(layout.chunks_per_shard[0])
    return sum(len(layout.codec.encode(window[:, :, c * step : (c + 1) * step])) for c in parts)
