"""Feeds the model: slides are preprocessed and windows read while it computes.

    workers (processes)    slide -> store            at most twice as many under way as there are workers
    reader (a thread)      store -> windows          waits while decoded windows fill the memory budget
    caller                 iterates over `Feed`      cases in the order in which they become ready

A case becomes ready when all of its images are stores. What goes wrong with an image is part of its case.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from atlas_path.errors import AtlasPathError, NoTissueError
from atlas_path.slides.find import mammogram_pseudonym
from atlas_path.store import PreprocessOptions, Store, open_store
from pipelines.cluster import Workers, available_cores
from pipelines.data_cases import ImageRef
from pipelines.preprocess_image import convert_image, up_to_date
from pipelines.preprocess_inputs import Item, read_mpp_table
from pipelines.score_plan import PlannedCase, PlannedImage
from pipelines.work import ImageRecord, bounded

READ_THREADS = 4  # of one case; more wait for the memory


@dataclass(frozen=True)
class ImageFault:
    """An image that could not be used, in the words of `failures.csv`."""

    image_id: str
    status: str
    reason: str
    error: str

    @classmethod
    def of(cls, image_id: str, error: Exception) -> ImageFault:
        """From an exception; anything but our own errors is 'internal' and names its type."""
        record = ImageRecord.failure(image_id, error)
        return cls(image_id, record.status, record.reason, record.error)


@dataclass(frozen=True)
class ReadyImage:
    """An image with its store open and its windows chosen."""

    planned: PlannedImage
    store: Store
    ref: ImageRef
    tissue_N: NDArray[np.float32] = field(repr=False)


@dataclass
class ReadyCase:
    """A case to score. `pixels_NCHW` is None when the caller said it need not be read (resume)."""

    plan: PlannedCase
    images: list[ReadyImage]
    faults: list[ImageFault]
    pixels_NCHW: NDArray[Any] | None = None
    n_bytes: int = 0


@dataclass(frozen=True)
class FeedOptions:
    """What the feed has to know of the model and the machine."""

    mpp: float
    min_tissue: float
    n_channels: int
    image_kinds: dict[str, Any]
    stores: Path
    preprocess: PreprocessOptions
    budget_bytes: int
    voi: str | None = None


class Feed:
    """Iterate over ready cases; call `release(case)` when its pixels are no longer needed.

    Args:
        wanted: asked in the reader thread for each ready case before its windows are read; False skips the
            reading (the case is already scored).
    """

    def __init__(
        self,
        cases: Sequence[PlannedCase],
        options: FeedOptions,
        pool: Workers | None,
        wanted: Callable[[ReadyCase], bool],
    ) -> None:
        self.cases, self.options, self.pool, self.wanted = list(cases), options, pool, wanted
        self.read_seconds = self.preprocess_seconds = self.waited_seconds = 0.0
        self._ready: queue.Queue[ReadyCase | Exception | None] = queue.Queue()
        self._prepared: queue.Queue[PlannedCase | None] = queue.Queue()
        self._records: dict[str, ImageRecord] = {}
        self._budget = threading.Condition()
        self._held_bytes = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for work, name in ((self._prepare, "preparing"), (self._read_all, "reading"))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._prepared.put(None)
        with self._budget:
            self._budget.notify_all()
        self._threads[1].join(timeout=60)

    def __iter__(self) -> Iterator[ReadyCase]:
        for _ in self.cases:
            started = time.perf_counter()
            ready = self._ready.get()
            self.waited_seconds += time.perf_counter() - started
            if isinstance(ready, Exception):
                raise ready
            if ready is not None:
                yield ready

    def release(self, case: ReadyCase) -> None:
        """Give the memory of a case back to the reader."""
        case.pixels_NCHW = None
        with self._budget:
            self._held_bytes -= case.n_bytes
            self._budget.notify_all()

    def _guarded(self, work: Callable[[], None]) -> None:
        """An unforeseen error in a thread reaches the caller instead of leaving it waiting."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - passed on to the caller, which raises it
            self._ready.put(error)

    def _prepare(self) -> None:
        """Hand over the cases that need no preprocessing, then the others as their slides are done."""
        waiting: dict[str, set[str]] = {}
        slides: dict[str, PlannedImage] = {}
        for case in self.cases:
            missing = {image.image_id: image for image in case.images if image.slide is not None}
            slides |= missing
            if missing:
                waiting[case.case_id] = set(missing)
            else:
                self._prepared.put(case)
        by_id = {case.case_id: case for case in self.cases}
        for image, record in self._convert(list(slides.values())):
            self._records[image.image_id] = record
            for case_id in [c for c, left in waiting.items() if image.image_id in left]:
                waiting[case_id].discard(image.image_id)
                if not waiting[case_id]:
                    del waiting[case_id]
                    self._prepared.put(by_id[case_id])

    def _convert(self, images: Sequence[PlannedImage]) -> Iterator[tuple[PlannedImage, ImageRecord]]:
        if not images or self.pool is None:
            return
        options, stores = self.options.preprocess, self.options.stores.absolute()
        given = read_mpp_table(options.mpp_csv) if options.mpp_csv else {}
        todo = []
        for image in images:
            item = _item(image, given)
            record = up_to_date(item, stores, options)
            if record is None:
                todo.append((image, item))
            else:
                yield image, record
        pool = self.pool

        def submit(entry: tuple[PlannedImage, Item]) -> Future[ImageRecord]:
            return pool.submit(convert_image, entry[1], stores, options, pool.threads)

        wanted = (entry for entry in todo if not self._stop.is_set())
        for (image, _), future in bounded(submit, wanted, 2 * pool.n_workers):
            error = future.exception()
            record = future.result() if error is None else _not_converted(image.image_id, error)
            self.preprocess_seconds += record.seconds or 0.0
            yield image, record

    @property
    def records(self) -> list[ImageRecord]:
        """Rows of the manifest of the slides that were preprocessed or found up to date."""
        return list(self._records.values())

    def _read_all(self) -> None:
        for _ in self.cases:
            case = self._prepared.get()
            if case is None or self._stop.is_set():
                return
            self._ready.put(self._read_case(case))

    def _read_case(self, case: PlannedCase) -> ReadyCase:
        ready = ReadyCase(case, [], [])
        for image in case.images:
            try:
                opened = self._open(image)
            except Exception as error:  # noqa: BLE001 - one image must not stop the batch; it is recorded
                opened = ImageFault.of(image.image_id, error)
            if isinstance(opened, ImageFault):
                ready.faults.append(opened)
            else:
                ready.images.append(opened)
        if not ready.images or not self.wanted(ready):
            return ready
        ready.n_bytes = sum(image.ref.n_bytes for image in ready.images)
        self._acquire(ready.n_bytes)
        started = time.perf_counter()
        try:
            threads = min(READ_THREADS, available_cores())
            parts = [
                image.store.read_windows(image.ref.level, image.ref.row_col, threads=threads)
                for image in ready.images
            ]
            ready.pixels_NCHW = parts[0] if len(parts) == 1 else np.concatenate(parts)
        except Exception as error:  # noqa: BLE001 - a damaged store is this case's fault, recorded as such
            ready.faults += [ImageFault.of(image.planned.image_id, error) for image in ready.images]
            ready.images.clear()
            self.release(ready)
        self.read_seconds += time.perf_counter() - started
        return ready

    def _open(self, image: PlannedImage) -> ReadyImage | ImageFault:
        if image.fault:
            return ImageFault(image.image_id, "failed", "missing_file", image.fault)
        path = image.store
        if path is None:
            record = self._records[image.image_id]
            if not record.ok:
                return ImageFault(image.image_id, record.status, record.reason, record.error)
            path = self.options.stores / record.store
        store = open_store(path, self.options.voi)
        level = store.level_for(self.options.mpp)
        shape = store.levels[level]
        row_col = np.asarray(store.kept_windows(level, self.options.min_tissue), np.int64)
        if not len(row_col):
            raise NoTissueError(
                image.image_id, f"no window has {self.options.min_tissue:.0%} tissue", "check its thumbnail"
            )
        if store.n_channels != self.options.n_channels:
            raise AtlasPathError(
                image.image_id,
                f"has {store.n_channels} channels, the model reads {self.options.n_channels}",
                "score images of the kind the model was trained on",
            )
        ref = ImageRef(
            image_id=image.image_id,
            store=path,
            level=level,
            size_px=(shape.height_px, shape.width_px),
            mpp=(shape.mpp.y, shape.mpp.x),
            row_col=row_col,
            n_channels=store.n_channels,
            dtype=np.dtype(store.dtype).name,
            kind=kind_of(image, self.options.image_kinds),
        )
        return ReadyImage(image, store, ref, store.tissue_fraction(level)[row_col[:, 0], row_col[:, 1]])

    def _acquire(self, n_bytes: int) -> None:
        """Wait until the windows fit; a case larger than the budget goes alone."""
        with self._budget:
            while self._held_bytes and self._held_bytes + n_bytes > self.options.budget_bytes:
                if self._stop.is_set():
                    break
                self._budget.wait(timeout=1.0)
            self._held_bytes += n_bytes


def _item(image: PlannedImage, given: dict[str, float]) -> Item:
    """The image as `preprocess` knows it; an mpp of `--mpp-csv` beats the cohort's."""
    path = Path(str(image.slide))
    names = (image.image_id, path.name, path.stem)
    mpp = next((given[name] for name in names if name in given), image.mpp)
    return Item(path, image.image_id, image.image_id, mpp, mammogram_pseudonym(path) is not None)


def _not_converted(image_id: str, error: BaseException) -> ImageRecord:
    """The record of a slide whose task raised, or whose worker died."""
    record = ImageRecord.failure(image_id, error)
    if type(error).__name__ == "KilledWorker":
        record.reason = "worker_died"
        record.error = f"{image_id}: the worker that converted it died; preprocess it alone with more memory"
    return record


def kind_of(image: PlannedImage, image_kinds: dict[str, Any]) -> int:
    """Index of the image's kind (view x side) as training numbered it; 0 is unknown."""
    columns, names = image_kinds.get("columns") or [], image_kinds.get("names") or []
    values = [image.attributes.get(column, "") for column in columns]
    kind = " ".join(values) if columns and all(values) else ""
    return names.index(kind) + 1 if kind in names else 0
