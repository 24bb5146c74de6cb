"""A shifted, rescaled grid of windows over the same pixels: cut lines move and sizes vary between epochs.

The new windows are put together from the windows that were read, so nothing is read twice; where no window
was kept there is background, as everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from pipelines.data import CasePixels

Patch = tuple[int, tuple[slice, slice], tuple[slice, slice]]
"""A kept window, the part of a new one that it covers, and what of it lies there."""

MIN_OVERLAP = 0.1
"""A new window is kept when at least this share of it lies on kept windows."""


def regrid(
    case: CasePixels,
    zoom: float,
    shift_px: tuple[int, int],
    choose: Callable[[int], np.ndarray | None] = lambda _: None,
) -> CasePixels:
    """Resample all images of a case by `zoom` and move their grid.

    A pixel (y, x) of the result shows the source at ((y - shift_y) * zoom, (x - shift_x) * zoom), so the
    result has `mpp * zoom` micrometres per pixel; content keeps its true physical size.

    Args:
        case: all kept windows of its images.
        zoom: source pixels per new pixel, about 1; 1 copies pixels exactly.
        shift_px: (y, x), 0 <= shift < window side; a multiple of the token keeps tokens whole.
        choose: number of new windows -> sorted indices of those that are made (None = all); the images that
            have none of them are left out.
    """
    n_channels, side = case.pixels_NCHW.shape[1], case.pixels_NCHW.shape[-1]
    blank = _background(case.pixels_NCHW)
    new: list[tuple[int, tuple[int, int], list[float], list[Patch]]] = []
    sizes = []
    for image, size in enumerate(case.size_I2):
        rows = np.flatnonzero(case.image_N == image)
        index = {(int(case.row_N[i]), int(case.col_N[i])): int(i) for i in rows}
        new_size = [math.ceil(int(s) / zoom) + shift for s, shift in zip(size, shift_px, strict=True)]
        for place in _candidates(index, zoom, shift_px, side, new_size):
            origin = [(side * k - shift) * zoom for k, shift in zip(place, shift_px, strict=True)]
            patches, overlap = _patches(index, origin, zoom, side)
            if overlap >= MIN_OVERLAP:
                new.append((image, place, origin, patches))
        sizes.append(new_size)
    if not new:
        chosen = choose(len(case.row_N))
        return case if chosen is None else select(case, chosen)
    chosen = choose(len(new))
    new = new if chosen is None else [new[int(i)] for i in chosen]
    windows = [
        _resample(_paste(case.pixels_NCHW, patches, zoom, blank), origin, zoom, side, n_channels)
        for _, _, origin, patches in new
    ]
    row_col = np.asarray([place for _, place, _, _ in new], np.int64)
    images, image_N = np.unique([image for image, _, _, _ in new], return_inverse=True)
    return CasePixels(
        pixels_NCHW=np.stack(windows),
        row_N=row_col[:, 0].copy(),
        col_N=row_col[:, 1].copy(),
        image_N=image_N.astype(np.int64),
        size_I2=np.asarray(sizes, np.int64)[images],
        mpp_I2=(case.mpp_I2[images] * zoom).astype(np.float32),
        kind_I=case.kind_I[images],
    )


def select(case: CasePixels, keep: np.ndarray) -> CasePixels:
    """The windows `keep` (sorted indices) and the images that still have one."""
    images = np.unique(case.image_N[keep])
    renumber = np.full(len(case.size_I2), -1)
    renumber[images] = np.arange(len(images))
    return CasePixels(
        case.pixels_NCHW[keep],
        case.row_N[keep],
        case.col_N[keep],
        renumber[case.image_N[keep]],
        case.size_I2[images],
        case.mpp_I2[images],
        case.kind_I[images],
    )


def _background(pixels_NCHW: np.ndarray) -> int:
    """Glass is white in RGB slides; everything else is dark where there is nothing."""
    return 255 if pixels_NCHW.dtype == np.uint8 and pixels_NCHW.shape[1] == 3 else 0


def _candidates(
    index: dict[tuple[int, int], int], zoom: float, shift_px: tuple[int, int], side: int, size: list[int]
) -> list[tuple[int, int]]:
    """New windows that touch a kept one, row-major."""
    found = set()
    last = [-(-s // side) - 1 for s in size]
    for place in index:
        ranges = []
        for k, shift, end in zip(place, shift_px, last, strict=True):
            first = math.floor((k * side / zoom + shift) / side)
            stop = math.ceil(((k + 1) * side / zoom + shift) / side)
            ranges.append(range(max(0, first), min(end + 1, stop)))
        found |= {(r, c) for r in ranges[0] for c in ranges[1]}
    return sorted(found)


def _patches(
    index: dict[tuple[int, int], int], origin: list[float], zoom: float, side: int
) -> tuple[list[Patch], float]:
    """What of which kept windows lies under a new one (with a border of one), and the share they cover."""
    y0, x0 = (math.floor(o) - 1 for o in origin)
    span = _span(side, zoom)
    patches, covered = [], 0
    for row in range(y0 // side, (y0 + span - 1) // side + 1):
        for col in range(x0 // side, (x0 + span - 1) // side + 1):
            i = index.get((row, col))
            if i is None:
                continue
            top, left = max(y0, row * side), max(x0, col * side)
            bottom, right = min(y0 + span, (row + 1) * side), min(x0 + span, (col + 1) * side)
            here = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
            there = (
                slice(top - row * side, bottom - row * side),
                slice(left - col * side, right - col * side),
            )
            patches.append((i, here, there))
            covered += (bottom - top) * (right - left)
    return patches, covered / span**2


def _paste(pixels_NCHW: np.ndarray, patches: list[Patch], zoom: float, blank: int) -> np.ndarray:
    """Source pixels under a new window, with a border of one; background where no window was kept."""
    span = _span(pixels_NCHW.shape[-1], zoom)
    canvas = np.full((pixels_NCHW.shape[1], span, span), blank, pixels_NCHW.dtype)
    for i, here, there in patches:
        canvas[:, here[0], here[1]] = pixels_NCHW[i, :, there[0], there[1]]
    return canvas


def _span(side: int, zoom: float) -> int:
    """Side of the square of source pixels that a new window is made of."""
    return math.ceil(side * zoom) + 3


def _resample(canvas: np.ndarray, origin: list[float], zoom: float, side: int, n_channels: int) -> np.ndarray:
    offset_y, offset_x = (o - (math.floor(o) - 1) for o in origin)
    if zoom == 1:
        y, x = round(offset_y), round(offset_x)
        return canvas[:, y : y + side, x : x + side].copy()
    centre = (zoom - 1) / 2  # pixel centres, not corners, lie on a line
    matrix = np.asarray([[zoom, 0, offset_x + centre], [0, zoom, offset_y + centre]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    planes = [
        cv2.warpAffine(canvas[c], matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        for c in range(n_channels)
    ]
    return np.stack(planes)
