"""The one place where windows, tokens, pixels and micrometres meet.

Storage grid = attention grid: a window is 256 x 256 px and holds 16 x 16 tokens of 16 x 16 px; a window of
the next scale covers 4 x 4 windows. Everything is addressed as (image, level, window row, window column).
Pixel coordinates are (y, x) in arrays and (x, y) in files for people (GeoJSON, CSV), as usual in the field.
"""

from __future__ import annotations

from dataclasses import dataclass

TOKEN_PX = 16
WINDOW_TOKENS = 16
WINDOW_PX = TOKEN_PX * WINDOW_TOKENS
SCALE_STEP = 4
SHARD_PX = WINDOW_PX * SCALE_STEP**2


@dataclass(frozen=True)
class Mpp:
    """Micrometres per pixel along y and x (they may differ)."""

    y: float
    x: float

    @classmethod
    def square(cls, mpp: float) -> Mpp:
        return cls(mpp, mpp)

    @property
    def mean(self) -> float:
        """Geometric mean: keeps areas right."""
        return float((self.y * self.x) ** 0.5)

    def scaled(self, factor_y: float, factor_x: float | None = None) -> Mpp:
        """The mpp after downsampling by the factors (2 halves the number of pixels)."""
        return Mpp(self.y * factor_y, self.x * (factor_y if factor_x is None else factor_x))


@dataclass(frozen=True)
class Grid:
    """The grid of windows that covers a level of `height_px` x `width_px`; edge windows may be partial."""

    height_px: int
    width_px: int
    window_px: int = WINDOW_PX

    @property
    def rows(self) -> int:
        return -(-self.height_px // self.window_px)

    @property
    def cols(self) -> int:
        return -(-self.width_px // self.window_px)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.cols

    def box_px(self, row: int, col: int) -> tuple[int, int, int, int]:
        """(y, x, height, width) in pixels of window (row, col), clipped to the level."""
        y, x = row * self.window_px, col * self.window_px
        return y, x, min(self.window_px, self.height_px - y), min(self.window_px, self.width_px - x)


def halved(size_px: int) -> int:
    """Size of the next pyramid level: 2x downsampling, odd sizes round up."""
    return max(1, -(-size_px // 2))
