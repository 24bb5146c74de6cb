"""A slide in plain facts, for `atlas-path info`: never a label, a macro image, an identifier or a date."""

from __future__ import annotations

from typing import Any

from atlas_path.slides.base import KeepsAttributes, Slide


def describe(slide: Slide) -> dict[str, Any]:
    """Facts about an open slide, ready for JSON."""
    full = slide.levels[0]
    levels = []
    for number, level in enumerate(slide.levels):
        tile_px = slide.tile_px(number)
        levels.append(
            {
                "height_px": level.height_px,
                "width_px": level.width_px,
                "downsample": round((level.downsample_y * level.downsample_x) ** 0.5, 4),
                "tile_px": list(tile_px) if tile_px else None,
                "raw_jpeg_tiles": slide.jpeg_tiles(number) is not None,
            }
        )
    tiles = slide.jpeg_tiles(0)
    return {
        "file": str(getattr(slide, "subject", slide.path.name)),
        "reader": slide.reader,
        "reader_version": slide.reader_version,
        "vendor": slide.vendor,
        "height_px": full.height_px,
        "width_px": full.width_px,
        "levels": levels,
        "mpp": {"y": slide.mpp.y, "x": slide.mpp.x} if slide.mpp else None,
        "mpp_source": slide.mpp_source,
        "size_mm": [full.height_px * slide.mpp.y / 1000, full.width_px * slide.mpp.x / 1000]
        if slide.mpp
        else None,
        "kind": slide.kind,
        "dtype": slide.dtype.name,
        "channels": list(slide.channel_names),
        "compression": slide.compression,
        "jpeg": {"colour": tiles.colour, "subsampling": tiles.subsampling} if tiles else None,
        "icc_profile": slide.icc_profile is not None,
        "bounds_px": list(slide.bounds_px) if slide.bounds_px else None,
        "notes": list(slide.notes),
        "facts": slide.store_attributes() if isinstance(slide, KeepsAttributes) else {},
    }
