"""Is a JPEG tile whole? Cheap signs for all tiles, a decoder for those that show any.

Copying would pass damage on unseen, and decoding every tile would cost more than all the rest of a compact
store. Damage to slides is mostly ranges of zeros, lost ends, or foreign bytes. In entropy-coded data a 0xFF
is followed by 0x00 or a restart marker and nothing else (ITU-T T.81, B.1.1.5), so foreign bytes betray
themselves every 256 bytes or so: 4 KiB of them pass with a chance of 1e-7. Tiles that look odd (progressive
ones do, too) are decoded; so is one tile in 16 anyway, and all of them as soon as one of those fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from atlas_path.slides.jpeg_tiles import Coded

SAMPLE_EVERY = 16
START_OF_SCAN = b"\xff\xda"
ZERO_RUN = bytes(64)  # entropy-coded data hold no such run, except flat tiles with unusual tables


def odd_looking(payloads: Sequence[Coded]) -> np.ndarray:
    """(n,) bool: which of the tiles should be decoded to know whether they are whole."""
    joined = b"".join([*payloads, b"\0\0\0\0"])  # so that four bytes follow every one that is looked at
    stops = list(itertools.accumulate(map(len, payloads)))
    begins = [0, *stops[:-1]]
    scans = np.array(
        [joined.find(START_OF_SCAN, *where) for where in zip(begins, stops, strict=False)], np.int64
    )
    data, ends = np.frombuffer(joined, np.uint8), np.array(stops, np.int64)
    odd: np.ndarray = (scans < 0) | (data[ends - 2] != 0xFF) | (data[ends - 1] != 0xD9)
    odd[np.searchsorted(ends, _zero_runs(joined), side="right")] = True
    starts = scans + 2 + data[scans + 2] * np.int64(256) + data[scans + 3]
    at = np.flatnonzero(data == 0xFF)
    after = data[at + 1]
    foreign = at[(after != 0) & ((after < 0xD0) | (after > 0xD7))]
    tile = np.searchsorted(ends, foreign, side="right")
    in_scan = (foreign >= starts[tile]) & (foreign < ends[tile] - 2)
    odd[tile[in_scan]] = True
    return odd


def _zero_runs(data: bytes) -> list[int]:
    """Where runs of zeros start; one in each `len(ZERO_RUN)` bytes of a longer run."""
    found, at = [], data.find(ZERO_RUN)
    while at >= 0:
        found.append(at)
        at = data.find(ZERO_RUN, at + len(ZERO_RUN))
    return found


def sampled(row: int, col: int) -> bool:
    """Whether a tile is decoded although nothing looks odd; neighbours differ."""
    return (row * 5 + col * 3) % SAMPLE_EVERY == 0
