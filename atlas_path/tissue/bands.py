"""Work on large pictures in bands of rows: what lies between two steps stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2

BAND_PX = 128


def in_bands(height_px: int, halo_px: int, work: Callable[[slice, slice, slice], None]) -> None:
    """Call `work(own, seen, inner)` for every band of a picture, on as many threads as OpenCV has.

    Args:
        height_px: rows of the picture.
        halo_px: rows above and below a band that its result depends on.
        work: `own` are the band's rows, `seen` those with the halo, `inner` the place of `own` in `seen`.
    """
    with ThreadPoolExecutor(max(1, cv2.getNumThreads())) as pool:
        for _ in pool.map(lambda rows: work(*rows), _bands(height_px, halo_px)):
            pass


def _bands(height_px: int, halo_px: int) -> Iterator[tuple[slice, slice, slice]]:
    for start in range(0, height_px, BAND_PX):
        stop = min(start + BAND_PX, height_px)
        first, last = max(0, start - halo_px), min(height_px, stop + halo_px)
        yield slice(start, stop), slice(first, last), slice(start - first, stop - first)
