"""The chain of TIFF directories, walked by hand: a file that was cut off is told from one that is odd.

TIFF libraries stop silently at the first directory they cannot reach; a slide would then lose levels, or a
half-copied file would pass for a small one.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from atlas_path.errors import UnreadableSlideError

MOST_DIRECTORIES = 100_000


def check_directories(path: Path) -> int:
    """Number of directories in the main chain of a classic or Big TIFF, all of them inside the file.

    Raises:
        UnreadableSlideError: the chain leaves the file, runs in a circle or is empty.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(16)
        order = "<" if header[:2] == b"II" else ">"
        big = header[2:4] in (b"+\0", b"\0+")
        if len(header) < (16 if big else 8):
            raise _cut(path, "header", len(header), size)
        at = (
            struct.unpack(order + "Q", header[8:16])[0] if big else struct.unpack(order + "I", header[4:8])[0]
        )
        seen: set[int] = set()
        while at:
            if at in seen or len(seen) > MOST_DIRECTORIES:
                raise UnreadableSlideError(
                    path, "its TIFF directories run in a circle", "copy the file again"
                )
            seen.add(at)
            at = _next(path, file, order, big, at, size, len(seen))
    if not seen:
        raise UnreadableSlideError(path, "holds no TIFF directory", "copy the file again")
    return len(seen)


def _next(path: Path, file: BinaryIO, order: str, big: bool, at: int, size: int, number: int) -> int:
    """Offset of the directory that follows the one at `at`."""
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if big else (2, 12, 4)
    file.seek(at)
    raw = file.read(count_bytes)
    if len(raw) < count_bytes:
        raise _cut(path, f"directory {number}", at, size)
    count = struct.unpack(order + ("Q" if big else "H"), raw)[0]
    end = at + count_bytes + count * entry_bytes
    if end + offset_bytes > size:
        raise _cut(path, f"directory {number}", end, size)
    file.seek(end)
    return int(struct.unpack(order + ("Q" if big else "I"), file.read(offset_bytes))[0])


def _cut(path: Path, what: str, at: int, size: int) -> UnreadableSlideError:
    return UnreadableSlideError(
        path,
        f"is cut off: its TIFF {what} lies at byte {at:,} of a file of {size:,}",
        "copy the file again and compare sizes",
    )
