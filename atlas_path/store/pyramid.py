"""Writes the levels of a lossless (or re-encoded) pyramid, one thread a shard, every byte once.

Shards of level 0 are read in Z order, so that the four under a shard of level 1 come together: it is made
from their halves in memory and written, and so is level 2. At most a few shards of each level are open at a
time, whatever the size of the slide. Levels above 2 are made afterwards from the stored level 2.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import cv2
import numpy as np

from atlas_path.errors import DamagedSlideError
from atlas_path.geometry import WINDOW_PX
from atlas_path.store.job import Job, LevelPlan, Written
from atlas_path.store.layout import ArrayLayout
from atlas_path.store.shard import FileRecord, ShardWriter
from atlas_path.store.source import BaseReader, halve

Item = TypeVar("Item")


class ChainWriter:
    """Writes levels 0..`job.chain_top` from the slide.

    Args:
        job: the conversion.
        reader: reads level 0.
    """

    def __init__(self, job: Job, reader: BaseReader) -> None:
        self._job, self._reader = job, reader
        self._open: dict[tuple[int, int, int], tuple[np.ndarray, list[int]]] = {}
        self._lock = threading.Lock()
        self._files: list[FileRecord] = []
        self._bad_px = np.zeros(job.levels[0].keep.shape, np.int64)
        self._n_bad = 0

    def write(self, shard_rows: range, threads: int) -> Written:
        """Write the shards of level 0 in these rows and all that lies above them within the chain.

        Rows must come in whole groups of 2**chain_top, so that no coarser shard is shared with another call.

        Raises:
            DamagedSlideError: more windows are unreadable than the job allows.
        """
        cols = self._layout(0).shard_grid[1]
        shards = z_order(shard_rows, cols, self._job.chain_top)
        for level in range(1, self._job.chain_top + 1):
            self._expect(level, shards)
        run_threads(self._write_base, shards, threads)
        return Written(self._files, self._bad_px)

    def _layout(self, level: int) -> ArrayLayout:
        layout = self._job.levels[level].layout
        assert layout is not None
        return layout

    def _expect(self, level: int, shards: list[tuple[int, int]]) -> None:
        """Count how many shards below each shard of `level` will arrive."""
        below = {(row >> (level - 1), col >> (level - 1)) for row, col in shards}
        for row, col in below:
            key = (level, row >> 1, col >> 1)
            self._open.setdefault(key, (np.empty(0, np.uint8), [0]))[1][0] += 1

    def _write_base(self, shard: tuple[int, int]) -> None:
        row, col = shard
        plan = self._job.levels[0]
        keep = shard_keep(plan, row, col)
        if not keep.any():
            self._pass_up(0, row, col, None)
            return
        n = self._layout(0).shard[1] // WINDOW_PX
        block = self._reader.read(row * n, col * n, keep)
        if block.bad_px.any():
            self._record_bad(row * n, col * n, block.bad_px)
        self._finish(0, row, col, block.pixels)

    def _record_bad(self, row: int, col: int, bad_px: np.ndarray) -> None:
        with self._lock:
            self._bad_px[row : row + bad_px.shape[0], col : col + bad_px.shape[1]] = bad_px
            self._n_bad += int((bad_px > 0).sum())
            n_bad = self._n_bad
        if n_bad > self._job.max_bad * self._job.n_kept:
            raise too_damaged(self._job, n_bad)

    def _finish(self, level: int, row: int, col: int, pixels: np.ndarray) -> None:
        """Store a complete shard and hand its half up."""
        plan = self._job.levels[level]
        record = write_shard(self._job, level, row, col, pixels)
        if record:
            with self._lock:
                self._files.append(record)
        if level < self._job.chain_top:
            _extend_odd_edge(pixels, plan, self._layout(level), row, col)
            self._pass_up(level, row, col, halve(pixels))

    def _pass_up(self, level: int, row: int, col: int, half: np.ndarray | None) -> None:
        """Put a half (None: all background) into the shard above; whoever brings the last one finishes it."""
        if level >= self._job.chain_top:
            return
        key = (level + 1, row >> 1, col >> 1)
        with self._lock:
            above, missing = self._open[key]
            if half is not None and above.size == 0:
                shape = (half.shape[0] * 2, half.shape[1] * 2, half.shape[2])
                above = np.full(shape, self._job.background, half.dtype)
            missing[0] -= 1
            complete = missing[0] == 0
            if half is not None:
                y, x = (row & 1) * half.shape[0], (col & 1) * half.shape[1]
                above[y : y + half.shape[0], x : x + half.shape[1]] = half
            if complete:
                del self._open[key]
            else:
                self._open[key] = (above, missing)
        if complete:
            if above.size:
                self._finish(level + 1, row >> 1, col >> 1, above)
            else:
                self._pass_up(level + 1, row >> 1, col >> 1, None)


def reduce_level(
    job: Job, level: int, read: Callable[[int, int, int, int], np.ndarray], threads: int
) -> Written:
    """Write a level above the chain from the stored level below it.

    Args:
        job: the conversion.
        level: the level to write.
        read: (y, x, height, width) -> (channels, height, width) of the level below, background outside.
        threads: shards in work at a time.
    """
    plan, layout = job.levels[level], job.levels[level].layout
    assert layout is not None
    below = job.levels[level - 1]
    side = layout.shard[1]
    written = Written()

    def one(shard: tuple[int, int]) -> None:
        row, col = shard
        keep = shard_keep(plan, row, col)
        if not keep.any():
            return
        pixels = np.full((side, side, layout.shape[0]), job.background, layout.dtype)
        for y in range(0, side, side // 2):
            for x in range(0, side, side // 2):
                top, left = (row * side + y) * 2, (col * side + x) * 2
                height, width = min(side, below.height_px - top), min(side, below.width_px - left)
                if height > 0 and width > 0:
                    fine = read(top, left, height, width).transpose(1, 2, 0)
                    half = halve(np.pad(fine, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
                    pixels[y : y + half.shape[0], x : x + half.shape[1]] = half
        record = write_shard(job, level, row, col, pixels)
        if record:
            written.files.append(record)

    rows, cols = layout.shard_grid
    run_threads(one, [(r, c) for r in range(rows) for c in range(cols)], threads)
    return written


def write_shard(job: Job, level: int, row: int, col: int, pixels: np.ndarray) -> FileRecord | None:
    """Encode the kept windows of a shard (height, width, channels) and write it; None when it has none."""
    plan = job.levels[level]
    layout = plan.layout
    assert layout is not None
    n_c, n_y, n_x = layout.chunks_per_shard
    writer = ShardWriter(job.part, f"{level}/{layout.shard_key(row, col)}", n_c * n_y * n_x)
    chunk = np.empty(layout.chunk, layout.dtype)
    for y, x in np.argwhere(shard_keep(plan, row, col)):
        window = pixels[y * WINDOW_PX : (y + 1) * WINDOW_PX, x * WINDOW_PX : (x + 1) * WINDOW_PX]
        for c in range(n_c):
            to_planar(window[:, :, c * layout.chunk[0] : (c + 1) * layout.chunk[0]], chunk)
            writer.put((c * n_y + int(y)) * n_x + int(x), layout.codec.encode(chunk))
    return writer.close()


def shard_keep(plan: LevelPlan, row: int, col: int) -> np.ndarray:
    """(n, n) bool: the kept windows of a shard, False beyond the level's edge."""
    assert plan.layout is not None
    n = plan.layout.shard[1] // WINDOW_PX
    inside = plan.keep[row * n : (row + 1) * n, col * n : (col + 1) * n]
    keep = np.zeros((n, n), bool)
    keep[: inside.shape[0], : inside.shape[1]] = inside
    return keep


def to_planar(window: np.ndarray, out: np.ndarray) -> None:
    """Copy (y, x, c) into (c, y, x); cv2 does it several times faster than numpy for 8 and 16 bit."""
    if window.shape[2] == 1:
        out[0] = window[:, :, 0]
    elif window.shape[2] <= 4 and window.dtype in (np.uint8, np.uint16):
        cv2.split(window, list(out))
    else:
        np.copyto(out, window.transpose(2, 0, 1))


def too_damaged(job: Job, n_bad: int) -> DamagedSlideError:
    """The error for a slide with more unreadable windows than allowed."""
    return DamagedSlideError(
        job.subject,
        f"at least {n_bad} of {job.n_kept} windows cannot be read, more than {job.max_bad:.2%}",
        "copy the file again, or raise --max-bad to go on with what is left",
    )


def z_order(rows: range, cols: int, depth: int) -> list[tuple[int, int]]:
    """(row, col) of all shards such that 2x2, then 4x4, ... neighbours come together."""

    def key(shard: tuple[int, int]) -> tuple[int, ...]:
        row, col = shard
        return tuple(part >> level for level in range(depth, -1, -1) for part in (row, col))

    return sorted(((row, col) for row in rows for col in range(cols)), key=key)


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


def _extend_odd_edge(pixels: np.ndarray, plan: LevelPlan, layout: ArrayLayout, row: int, col: int) -> None:
    """Repeat the last row and column of an odd-sized level, so that no background is averaged in."""
    height, width = plan.height_px - row * layout.shard[1], plan.width_px - col * layout.shard[2]
    if height < pixels.shape[0] and height % 2:
        pixels[height] = pixels[height - 1]
    if width < pixels.shape[1] and width % 2:
        pixels[:, width] = pixels[:, width - 1]
