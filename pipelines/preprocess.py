"""`preprocess`: a folder of slides to a folder of stores. Resumable; one bad slide never stops the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from atlas_path.errors import ExitCode
from atlas_path.progress import progress, say
from atlas_path.slides import SlideSource
from atlas_path.store.commit import sweep
from atlas_path.store.options import PreprocessOptions
from pipelines.cluster import available_cores, performance_report, workers
from pipelines.preprocess_giant import convert_giant, is_giant
from pipelines.preprocess_image import convert_image, failed, up_to_date
from pipelines.preprocess_inputs import Item, collect
from pipelines.preprocess_report import write_run
from pipelines.work import BatchResult, ImageRecord, bounded, update_manifest

SMALL_RUN_BYTES = 256 << 20  # below it, starting worker processes takes longer than the work
MANIFEST_EVERY_S = 10.0


def preprocess(inputs: Sequence[Path], out: Path, options: PreprocessOptions) -> BatchResult:
    """Convert every slide in `inputs` (and in `options.cohort`) that is not yet up to date in `out`.

    Writes stores, `manifest.csv`, `failures.csv`, `thumbnails/`, `runs/<utc>.json` and `summary.md`. On an
    interrupt what is finished stays recorded and the exit code is 130.

    Raises:
        UsageError: there is nothing to do, or an option cannot be used.
        CohortError: the cohort table cannot be used.
    """
    started = time.time()
    items = collect(inputs, out, options)
    out.mkdir(parents=True, exist_ok=True)
    for folder in sweep(out):
        say(f"removed what an interrupted run left behind: {folder.name}")
    records = [(item, up_to_date(item, out, options)) for item in items]
    finished = [record for _, record in records if record is not None]
    todo = [item for item, record in records if record is None]
    interrupted = False
    try:
        finished.extend(_convert_all(todo, out, options))
    except KeyboardInterrupt:
        interrupted = True
    sweep(out)  # what a worker left that died
    update_manifest(out, finished)
    result = BatchResult.of(finished)
    if interrupted:
        result.exit_code = ExitCode.INTERRUPTED
    write_run(out, result, options, started)
    return result


def preprocess_one(source: SlideSource, out: Path, options: PreprocessOptions) -> ImageRecord:
    """Convert one slide in this process; an up-to-date store is kept. A bad slide becomes a record."""
    item = Item(source.path, source.image_id, source.image_id, private=source.private)
    record = up_to_date(item, out, options)
    return record or convert_image(item, out, options, available_cores())


def _convert_all(todo: list[Item], out: Path, options: PreprocessOptions) -> Iterator[ImageRecord]:
    """Convert the images on workers, one image a worker at a time.

    More in flight would be handed to workers in advance, and would be suspected, too, when one of them dies.
    """
    if not todo:
        return
    with (
        workers(_n_workers(todo, options), len(todo), options.scheduler) as pool,
        performance_report(pool, out, options.report),
        ThreadPoolExecutor(2, thread_name_prefix="giant") as giants,
        progress("preprocess", len(todo)) as advance,
    ):

        def submit(item: Item) -> Future[ImageRecord]:
            if pool.n_workers > 1 and is_giant(item, options):
                return giants.submit(convert_giant, item, out.absolute(), options, pool)
            return pool.submit(convert_image, item, out.absolute(), options, pool.threads)

        pending: list[ImageRecord] = []
        written_at = time.monotonic()
        for item, future in bounded(submit, todo, pool.n_workers):
            record = _outcome(item, future)
            pending.append(record)
            advance(record.image_id if record.ok else f"{record.image_id}: {record.error}", 1)
            if time.monotonic() - written_at > MANIFEST_EVERY_S:
                update_manifest(out, pending)
                pending, written_at = [], time.monotonic()
            yield record


def _n_workers(todo: list[Item], options: PreprocessOptions) -> int | None:
    """In this process when nothing was said and the slides are small."""
    if options.workers is not None or options.scheduler is not None:
        return options.workers
    total = sum(item.path.stat().st_size for item in todo if item.path.is_file())
    return 0 if total < SMALL_RUN_BYTES else None


def _outcome(item: Item, future: Future[ImageRecord]) -> ImageRecord:
    """The record of a finished task; a worker that died leaves the slide quarantined, not the batch."""
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        return ImageRecord(
            item.image_id,
            item.case_id,
            reason="worker_died",
            source=item.shown,
            error=f"{item.shown}: the worker process that converted it died, likely out of memory; "
            "try it alone with --workers 1, or give it more memory",
        )
    except Exception as error:  # noqa: BLE001 - the boundary: whatever a worker raises is that slide's failure
        return failed(item, error, case_id=item.case_id, source=item.shown)
