"""Writes levels 0, 1 and 2 in one pass over the slide's pixels: every byte once, a few rows in memory.

A thread takes a column of the slide and goes down it a window at a time: the window is encoded and halved
while the processor's cache holds it; four halves make a window of the level above. Encoded windows are
collected in their shard, which is written as soon as all columns over it have passed. So memory does not
depend on the size of the slide. Levels above 2 are made afterwards from the stored level 2, which is a
sixteenth of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Self, TypeVar

import cv2
import numpy as np

from atlas_path.errors import DamagedSlideError
from atlas_path.geometry import WINDOW_PX
from atlas_path.slides.jpeg_tiles import Coded
from atlas_path.store.job import Job, Written
from atlas_path.store.layout import ArrayLayout
from atlas_path.store.shard import FileRecord, ShardWriter
from atlas_path.store.source import BaseReader, halve

Item = TypeVar("Item")
MAX_QUEUED = 4
BAND_SHARD_ROWS = 4  # as many rows of level-0 shards lie under one shard of level 2


@dataclass(frozen=True)
class Column:
    """The work of one thread: windows `rows` x `cols` of level 0."""

    rows: range
    cols: range


class ChainWriter:
    """Writes levels 0..`job.chain_top` from the slide.

    Args:
        job: the conversion.
        reader: reads level 0.
    """

    def __init__(self, job: Job, reader: BaseReader) -> None:
        self._job, self._reader = job, reader
        self._shards: OpenShards

    def write(self, shard_rows: range, threads: int) -> Written:
        """Write the shards of level 0 in these rows and all that lies above them within the chain.

        Rows must come in whole groups of 4, so that no shard of level 2 is shared with another call.

        Raises:
            DamagedSlideError: more windows are unreadable than the job allows.
        """
        columns = self._columns(shard_rows, threads)
        with OpenShards(self._job) as self._shards:
            for column in columns:
                for level in range(self._job.chain_top + 1):
                    rows = range(column.rows.start >> level, ((column.rows.stop - 1) >> level) + 1)
                    for shard in self._shards_under(column, level, rows):
                        self._shards.expect(level, shard)
            run_threads(self._write_column, columns, threads)
        return Written(self._shards.files(), {0: self._reader.bad_px})

    def _columns(self, shard_rows: range, threads: int) -> list[Column]:
        """Columns of two shards' width; narrower ones when there would be too few for the threads.

        Wide ones, because tiles on the border of two columns are decoded twice. Those with most to do come
        first, so that all threads end together.
        """
        plan, layout = self._job.levels[0], _layout(self._job, 0)
        per_shard = layout.shard[1] // WINDOW_PX
        grid_rows, grid_cols = plan.keep.shape
        wide = 2 * per_shard
        while wide > 1 << self._job.chain_top and -(-grid_cols // wide) < 4 * threads:
            wide //= 2
        columns = []
        for first in range(shard_rows.start, shard_rows.stop, BAND_SHARD_ROWS):
            stop = min(first + BAND_SHARD_ROWS, shard_rows.stop)
            rows = range(first * per_shard, min(stop * per_shard, grid_rows))
            columns += [
                Column(rows, range(col, min(col + wide, grid_cols))) for col in range(0, grid_cols, wide)
            ]
        return sorted(columns, key=self._work_in, reverse=True)

    def _work_in(self, column: Column) -> int:
        rows, cols = column.rows, column.cols
        return int(self._job.levels[0].keep[rows.start : rows.stop, cols.start : cols.stop].sum())

    def _shards_under(self, column: Column, level: int, rows: range) -> list[tuple[int, int]]:
        """Shards of a level that hold windows of these rows (of the level) and the column."""
        n = _layout(self._job, level).shard[1] // WINDOW_PX
        cols = range((column.cols.start >> level) // n, ((column.cols.stop - 1) >> level) // n + 1)
        return [(row, col) for row in range(rows.start // n, (rows.stop - 1) // n + 1) for col in cols]

    def _write_column(self, column: Column) -> None:
        parents: list[dict[int, np.ndarray]] = [{} for _ in range(self._job.chain_top + 1)]
        for row, windows in self._reader.windows(column.rows, column.cols):
            for col, pixels in windows:
                self._put(0, row, col, pixels, parents)
            self._end_row(0, row, column, parents)
            self._check_damage()

    def _put(
        self, level: int, row: int, col: int, pixels: np.ndarray, parents: list[dict[int, np.ndarray]]
    ) -> None:
        """Encode a window that is kept, and leave its half with the window above it."""
        job = self._job
        self._shards.put(level, row, col, pixels)
        if level == job.chain_top:
            return
        plan = job.levels[level]
        _extend_odd_edge(pixels, plan.height_px - row * WINDOW_PX, plan.width_px - col * WINDOW_PX)
        parent = parents[level + 1].get(col >> 1)
        if parent is None:
            parent = parents[level + 1][col >> 1] = np.full_like(pixels, job.background)
        half = WINDOW_PX // 2
        y, x = row % 2 * half, col % 2 * half
        parent[y : y + half, x : x + half] = halve(pixels)

    def _end_row(self, level: int, row: int, column: Column, parents: list[dict[int, np.ndarray]]) -> None:
        """A row of windows is complete: so may be its shards, and the row above it."""
        last = row == (column.rows.stop - 1) >> level
        n = _layout(self._job, level).shard[1] // WINDOW_PX
        if last or row % n == n - 1:
            for shard in self._shards_under(column, level, range(row, row + 1)):
                self._shards.passed(level, shard)
        if level < self._job.chain_top and (last or row % 2):
            above = parents[level + 1]
            for col in sorted(above):
                self._put(level + 1, row >> 1, col, above[col], parents)
            above.clear()
            self._end_row(level + 1, row >> 1, column, parents)

    def _check_damage(self) -> None:
        if self._reader.n_bad > self._job.max_bad * self._job.n_kept:
            raise too_damaged(self._job, self._reader.n_bad)


class OpenShards:
    """The shards that are being filled. A shard is written when nobody will add to it any more.

    Use as a context manager: at its end everything is written.

    Args:
        job: the conversion.
        aside: write on one thread of its own, so that those that compute never wait for the disk, except when
            it falls `MAX_QUEUED` shards behind. Otherwise the thread that completes a shard writes it, which
            is better where threads do little else and one more of them is cheap.
    """

    def __init__(self, job: Job, aside: bool = True) -> None:
        self._job, self._aside = job, aside
        self._lock = threading.Lock()
        self._waiting: dict[tuple[int, tuple[int, int]], int] = {}
        self._writers: dict[tuple[int, tuple[int, int]], ShardWriter] = {}
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._room = threading.Semaphore(MAX_QUEUED)
        self._queued: list[Future[FileRecord | None]] = []
        self._written: list[FileRecord | None] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._disk.shutdown(wait=True, cancel_futures=kind is not None)

    def files(self) -> list[FileRecord]:
        """The records of all shards, once they are written.

        Raises:
            OSError: one could not be written.
        """
        written = [*self._written, *(future.result() for future in self._queued)]
        return [record for record in written if record is not None]

    def expect(self, level: int, shard: tuple[int, int]) -> None:
        """One more column will add to this shard."""
        self._waiting[level, shard] = self._waiting.get((level, shard), 0) + 1

    def put(self, level: int, row: int, col: int, window: np.ndarray) -> None:
        """Encode a window (256, 256, channels) and add it to its shard."""
        layout = _layout(self._job, level)
        n_c, step = layout.chunks_per_shard[0], layout.chunk[0]
        payloads = [layout.codec.encode(window[:, :, c * step : (c + 1) * step]) for c in range(n_c)]
        self.put_payloads(level, row, col, payloads)

    def put_payloads(self, level: int, row: int, col: int, payloads: Sequence[Coded]) -> None:
        """Add the coded chunks (one a group of channels) at a row and column of the chunk grid."""
        layout = _layout(self._job, level)
        n_c, n_y, n_x = layout.chunks_per_shard
        shard = (row // n_y, col // n_x)
        with self._lock:
            writer = self._writers.get((level, shard))
            if writer is None:
                key = f"{level}/{layout.shard_key(*shard)}"
                read_soon = level >= max(1, self._job.chain_top)  # the next level is made of it
                writer = ShardWriter(self._job.part, key, n_c * n_y * n_x, read_soon)
                self._writers[level, shard] = writer
            for c, payload in enumerate(payloads):
                writer.put((c * n_y + row % n_y) * n_x + col % n_x, payload)

    def passed(self, level: int, shard: tuple[int, int]) -> None:
        """A column has added all it had to this shard."""
        with self._lock:
            self._waiting[level, shard] -= 1
            if self._waiting[level, shard]:
                return
            del self._waiting[level, shard]
            writer = self._writers.pop((level, shard), None)
        if writer is not None and not self._aside:
            record = writer.close()
            with self._lock:
                self._written.append(record)
        elif writer is not None:
            self._room.acquire()
            future = self._disk.submit(self._write, writer)
            with self._lock:
                self._queued.append(future)

    def _write(self, writer: ShardWriter) -> FileRecord | None:
        try:
            return writer.close()
        finally:
            self._room.release()


def reduce_level(
    job: Job, level: int, read: Callable[[int, int, int, int], np.ndarray], threads: int
) -> Written:
    """Write a level above the chain, two rows of windows of the stored level below it at a time.

    Args:
        job: the conversion.
        level: the level to write.
        read: (y, x, height, width) -> (channels, height, width) at twice the level's resolution.
        threads: rows of windows in work at a time.
    """
    shards = OpenShards(job)
    plan, layout = job.levels[level], _layout(job, level)
    n = layout.shard[1] // WINDOW_PX

    def one(part: tuple[int, int]) -> None:
        row, shard_col = part
        for col in np.flatnonzero(plan.keep[row, shard_col * n : (shard_col + 1) * n]) + shard_col * n:
            y, x = row * WINDOW_PX, int(col) * WINDOW_PX
            height, width = min(WINDOW_PX, plan.height_px - y), min(WINDOW_PX, plan.width_px - x)
            window = np.full((WINDOW_PX, WINDOW_PX, layout.shape[0]), job.background, layout.dtype)
            window[:height, :width] = halve(_even(read, job, level - 1, 2 * y, 2 * x, 2 * height, 2 * width))
            shards.put(level, row, int(col), window)
        shards.passed(level, (row // n, shard_col))

    parts = [(row, col) for row in range(plan.keep.shape[0]) for col in range(layout.shard_grid[1])]
    with shards:
        for row, shard_col in parts:
            shards.expect(level, (row // n, shard_col))
        run_threads(one, parts, threads)
    return Written(shards.files())


def too_damaged(job: Job, n_bad: int) -> DamagedSlideError:
    """The error for a slide with more unreadable windows than allowed."""
    return DamagedSlideError(
        job.subject,
        f"at least {n_bad} of {job.n_kept} windows cannot be read, more than {job.max_bad:.2%}",
        "copy the file again, or raise --max-bad to go on with what is left",
    )


def run_threads(work: Callable[[Item], None], items: Iterable[Item], threads: int) -> None:
    """Do all items on `threads` threads, in order of start; the first error stops the rest and is raised."""
    todo = list(items)
    if threads <= 1 or len(todo) <= 1:
        for item in todo:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        pending: set[Future[None]] = {pool.submit(work, item) for item in todo}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            for future in pending:
                future.cancel()
            raise


def _layout(job: Job, level: int) -> ArrayLayout:
    layout = job.levels[level].layout
    assert layout is not None
    return layout


def _even(
    read: Callable[[int, int, int, int], np.ndarray],
    job: Job,
    level: int,
    y: int,
    x: int,
    height: int,
    width: int,
) -> np.ndarray:
    """(height, width, channels) of a level whose last row or column is repeated where its size is odd."""
    plan = job.levels[level]
    inside_h, inside_w = min(height, plan.height_px - y), min(width, plan.width_px - x)
    pixels = _interleaved(read(y, x, inside_h, inside_w))
    if (inside_h, inside_w) == (height, width):
        return pixels
    return np.pad(pixels, ((0, height - inside_h), (0, width - inside_w), (0, 0)), mode="edge")


def _interleaved(planes: np.ndarray) -> np.ndarray:
    """(c, y, x) as a contiguous (y, x, c)."""
    if 1 < len(planes) <= 4 and planes.dtype in (np.uint8, np.uint16):
        return np.asarray(cv2.merge(list(planes)))
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _extend_odd_edge(pixels: np.ndarray, height: int, width: int) -> None:
    """Repeat the last row and column of an odd-sized level, so that no background is averaged in."""
    if height < len(pixels) and height % 2:
        pixels[height] = pixels[height - 1]
    if width < pixels.shape[1] and width % 2:
        pixels[:, width] = pixels[:, width - 1]
