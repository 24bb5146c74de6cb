"""A giant slide on several workers: bands of shard rows, each shard written by one of them.

The process that drives the run holds the lock on the unfinished store and commits it; workers look at the
slide, write bands and make the coarse levels. Bytes are the same as from one process, because a band is a
whole number of shards of every level that is written in it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_path.errors import SlideError
from atlas_path.slides import open_slide
from atlas_path.store import StoreMeta
from atlas_path.store.commit import PartFolder, store_path
from atlas_path.store.convert import bands, commit, copy_levels, finish, write_rows
from atlas_path.store.job import Written
from atlas_path.store.options import PreprocessOptions
from atlas_path.store.prepare import prepare
from pipelines.cluster import Workers
from pipelines.preprocess_image import recorded, request_for
from pipelines.preprocess_inputs import Item
from pipelines.work import ImageRecord

SMALL_FILE_BYTES = 64 << 20  # no giant fits into it, so that these files need not be opened to know


@dataclass
class Tasks:
    """Runs the parts of one slide on the workers and waits for them."""

    workers: Workers

    def run(self, work: Callable[..., Any], *args: Any) -> Any:
        """One task."""
        return self.workers.submit(work, *args).result()

    def all(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        """Several tasks at a time; all are waited for, then the first error is raised."""
        futures: list[Future[Any]] = [self.workers.submit(*call) for call in calls]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error
        return [future.result() for future in futures]


def is_giant(item: Item, options: PreprocessOptions) -> bool:
    """Whether a slide has more than `options.giant_px` pixels. One that cannot be opened is none."""
    try:
        if options.giant_px > SMALL_FILE_BYTES and item.path.stat().st_size < SMALL_FILE_BYTES:
            return False
        with open_slide(item.path, item.mpp_given, options.mammo) as slide:
            return slide.levels[0].height_px * slide.levels[0].width_px > options.giant_px
    except (SlideError, OSError):
        return False


def convert_giant(item: Item, out: Path, options: PreprocessOptions, workers: Workers) -> ImageRecord:
    """Make the store of a giant slide on all workers.

    Raises:
        distributed.KilledWorker: workers died on it; nothing is left behind.
    """
    return recorded(item, out, lambda: _convert(item, out, options, Tasks(workers)))


def _convert(item: Item, out: Path, options: PreprocessOptions, tasks: Tasks) -> tuple[StoreMeta, bool]:
    threads = tasks.workers.threads
    final = store_path(out, item.image_id)
    replace = final.exists()
    part = PartFolder(final)
    try:
        request = tasks.run(request_for, item, out, options)
        prepared = tasks.run(prepare, request, options, part.path, threads)
        calls: list[tuple[Any, ...]] = [(copy_levels, prepared.job, threads)]
        if prepared.job.levels[0].origin == "decoded":
            calls += [(write_rows, prepared.job, rows, threads) for rows in bands(prepared.job)]
        written = Written()
        for share in tasks.all(calls):
            written.add(share)
        meta, written = tasks.run(finish, prepared, written, threads)
        return meta, commit(part, meta, written, replace)
    except BaseException:
        part.abandon()
        raise
