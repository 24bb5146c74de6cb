"""The coded chunks of one stored array, by byte range: shard indices are read once and kept.

Chunks that lie side by side are read at once, into a buffer that stays in the processor's cache. Nothing is
held open, so an array pickles, survives fork and forkserver, and may be used by several threads.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from atlas_path.errors import StoreError
from atlas_path.slides.jpeg_tiles import runs
from atlas_path.store.layout import ArrayLayout, read_json
from atlas_path.store.shard import NOT_STORED, damaged, read_index

INDEX_CACHE_SHARDS = 256  # 4 KiB each
RUN_BYTES, GAP_BYTES = 1 << 20, 1 << 13  # of one read for several chunks
SPARE_BUFFERS = 8
_tokens = itertools.count()
_spare: list[bytearray] = []  # read buffers, used again: new memory costs more than filling it


class Chunks:
    """Access to the chunks of one array.

    Args:
        folder: the array's folder.
        layout: its layout; read from `zarr.json` when not given.

    Raises:
        StoreError: the folder does not hold an array of ours.
    """

    def __init__(self, folder: Path, layout: ArrayLayout | None = None) -> None:
        self.folder = folder
        try:
            self.layout = layout or ArrayLayout.from_json(read_json(folder / "zarr.json"))
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise damaged(folder, f"has no readable zarr.json ({error})") from error
        self._start()

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "layout": self.layout}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._start()

    def _start(self) -> None:
        self._indices: OrderedDict[tuple[int, int], np.ndarray | None] = OrderedDict()
        self._lock = threading.Lock()
        self.token = next(_tokens)  # names this object in caches; a path would outlive what lies there

    def payload(self, row: int, col: int, part: int = 0) -> bytes | None:
        """The coded bytes of one chunk; None where none is stored."""
        for _, found, payload in self.payloads([(row, col)]):
            if found == part and payload is not None:
                return bytes(payload)
        return None

    def shard_index(self, row: int, col: int) -> np.ndarray | None:
        """The index (n_chunks, 2) of a shard; None where there is no file. Cached."""
        with self._lock:
            if (row, col) in self._indices:
                self._indices.move_to_end((row, col))
                return self._indices[row, col]
        try:
            fd = self._open(row, col)
        except FileNotFoundError:
            return self._remember(row, col, None)
        try:
            return self._index_of(row, col, fd)
        finally:
            os.close(fd)

    def payloads(self, chunks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, memoryview | None]]:
        """(position in `chunks`, channel part, coded bytes or None), shard by shard, in order of the file.

        The bytes are those of a buffer that is used again: be done with them before asking for the next.

        Args:
            chunks: (row, col) of chunks; None is given for those outside the array.
        """
        n_c, n_y, n_x = self.layout.chunks_per_shard
        rows, cols = self.layout.chunk_grid
        by_shard: dict[tuple[int, int], list[int]] = {}
        for i, (row, col) in enumerate(chunks):
            if 0 <= row < rows and 0 <= col < cols:
                by_shard.setdefault((row // n_y, col // n_x), []).append(i)
            else:
                yield from ((i, part, None) for part in range(n_c))
        for shard, members in by_shard.items():
            try:
                fd = self._open(*shard)
            except FileNotFoundError:
                yield from ((i, part, None) for i in members for part in range(n_c))
                continue
            try:
                which = [(i, part) for i in members for part in range(n_c)]
                at = [(part * n_y + chunks[i][0] % n_y) * n_x + chunks[i][1] % n_x for i, part in which]
                where = self._index_of(*shard, fd)[at].tolist()
                pieces = sorted((offset, size, k) for k, (offset, size) in enumerate(where))
                for k, payload in self._read(fd, pieces, shard):
                    yield *which[k], payload
            finally:
                os.close(fd)

    def _read(
        self, fd: int, pieces: list[tuple[int, int, int]], shard: tuple[int, int]
    ) -> Iterator[tuple[int, memoryview | None]]:
        """(number, bytes or None) of each piece (offset, size, number) of an open shard."""
        stored = [piece for piece in pieces if piece[0] != NOT_STORED]
        for run in runs(stored, RUN_BYTES, GAP_BYTES):
            start, size = run[0][0], max(offset + n for offset, n, _ in run) - run[0][0]
            buffer = _spare_buffer()
            view = memoryview(buffer if size <= len(buffer) else bytearray(size))[:size]
            try:
                done = 0
                while done < size:
                    n_read = os.preadv(fd, [view[done:]], start + done)
                    if not n_read:
                        path = self.folder / self.layout.shard_key(*shard)
                        raise damaged(path, "ends before its chunks do")
                    done += n_read
                for offset, n, k in run:
                    yield k, view[offset - start : offset - start + n]
            finally:
                if len(_spare) < SPARE_BUFFERS:
                    _spare.append(buffer)
        yield from ((k, None) for offset, _, k in pieces if offset == NOT_STORED)

    def _open(self, row: int, col: int) -> int:
        return os.open(f"{self.folder}/{self.layout.shard_key(row, col)}", os.O_RDONLY | os.O_CLOEXEC)

    def _index_of(self, row: int, col: int, fd: int) -> np.ndarray:
        with self._lock:
            index = self._indices.get((row, col))
        if index is None:
            n_c, n_y, n_x = self.layout.chunks_per_shard
            index = read_index(fd, n_c * n_y * n_x, self.folder / self.layout.shard_key(row, col))
            self._remember(row, col, index)
        return index

    def _remember(self, row: int, col: int, index: np.ndarray | None) -> np.ndarray | None:
        with self._lock:
            self._indices[row, col] = index
            if len(self._indices) > INDEX_CACHE_SHARDS:
                self._indices.popitem(last=False)
        return index

    def damage(self, row: int, col: int, error: ValueError) -> StoreError:
        """The error for a chunk that does not decode."""
        return damaged(self.folder, f"has a damaged chunk at row {row}, column {col} ({error})")


def _spare_buffer() -> bytearray:
    try:
        return _spare.pop()
    except IndexError:  # all are in use
        return bytearray(2 * RUN_BYTES)
