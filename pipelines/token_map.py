"""A map over one image: one number a token, and where each token lies on the slide.

Three frames meet here and nowhere else:

* level pixels: (y, x) of the level the model read; a token is 16 px of it;
* slide pixels: level 0 of the file in the full OpenSlide frame (what annotations and `lesions.csv` use);
* QuPath pixels: slide pixels minus the bounds offset (QuPath shows only the scanned area).

All three are continuous and count from the outer edge of the first pixel: a token's centre is its start + 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas_path.geometry import TOKEN_PX, WINDOW_PX, WINDOW_TOKENS, Grid, Mpp

Float = NDArray[np.float32]


@dataclass(frozen=True)
class LevelFrame:
    """Where a level lies on its slide.

    Args:
        height_px, width_px: size of the level.
        mpp: micrometres per pixel of the level.
        origin_y0, origin_x0: slide pixel of the level's top-left corner.
        scale_y, scale_x: slide pixels per level pixel.
        bounds_y0, bounds_x0: slide pixel where the scanned area begins (0 where the format has no bounds).
    """

    height_px: int
    width_px: int
    mpp: Mpp
    origin_y0: float = 0.0
    origin_x0: float = 0.0
    scale_y: float = 1.0
    scale_x: float = 1.0
    bounds_y0: float = 0.0
    bounds_x0: float = 0.0

    @property
    def grid(self) -> Grid:
        """The windows of the level."""
        return Grid(self.height_px, self.width_px)

    @property
    def token_shape(self) -> tuple[int, int]:
        """Rows and columns of the token raster; the last ones may be partial."""
        return -(-self.height_px // TOKEN_PX), -(-self.width_px // TOKEN_PX)

    def to_slide_px(self, y_px: Any, x_px: Any) -> tuple[Any, Any]:
        """Level pixels to slide pixels (floats or arrays)."""
        return self.origin_y0 + y_px * self.scale_y, self.origin_x0 + x_px * self.scale_x

    def to_qupath_px(self, y_px: Any, x_px: Any) -> tuple[Any, Any]:
        """Level pixels to the frame of QuPath: slide pixels with the bounds offset subtracted."""
        y0, x0 = self.to_slide_px(y_px, x_px)
        return y0 - self.bounds_y0, x0 - self.bounds_x0

    def from_slide_px(self, y0_px: Any, x0_px: Any) -> tuple[Any, Any]:
        """Slide pixels to level pixels (floats or arrays)."""
        return (y0_px - self.origin_y0) / self.scale_y, (x0_px - self.origin_x0) / self.scale_x

    def as_dict(self) -> dict[str, Any]:
        """A JSON form; `from_dict` reads it back."""
        fields = {k: v for k, v in self.__dict__.items() if k != "mpp"}
        return {**fields, "mpp": [self.mpp.y, self.mpp.x]}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> LevelFrame:
        """The inverse of `as_dict`."""
        return cls(**{**raw, "mpp": Mpp(*raw["mpp"])})


@dataclass(frozen=True)
class TokenMap:
    """Values of the evaluated tokens of one image.

    Args:
        row_col_N2: window row and column of the N evaluated windows.
        value_NT: one value a token, 256 tokens a window in row-major order; 0 is neutral.
        what: what the values are, in words, for legends ("contribution to the logit of tumour").
    """

    image_id: str
    frame: LevelFrame
    row_col_N2: NDArray[np.int64]
    value_NT: Float
    what: str = ""
    signed: bool = True

    def with_values(self, value_NT: Float, what: str) -> TokenMap:
        """The same windows with other values."""
        return replace(self, value_NT=value_NT, what=what)

    def tokens_inside(self) -> NDArray[np.bool_]:
        """(N, 256): whether the token's centre lies inside the level (edge windows are padded)."""
        row_NT, col_NT = self.token_row_col()
        centre = TOKEN_PX / 2
        return (row_NT * TOKEN_PX + centre < self.frame.height_px) & (
            col_NT * TOKEN_PX + centre < self.frame.width_px
        )

    def token_row_col(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of each token in the token raster of the level, both (N, 256)."""
        token = np.arange(WINDOW_TOKENS**2)
        row_NT = self.row_col_N2[:, :1] * WINDOW_TOKENS + token // WINDOW_TOKENS
        col_NT = self.row_col_N2[:, 1:] * WINDOW_TOKENS + token % WINDOW_TOKENS
        return row_NT, col_NT

    def raster(self, fill: float = np.nan) -> Float:
        """(token rows, token columns) of the whole level; `fill` where nothing was evaluated."""
        rows, cols = self.frame.grid.shape
        full = np.full((rows, cols, WINDOW_TOKENS, WINDOW_TOKENS), fill, np.float32)
        full[self.row_col_N2[:, 0], self.row_col_N2[:, 1]] = self.value_NT.reshape(
            -1, WINDOW_TOKENS, WINDOW_TOKENS
        )
        flat = full.transpose(0, 2, 1, 3).reshape(rows * WINDOW_TOKENS, cols * WINDOW_TOKENS)
        height, width = self.frame.token_shape
        return np.ascontiguousarray(flat[:height, :width])

    def window_sums(self) -> Float:
        """(N,) sum of the tokens of each window."""
        return np.asarray(self.value_NT.sum(axis=1, dtype=np.float64), np.float32)

    def peak_px(self) -> NDArray[np.float64]:
        """(N, 2) level pixel (y, x) at the centre of each window's strongest token of the window's sign."""
        sign_N = np.where(self.window_sums() < 0, -1.0, 1.0).astype(np.float32)
        strength = np.where(self.tokens_inside(), self.value_NT * sign_N[:, None], -np.inf)
        best = strength.argmax(axis=1)
        row_NT, col_NT = self.token_row_col()
        index = np.arange(len(best))
        tokens = np.stack([row_NT[index, best], col_NT[index, best]], axis=1)
        return (tokens + 0.5) * TOKEN_PX

    def area_mm2(self) -> float:
        """Area of the evaluated tokens."""
        mpp = self.frame.mpp
        return float(self.tokens_inside().sum()) * TOKEN_PX**2 * mpp.y * mpp.x / 1e6

    def window_boxes_px(self) -> NDArray[np.float64]:
        """(N, 4) level pixels (y0, x0, y1, x1) of the windows, clipped to the level."""
        start = self.row_col_N2.astype(np.float64) * WINDOW_PX
        stop = np.minimum(start + WINDOW_PX, [self.frame.height_px, self.frame.width_px])
        return np.concatenate([start, stop], axis=1)
