"""The tissue mask and what it says of each window."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from atlas_path.geometry import WINDOW_PX, Grid, Mpp


@dataclass(frozen=True)
class TissueParams:
    """How tissue is found. Lengths and areas are physical; densities are optical densities (base e).

    Attributes:
        method: 'auto' finds tissue, 'none' keeps the whole slide.
        chroma_od: spread of density over the colour channels that counts as stain.
        density_od: mean density that counts as tissue without colour (pigment, dark stain).
        min_object_um2: smaller isolated objects are dust (unless a slide holds nothing larger).
        max_hole_um2: smaller holes (lumens, fat cells) belong to the tissue around them.
        close_um: gaps up to twice this length are bridged.
        grow_um: margin added around all tissue.
        remove_pen: leave green and blue pen strokes out; ink of any colour is flagged either way.
    """

    method: str = "auto"
    chroma_od: float = 0.022
    density_od: float = 0.25
    min_object_um2: float = 300.0
    max_hole_um2: float = 100000.0
    close_um: float = 24.0
    grow_um: float = 16.0
    remove_pen: bool = True

    def __post_init__(self) -> None:
        if self.method not in ("auto", "none"):
            raise ValueError(f"tissue method is 'auto' or 'none', not {self.method!r}")
        for name in ("chroma_od", "density_od"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("min_object_um2", "max_hole_um2", "close_um", "grow_um"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


@dataclass(frozen=True)
class TissueMask:
    """Where tissue is, on the picture it was found on.

    Attributes:
        mask: (h, w) bool.
        mpp: micrometres per pixel of the mask; it covers the slide exactly.
        flags: what a person should know: 'empty', 'fluorescence', 'faint', 'pen', 'black', 'no_glass',
            'sparse', 'unreadable', 'edited'.
    """

    mask: np.ndarray
    mpp: Mpp
    flags: tuple[str, ...] = field(default=())

    @property
    def is_empty(self) -> bool:
        """True when no tissue was found; the caller reports it, it is never a success."""
        return not self.mask.any()

    @property
    def area_mm2(self) -> float:
        """Area of the tissue."""
        return float(np.count_nonzero(self.mask)) * self.mpp.y * self.mpp.x / 1e6


def window_fractions(
    mask: np.ndarray, level_height_px: int, level_width_px: int, window_px: int = WINDOW_PX
) -> np.ndarray:
    """Fraction of tissue in each window of a level that `mask` (h, w) covers exactly.

    Exact area integral of the mask over the window's part inside the level, whatever the ratio of the two
    pixel sizes, and the same to the last bit on every machine (no matrix product, whose sums depend on
    threads). Returns float32 (rows, cols).
    """
    grid = Grid(level_height_px, level_width_px, window_px)
    y, x = _edges(grid.rows, window_px, level_height_px), _edges(grid.cols, window_px, level_width_px)
    integral = cv2.integral(mask.view(np.uint8))
    scale_y, scale_x = mask.shape[0] / level_height_px, mask.shape[1] / level_width_px
    below = _at(_at(integral, y * scale_y), x * scale_x, axis=1)
    tissue = np.diff(np.diff(below, axis=0), axis=1)
    areas = np.outer(np.diff(y), np.diff(x)) * (scale_y * scale_x)
    return np.asarray(np.clip(tissue / areas, 0.0, 1.0), np.float32)


def _edges(n_windows: int, window_px: int, level_px: int) -> np.ndarray:
    """(windows + 1,) pixels between which the windows lie; the last window ends where the level does."""
    return np.asarray(np.minimum(np.arange(n_windows + 1) * window_px, level_px), np.float64)


def _at(integral: np.ndarray, position: np.ndarray, axis: int = 0) -> np.ndarray:
    """An integral image at fractional positions of one axis; linear between pixels, which is exact."""
    whole = np.minimum(position.astype(np.int64), integral.shape[axis] - 2)
    part = np.expand_dims(position - whole, 1 - axis)
    low, high = integral.take(whole, axis), integral.take(whole + 1, axis)
    return np.asarray(low + (high - low) * part)
