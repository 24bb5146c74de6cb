"""One shard file: chunks back to back, then the index, then its CRC-32C (zarr v3 `sharding_indexed`).

One writer a shard, always: two writers of one shard lose each other's chunks without an error. A shard is
written at once from memory, never updated.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from atlas_path.errors import StoreError
from atlas_path.slides.jpeg_tiles import Coded

NOT_STORED = (1 << 64) - 1  # offset and size of a chunk that is absent: its pixels are the fill value
INDEX_CRC_BYTES = 4
SMALL_CHUNK_BYTES = 1 << 15
PAGE_BYTES = 4096
_local = threading.local()


@dataclass(frozen=True)
class FileRecord:
    """What the completion record says of one file of the store."""

    key: str
    n_bytes: int
    crc32c: int
    n_chunks: int = 0


class ShardWriter:
    """Collects the chunks of one shard, in any order, and writes the file once.

    Args:
        root: folder of the store.
        key: path of the shard below it.
        n_chunks: chunks that the shard can hold.
        read_soon: it is read again at once, so it may stay in the page cache.
    """

    def __init__(self, root: Path, key: str, n_chunks: int, read_soon: bool = False) -> None:
        self._root, self._key, self._read_soon = root, key, read_soon
        self._payloads: dict[int, Coded] = {}
        self._index = np.full((n_chunks, 2), NOT_STORED, "<u8")

    def put(self, chunk: int, payload: Coded) -> None:
        """Add the bytes of chunk number `chunk` (C order within the shard)."""
        self._payloads[chunk] = payload

    def close(self) -> FileRecord | None:
        """Write the file; None, and no file, when no chunk was added."""
        if not self._payloads:
            return None
        order = sorted(self._payloads)  # of arrival depends on threads, of the file must not
        chunks = [self._payloads[chunk] for chunk in order]
        self._payloads = {}
        sizes = np.fromiter(map(len, chunks), np.uint64, len(chunks))
        ends = np.cumsum(sizes)
        self._index[order] = np.stack([ends - sizes, sizes], axis=1)
        index = self._index.tobytes()
        index += google_crc32c.value(index).to_bytes(INDEX_CRC_BYTES, "little")
        parts = [*_joined(chunks), index]
        write_large(self._root / self._key, parts, cached=self._read_soon)
        crc = functools.reduce(google_crc32c.extend, parts, 0)
        return FileRecord(self._key, int(ends[-1]) + len(index), crc, len(chunks))


def _joined(chunks: Sequence[Coded]) -> list[bytes]:
    """Few large pieces instead of many small ones, each of which would cost more than copying it."""
    if sum(map(len, chunks)) < SMALL_CHUNK_BYTES * len(chunks):
        return [b"".join(chunks)]
    return [bytes(chunk) for chunk in chunks]  # no copy of what is bytes


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as stream:
        stream.write(content)


def write_large(path: Path, parts: Sequence[bytes], cached: bool = False) -> None:
    """Write a large new file past the page cache, where the file system can (`O_DIRECT`), unless `cached`.

    A batch writes far more than memory holds and never reads it back: through the cache every byte would be
    copied once more, and the flush at the end would wait for all of them. The buffer is this thread's own and
    page aligned; what pads the file to whole pages is cut off again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    size = sum(map(len, parts))
    padded = -(-size // PAGE_BYTES) * PAGE_BYTES
    buffer = _aligned(padded)
    content, at = np.frombuffer(buffer, np.uint8), 0
    for part in parts:  # by numpy, which lets the other threads go on while it copies
        content[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | (0 if cached else getattr(os, "O_DIRECT", 0)), 0o644)
    except OSError as error:
        if error.errno != errno.EINVAL:  # tmpfs and some network file systems know no O_DIRECT
            raise
        path.unlink(missing_ok=True)
        fd = os.open(path, flags, 0o644)
    try:
        done = 0
        while done < padded:
            done += os.write(fd, buffer[done:padded])
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def _aligned(n_bytes: int) -> memoryview:
    """A page-aligned buffer of at least this size, kept by the thread."""
    buffer: mmap.mmap | None = getattr(_local, "buffer", None)
    if buffer is None or len(buffer) < n_bytes:
        buffer = _local.buffer = mmap.mmap(-1, n_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(buffer)


def read_index(fd: int, n_chunks: int, path: Path) -> np.ndarray:
    """The index of an open shard: (n_chunks, 2) uint64 of offset and size in bytes.

    Raises:
        StoreError: the file is shorter than its index, or the checksum is wrong.
    """
    size = n_chunks * 16
    tail_at = os.fstat(fd).st_size - size - INDEX_CRC_BYTES
    tail = os.pread(fd, size + INDEX_CRC_BYTES, tail_at) if tail_at >= 0 else b""
    if len(tail) != size + INDEX_CRC_BYTES:
        raise damaged(path, "is shorter than its index")
    if google_crc32c.value(tail[:size]) != int.from_bytes(tail[size:], "little"):
        raise damaged(path, "has an index with a wrong checksum")
    return np.frombuffer(tail, "<u8", 2 * n_chunks).reshape(n_chunks, 2)


def damaged(path: Path, what: str) -> StoreError:
    """The error for a file of a store that changed after it was completed."""
    return StoreError(path, f"this part of the store {what}", "delete the store and run preprocess again")
