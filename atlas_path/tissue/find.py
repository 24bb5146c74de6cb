"""Tissue on a small picture of a slide, recall first: a lost lesion is unforgivable, an empty window cheap.

Bright field: the colour of the glass is measured, pixels become optical densities against it (Beer-Lambert),
and tissue is what has colour (any stain spreads the densities of the three channels; dust and shadows do not)
or is dark. Two thresholds with hysteresis keep faint parts that touch clear ones. Fluorescence: tissue is
what rises above the dark background in any channel. Both thresholds rise with the noise that is measured.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from atlas_path.geometry import Mpp
from atlas_path.tissue.artefacts import black_areas, pen_strokes
from atlas_path.tissue.bands import in_bands
from atlas_path.tissue.mask import TissueMask, TissueParams
from atlas_path.tissue.pieces import Pieces, without_small

LEAST_GLASS = 0.002
FAINT_OD = 0.12
SMOOTH_PX = 0.7
_NOISE_FACTOR = 5.0
_FLUORESCENCE_GAP_UM = 40.0


def find_tissue(
    thumb: np.ndarray,
    mpp: Mpp,
    params: TissueParams | None = None,
    valid: np.ndarray | None = None,
) -> TissueMask:
    """Tissue on `thumb` (h, w, c), a picture of a whole slide at about 8 micrometres per pixel.

    Where `valid` is False the source could not be decoded: that area counts as tissue, so that its windows
    are looked at and reported, and the flag 'unreadable' is set. An empty result has the flag 'empty'.
    """
    params = params or TissueParams()
    thumb = thumb[..., None] if thumb.ndim == 2 else thumb
    if params.method == "none":
        return TissueMask(np.ones(thumb.shape[:2], bool), mpp)
    readable = np.ones(thumb.shape[:2], bool) if valid is None else valid.astype(bool)
    planes = _planes(thumb)
    if _is_dark_field(planes, readable):
        mask, flags = _fluorescence(planes, readable, mpp, params, thumb.dtype == np.uint8)
    else:
        mask, flags = _bright_field(planes, readable, mpp, params)
    if not readable.all():
        mask, flags = mask | ~readable, [*flags, "unreadable"]
    return TissueMask(mask, mpp, tuple(flags) if mask.any() else (*flags, "empty"))


def _is_dark_field(planes: list[np.ndarray], readable: np.ndarray) -> bool:
    """Dark background, as in fluorescence: most pixels are near the darkest, and nothing is white glass."""
    if len(planes) not in (1, 3):
        return True
    values = _sample(planes, readable)
    if not len(values):
        return False
    if len(planes) == 3:
        dimmest = functools.reduce(np.minimum, values.T)
        brightest = functools.reduce(np.maximum, values.T)
        seen = np.count_nonzero(brightest > 25)  # black borders of bright-field slides say nothing
        glass = np.count_nonzero(dimmest > 165)
        return bool(glass < max(0.005 * len(values), 0.1 * seen) and np.median(dimmest) < 64)
    low, middle, high = np.percentile(values, [0.5, 50, 99.5])
    return bool(middle - low < high - middle)


def _bright_field(
    planes: list[np.ndarray], readable: np.ndarray, mpp: Mpp, params: TissueParams
) -> tuple[np.ndarray, list[str]]:
    flags: list[str] = []
    black = black_areas(planes, mpp)
    if (black & readable).any():
        flags.append("black")
    usable = readable & ~black
    glass = _glass(_sample(planes, usable))
    if glass is None:
        flags.append("no_glass")
        glass = np.full(len(planes), 245.0, np.float32)
    density, mean, evidence = _stain(planes, glass)
    gray = len(planes) == 1
    some = _sample([evidence, mean], usable)
    quiet = some[np.abs(some[:, 1]) < 0.05, 0]
    threshold = max(params.chroma_od, _NOISE_FACTOR * _spread(quiet)) if len(quiet) else params.chroma_od
    possible, clear = np.empty_like(usable), np.empty_like(usable)

    def decide(own: slice, _seen: slice, _inner: slice) -> None:
        dark = mean[own] > params.density_od
        possible[own] = usable[own] & ((evidence[own] > threshold) | dark)
        clear[own] = possible[own] & ((evidence[own] > 2 * threshold) | dark)

    in_bands(len(mean), 0, decide)
    tissue = _touching(possible, clear)
    has_pen, pen = (False, np.zeros_like(tissue)) if gray else pen_strokes(density, mean, tissue, mpp)
    if has_pen:
        flags.append("pen")
    if has_pen and params.remove_pen:
        tissue = tissue & ~pen
    stained = _sample([mean], tissue)
    if len(stained) and float(np.median(stained)) < FAINT_OD:
        flags.append("faint")
    mask, sparse = _tidy(tissue, mpp, params, params.close_um)
    if sparse:
        flags.append("sparse")
    if has_pen and params.remove_pen:
        mask &= ~pen
    return mask & ~black, flags


def _stain(planes: list[np.ndarray], glass: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """(smooth optical density of every plane, their mean, evidence of stain), float32 (h, w) each.

    Evidence is how far the densities spread; half of the density where there is no colour.
    """
    shape = planes[0].shape
    density = [np.empty(shape, np.float32) for _ in planes]
    mean, evidence = np.empty(shape, np.float32), np.empty(shape, np.float32)

    def work(own: slice, seen: slice, inner: slice) -> None:
        smooth = [
            cv2.GaussianBlur(_density(plane[seen], float(white)), (0, 0), SMOOTH_PX)[inner]
            for plane, white in zip(planes, glass, strict=True)
        ]
        for whole, part in zip(density, smooth, strict=True):
            whole[own] = part
        mean[own] = functools.reduce(np.add, smooth) / np.float32(len(smooth))
        if len(smooth) == 1:
            evidence[own] = mean[own] / 2
        else:
            evidence[own] = functools.reduce(np.maximum, smooth) - functools.reduce(np.minimum, smooth)

    in_bands(shape[0], 4, work)
    return density, mean, evidence


def _fluorescence(
    planes: list[np.ndarray], readable: np.ndarray, mpp: Mpp, params: TissueParams, eight_bit: bool
) -> tuple[np.ndarray, list[str]]:
    """Above the background's mode by its noise or by 2 % of the channel's range, in any channel."""
    tissue = np.zeros(readable.shape, bool)
    least = 2.5 if eight_bit else 1e-6  # what rounding to 8 bit and JPEG leave is no signal
    for plane in planes:
        smooth = cv2.GaussianBlur(plane.astype(np.float32), (0, 0), 0.7)
        values = _sample([smooth], readable)[:, 0]
        if not len(values) or values.max() <= values.min():
            continue
        level = _mode(values)
        below = values[values <= level]
        noise = 1.4826 * float(np.median(level - below)) if len(below) else 0.0
        reach = float(np.percentile(values, 99.9)) - level
        tissue |= readable & (smooth > level + max(_NOISE_FACTOR * noise, 0.02 * reach, least))
    mask, sparse = _tidy(tissue, mpp, params, max(params.close_um, _FLUORESCENCE_GAP_UM))
    return mask, ["fluorescence", *(["sparse"] if sparse else [])]


def _glass(pixels: np.ndarray) -> np.ndarray | None:
    """Colour of the glass: the commonest bright gray among `pixels` (n, c); None where there is none."""
    if not len(pixels):
        return None
    low, high = functools.reduce(np.minimum, pixels.T), functools.reduce(np.maximum, pixels.T)
    bright = pixels[(low > 150) & (high - low < 40)]
    if len(bright) < LEAST_GLASS * len(pixels):
        return None
    light = functools.reduce(np.add, bright.T) / np.float32(bright.shape[1])
    counts, edges = np.histogram(light, bins=53, range=(150.0, 256.0))
    counts = np.convolve(counts, [1, 2, 1], "same")
    at_least = 0.2 * counts.max()  # the brightest clear peak: pale tissue may be commoner than glass
    peaks = [
        i
        for i in range(len(counts))
        if counts[i] >= at_least and counts[i] == counts[max(0, i - 2) : i + 3].max()
    ]
    centre = edges[peaks[-1]] + 1.0
    near = bright[np.abs(light - centre) < 4.0]
    return np.asarray(near.mean(axis=0), np.float32)


def _touching(possible: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Connected areas of `possible` that hold some of `clear`, which is part of it."""
    pieces = Pieces(possible, 8)
    return pieces.mask_of(pieces.touching(clear))


def _tidy(tissue: np.ndarray, mpp: Mpp, params: TissueParams, close_um: float) -> tuple[np.ndarray, bool]:
    """Gaps bridged, dust dropped, holes filled, margin added. True when only small objects were there."""
    closed = _closed(tissue, close_um, mpp)
    area_um2 = mpp.y * mpp.x
    large = without_small(closed, params.min_object_um2 / area_um2)
    sparse = bool(closed.any()) and not large.any()
    kept = closed if sparse else large
    kept = kept | _small_holes(kept, params.max_hole_um2 / area_um2)
    return _grown(kept, params.grow_um, mpp), sparse


def _closed(mask: np.ndarray, radius_um: float, mpp: Mpp) -> np.ndarray:
    kernel = _disc(radius_um, mpp)
    if kernel is None:
        return mask
    pad_y, pad_x = kernel.shape[0], kernel.shape[1]
    padded = np.pad(mask.astype(np.uint8), ((pad_y, pad_y), (pad_x, pad_x)))
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[pad_y:-pad_y, pad_x:-pad_x]
    return np.asarray(closed, bool)


def _grown(mask: np.ndarray, radius_um: float, mpp: Mpp) -> np.ndarray:
    kernel = _disc(radius_um, mpp)
    return mask if kernel is None else np.asarray(cv2.dilate(mask.astype(np.uint8), kernel), bool)


def _disc(radius_um: float, mpp: Mpp) -> np.ndarray | None:
    """An elliptic kernel of that physical radius; None when it is less than half a pixel."""
    ry, rx = round(radius_um / mpp.y), round(radius_um / mpp.x)
    if ry < 1 and rx < 1:
        return None
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rx + 1, 2 * ry + 1)))


def _planes(thumb: np.ndarray) -> list[np.ndarray]:
    """Channels as planes on a scale of 0 to 255: uint8 as it is, everything else as float32."""
    if thumb.dtype == np.uint8:
        return [np.ascontiguousarray(thumb[..., c]) for c in range(thumb.shape[2])]
    scale = np.float32(255.0 / _full_scale(thumb))
    return [thumb[..., c].astype(np.float32) * scale for c in range(thumb.shape[2])]


def _density(plane: np.ndarray, glass: float) -> np.ndarray:
    """Optical density against the glass, base e; float32."""
    if plane.dtype == np.uint8:
        table = np.log((glass + 1) / (np.arange(256, dtype=np.float32) + 1))
        return np.asarray(cv2.LUT(plane, table.astype(np.float32)))
    return np.asarray(np.float32(np.log(glass + 1)) - cv2.log(plane + 1))


def _full_scale(thumb: np.ndarray) -> float:
    """The value of white: of the shortest depth that holds all values."""
    top = float(thumb.max(initial=0))
    return next((white for white in (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0) if top <= white), top)


def _small_holes(mask: np.ndarray, most_px: float) -> np.ndarray:
    """Holes of at most that size that lie wholly inside the mask, away from the edges of the picture."""
    pieces = Pieces(~mask, 4)
    small = pieces.areas_px() <= most_px
    small[0] = False
    for edge in (pieces.labels[0], pieces.labels[-1], pieces.labels[:, 0], pieces.labels[:, -1]):
        small[edge] = False
    return pieces.mask_of(small)


def _sample(planes: list[np.ndarray], where: np.ndarray, most_px: int = 200_000) -> np.ndarray:
    """(n, c) values where `where` holds, every n-th row and column of a large picture: enough to measure."""
    step = max(1, int((where.size / most_px) ** 0.5))
    chosen = where[::step, ::step]
    return np.stack([plane[::step, ::step][chosen] for plane in planes]).astype(np.float32).T


def _spread(values: np.ndarray) -> float:
    """Robust standard deviation of the lower half around the commonest value."""
    level = float(np.median(values))
    below = values[values <= level]
    return 1.4826 * float(np.median(level - below)) if len(below) else 0.0


def _mode(values: np.ndarray) -> float:
    """The commonest value, from a histogram that ignores the brightest thousandth."""
    low, high = float(values.min()), float(np.percentile(values, 99.9))
    if high <= low:
        return low
    counts, edges = np.histogram(values, bins=256, range=(low, high))
    peak = int(np.argmax(counts))
    return float((edges[peak] + edges[peak + 1]) / 2)
