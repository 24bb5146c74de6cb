"""One shard file: chunks back to back, then the index, then its CRC-32C (zarr v3 `sharding_indexed`).

One writer a shard, always: two writers of one shard lose each other's chunks without an error. A shard is
written with one `write` from memory, never updated.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from atlas_path.errors import StoreError

NOT_STORED = (1 << 64) - 1  # offset and size of a chunk that is absent: its pixels are the fill value
INDEX_CRC_BYTES = 4


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
    """

    def __init__(self, root: Path, key: str, n_chunks: int) -> None:
        self._root, self._key = root, key
        self._payloads: list[bytes] = []
        self._index = np.full((n_chunks, 2), NOT_STORED, "<u8")
        self._end = 0

    def put(self, chunk: int, payload: bytes) -> None:
        """Add the bytes of chunk number `chunk` (C order within the shard)."""
        self._index[chunk] = self._end, len(payload)
        self._payloads.append(payload)
        self._end += len(payload)

    def close(self) -> FileRecord | None:
        """Write the file; None, and no file, when no chunk was added."""
        if not self._payloads:
            return None
        index = self._index.tobytes()
        index += google_crc32c.value(index).to_bytes(INDEX_CRC_BYTES, "little")
        content = b"".join([*self._payloads, index])
        n_chunks, self._payloads = len(self._payloads), []
        write_bytes(self._root / self._key, content)
        return FileRecord(self._key, len(content), google_crc32c.value(content), n_chunks)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a new file with as few system calls as the kernel allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


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
