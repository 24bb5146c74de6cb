"""Which pixels of the slide become level 0 of the store: the resolution asked for, never invented.

Magnification is never looked at: '20x' means anything from 0.23 to 0.55 um/px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atlas_path.errors import ResolutionError
from atlas_path.geometry import WINDOW_PX, Mpp
from atlas_path.slides.base import Level

SHRINKS = (1, 2, 4, 8)  # what a JPEG decoder does for (almost) nothing
COARSEST_PX = 1024


@dataclass(frozen=True)
class Base:
    """How level 0 of the store is read from the slide.

    Args:
        level: level of the slide that is read.
        shrink: whole-number reduction while decoding (1, 2, 4 or 8).
        resample: after shrinking, so many pixels (y, x) become 256; None for no resampling. Being a
            whole number, windows map to whole pixels and blocks resample alike wherever they are cut.
        height_px: height of level 0 of the store.
        width_px: width of level 0 of the store.
        mpp: its resolution.
        downsample_y: pixels of the slide's level 0 under one pixel of the store, along y.
        downsample_x: along x.
    """

    level: int
    shrink: int
    resample: tuple[int, int] | None
    height_px: int
    width_px: int
    mpp: Mpp
    downsample_y: float
    downsample_x: float

    @property
    def how(self) -> Literal["native", "scaled", "resampled"]:
        """'native': pixels of a level as they are; 'scaled': reduced by 2, 4 or 8; else 'resampled'."""
        if self.resample:
            return "resampled"
        return "native" if self.shrink == 1 else "scaled"


def choose_base(
    path: Path | str,
    levels: Sequence[Level],
    mpp: Mpp | None,
    wanted: float | Literal["native"],
    tolerance: float,
) -> Base:
    """The cheapest way to the resolution `wanted` (um/px).

    A level within `tolerance` keeps its pixels; otherwise one reduced by 2, 4 or 8 that is within it is
    taken; otherwise the nearest finer one is resampled by area. With 'native' level 0 is taken as it is.

    Raises:
        ResolutionError: the slide is coarser than what is asked for.
    """
    native = mpp or Mpp.square(1.0)
    if wanted == "native":
        return _base(levels, 0, 1, native)
    ways = [
        (shrink, _mpp_of(levels, level, shrink, native).mean / wanted, level)
        for level in range(len(levels))
        for shrink in SHRINKS
        if min(levels[level].height_px, levels[level].width_px) >= shrink
    ]
    fitting = [way for way in ways if abs(way[1] - 1) <= tolerance]
    if fitting:
        shrink, _, level = min(fitting, key=lambda way: (way[0], abs(math.log(way[1])), -way[2]))
        return _base(levels, level, shrink, native)
    finer = [way for way in ways if way[1] < 1]
    if not finer:
        raise ResolutionError(
            path,
            f"has {native.mean:.4g} um/px, coarser than the {wanted:g} um/px asked for",
            f"use --mpp native or --mpp {_round_up(native.mean):g}",
        )
    shrink, _, level = max(finer, key=lambda way: (round(way[1], 9), -way[0]))
    return _resampled(levels, level, shrink, native, wanted)


def whole_level(levels: Sequence[Level], level: int, mpp: Mpp) -> Base:
    """A level of the slide with its pixels as they are; `mpp` is that of the slide's level 0."""
    return _base(levels, level, 1, mpp)


def _mpp_of(levels: Sequence[Level], level: int, shrink: int, native: Mpp) -> Mpp:
    frame = levels[level]
    return native.scaled(frame.downsample_y * shrink, frame.downsample_x * shrink)


def _base(levels: Sequence[Level], level: int, shrink: int, native: Mpp) -> Base:
    frame = levels[level]
    return Base(
        level=level,
        shrink=shrink,
        resample=None,
        height_px=frame.height_px // shrink,  # an incomplete last row would mix in what lies beyond the slide
        width_px=frame.width_px // shrink,
        mpp=_mpp_of(levels, level, shrink, native),
        downsample_y=frame.downsample_y * shrink,
        downsample_x=frame.downsample_x * shrink,
    )


def _resampled(levels: Sequence[Level], level: int, shrink: int, native: Mpp, wanted: float) -> Base:
    near = _base(levels, level, shrink, native)
    per_window = (
        max(1, round(WINDOW_PX * wanted / near.mpp.y)),
        max(1, round(WINDOW_PX * wanted / near.mpp.x)),
    )
    factor_y, factor_x = per_window[0] / WINDOW_PX, per_window[1] / WINDOW_PX
    return Base(
        level=level,
        shrink=shrink,
        resample=per_window,
        height_px=max(1, int(near.height_px / factor_y)),
        width_px=max(1, int(near.width_px / factor_x)),
        mpp=near.mpp.scaled(factor_y, factor_x),
        downsample_y=near.downsample_y * factor_y,
        downsample_x=near.downsample_x * factor_x,
    )


def _round_up(mpp: float) -> float:
    return math.ceil(mpp * 20) / 20
