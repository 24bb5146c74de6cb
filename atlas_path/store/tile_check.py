"""Is a JPEG tile whole? Cheap signs for all tiles, a decoder for those that show any.

Copying would pass damage on unseen, and decoding every tile would cost more than all the rest of a compact
store. Damage to slides is mostly ranges of zeros, lost ends, or foreign bytes. In entropy-coded data a 0xFF
is followed by 0x00 or a restart marker and nothing else (ITU-T T.81, B.1.1.5), so foreign bytes betray
themselves every 256 bytes or so: 4 KiB of them pass with a chance of 1e-7. Tiles that look odd (progressive
ones do, too) are decoded; so is one tile in 16 anyway, and all of them as soon as one of those fails.
"""

from __future__ import annotations

import numpy as np

SAMPLE_EVERY = 16
ZERO_RUN = bytes(64)  # entropy-coded data hold no such run, except flat tiles with unusual tables


def odd_looking(payloads: list[bytes]) -> np.ndarray:
    """(n,) bool: which of the tiles should be decoded to know whether they are whole."""
    odd = np.zeros(len(payloads), bool)
    starts, stops = np.zeros(len(payloads), np.int64), np.zeros(len(payloads), np.int64)
    offset = 0
    for i, payload in enumerate(payloads):
        scan = payload.find(b"\xff\xda")
        if scan < 0 or payload[-2:] != b"\xff\xd9" or ZERO_RUN in payload:
            odd[i] = True
        starts[i] = offset + scan + 2 + int.from_bytes(payload[scan + 2 : scan + 4], "big")
        offset += len(payload)
        stops[i] = offset - 2
    data = np.frombuffer(b"".join(payloads), np.uint8)
    at = np.flatnonzero(data[:-1] == 0xFF)
    after = data[at + 1]
    foreign = at[(after != 0) & ((after < 0xD0) | (after > 0xD7))]
    tile = np.searchsorted(stops + 2, foreign, side="right")
    in_scan = (foreign >= starts[tile]) & (foreign < stops[tile])
    odd[tile[in_scan]] = True
    return odd


def sampled(row: int, col: int) -> bool:
    """Whether a tile is decoded although nothing looks odd; neighbours differ."""
    return (row * 5 + col * 3) % SAMPLE_EVERY == 0
