"""Which levels a store has and where each comes from.

A portable store holds every 2x level, each the mean of the one below. A compact store keeps what the scanner
already made: each level of which the slide has JPEG tiles is copied byte for byte. Scanners mostly write
every second level (1/4, 1/16), and a JPEG decodes at half size for less than a full decode; so a level
between two is not stored but read from the finer one ("virtual"). Where the slide is twice as fine as what is
asked for, this already holds for level 0: its tiles are kept, and the resolution asked for is level 1. What
is missing at the coarse end is computed.
OME-Zarr asks for no particular ratio between levels, so the stored ones are a valid pyramid by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlas_path.geometry import Mpp, halved
from atlas_path.slides.base import Slide
from atlas_path.slides.jpeg_tiles import JpegTiles
from atlas_path.store.codecs import lossless_codec
from atlas_path.store.job import LevelPlan
from atlas_path.store.jpeg import Jpeg
from atlas_path.store.layout import ArrayLayout, tile_layout, window_layout
from atlas_path.store.meta import Codec, Origin
from atlas_path.store.options import PreprocessOptions
from atlas_path.store.plan import COARSEST_PX, Base, whole_level

LARGEST_COPIED_TILE_PX = 1024  # larger tiles would make every window cost a large decode
SAME_SCALE = 0.01


@dataclass(frozen=True)
class LevelSource:
    """One level before it is known which of its windows are kept."""

    height_px: int
    width_px: int
    origin: Origin
    tiles: JpegTiles | None = None
    source_level: int | None = None


def codec_for(slide: Slide, options: PreprocessOptions) -> Codec:
    """The codec that can hold the slide's pixels: JPEG holds 8-bit gray or colour only, else lz4 is used."""
    if options.codec == "jpeg" and (slide.dtype != np.uint8 or slide.n_channels not in (1, 3)):
        return "lz4"
    return options.codec


def base_of_kept_tiles(slide: Slide, base: Base, mpp: Mpp, codec: Codec, options: PreprocessOptions) -> Base:
    """The level of the slide that `base` halves, where its tiles are kept, with `base` as level 1.

    Encoding anew costs more time than all the rest, and quality. `options.recode` asks for it: such stores
    are a third smaller and two to three times faster to read at this resolution.
    """
    if not _copies(codec, options) or options.recode or (base.how, base.shrink) != ("scaled", 2):
        return base
    tiles = slide.jpeg_tiles(base.level)
    if tiles is None or not _copyable(tiles, slide.n_channels):
        return base
    return whole_level(slide.levels, base.level, mpp)


def level_sources(slide: Slide, base: Base, codec: Codec, options: PreprocessOptions) -> list[LevelSource]:
    """All levels, finest first, down to one whose longer side is at most 1024 px."""
    copy = _copies(codec, options)
    levels = [_first(slide, base, copy)]
    while max(levels[-1].height_px, levels[-1].width_px) > COARSEST_PX:
        finer = levels[-1]
        size = halved(finer.height_px), halved(finer.width_px)
        copied = _copied(slide, base, len(levels), size) if copy else None
        if copied is not None:
            levels.append(copied)
        elif codec == "jpeg" and finer.origin != "virtual" and max(size) > COARSEST_PX:
            levels.append(LevelSource(*size, origin="virtual"))
        else:
            levels.append(LevelSource(*size, origin="reduced"))
    return levels


def plan_levels(
    slide: Slide,
    sources: list[LevelSource],
    keep: list[np.ndarray],
    codec: Codec,
    background: int | float,
    options: PreprocessOptions,
) -> tuple[LevelPlan, ...]:
    """Give every stored level its layout."""
    return tuple(
        LevelPlan(
            height_px=source.height_px,
            width_px=source.width_px,
            origin=source.origin,
            layout=_layout(slide, source, codec, background, options),
            keep=kept,
            source_level=source.source_level,
        )
        for source, kept in zip(sources, keep, strict=True)
    )


def _first(slide: Slide, base: Base, copy: bool) -> LevelSource:
    size = base.height_px, base.width_px
    copied = _copied(slide, base, 0, size) if copy and base.how == "native" else None
    return copied or LevelSource(*size, origin="decoded")


def _copied(slide: Slide, base: Base, level: int, size: tuple[int, int]) -> LevelSource | None:
    """The slide's level of that scale, when its tiles can be copied."""
    if base.resample is not None:
        return None
    want_y, want_x = base.downsample_y * 2.0**level, base.downsample_x * 2.0**level
    for index, frame in enumerate(slide.levels):
        if max(abs(frame.downsample_y / want_y - 1), abs(frame.downsample_x / want_x - 1)) > SAME_SCALE:
            continue
        if abs(frame.height_px - size[0]) > 2 or abs(frame.width_px - size[1]) > 2:
            continue
        tiles = slide.jpeg_tiles(index)
        if tiles is not None and _copyable(tiles, slide.n_channels):
            return LevelSource(frame.height_px, frame.width_px, "copied", tiles, index)
    return None


def _copies(codec: Codec, options: PreprocessOptions) -> bool:
    """Tiles are taken over wherever they fit."""
    return codec == "jpeg" and options.icc == "keep"


def _copyable(tiles: JpegTiles, n_channels: int) -> bool:
    sides = (tiles.tile_height_px, tiles.tile_width_px)
    fitting = all(side % 8 == 0 and side <= LARGEST_COPIED_TILE_PX for side in sides)
    return fitting and n_channels == (1 if tiles.colour == "gray" else 3)


def _layout(
    slide: Slide, source: LevelSource, codec: Codec, background: int | float, options: PreprocessOptions
) -> ArrayLayout | None:
    if source.origin == "virtual":
        return None
    size, n_channels, dtype = (source.height_px, source.width_px), slide.n_channels, slide.dtype.name
    if source.tiles is not None:
        copied = Jpeg(n_channels, options.quality, source.tiles.prefix)
        tile = source.tiles.tile_height_px, source.tiles.tile_width_px
        return tile_layout(*size, n_channels, copied, tile, int(background))
    if codec == "jpeg":
        return window_layout(*size, n_channels, dtype, Jpeg(n_channels, options.quality), background)
    return window_layout(*size, n_channels, dtype, lossless_codec(codec, dtype), background)
