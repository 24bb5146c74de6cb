"""The coloured slide as a pyramidal OME-TIFF: opens in QuPath, OMERO and OpenSlide; second image: the values.

Image 0 is RGB (JPEG), the tissue in grey with the map over it, at the resolution of a store level, with its
coarser levels as SubIFDs. Image 1 is float32, one pixel a token. Both carry their physical pixel size. Strips
of one tile row are read, painted and written, so memory does not grow with the slide.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from numpy.typing import NDArray

from atlas_path import RESEARCH_USE_ONLY
from atlas_path.geometry import TOKEN_PX
from pipelines.colours import grey_of, paint
from pipelines.exports.picture import rgb8_range, to_rgb8
from pipelines.token_map import TokenMap

if TYPE_CHECKING:
    from atlas_path.store import Store

TILE_PX = 256
LONGEST_PX = 12288
JPEG_QUALITY = 88


def base_level(store: Store, level: int, longest_px: int = LONGEST_PX) -> int:
    """The finest store level from `level` on whose long side is at most `longest_px` (else the coarsest)."""
    for index in range(level, len(store.levels)):
        if max(store.levels[index].height_px, store.levels[index].width_px) <= longest_px:
            return index
    return len(store.levels) - 1


def write_ome_tiff(
    path: Path,
    token_map: TokenMap,
    store: Store,
    level: int,
    limit: float,
    dark: bool,
    longest_px: int = LONGEST_PX,
) -> None:
    """Write the file, whole or not at all.

    Args:
        level: store level the map belongs to.
        limit: token value at full colour.
        dark: the image has a dark background (see `colours.paint`).
    """
    first = base_level(store, level, longest_px)
    shown = range(first, len(store.levels))
    share = token_map.raster() / np.float32(max(limit, 1e-30))
    window = rgb8_range(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with tifffile.TiffWriter(part, bigtiff=True, ome=True) as tiff:
        for index in shown:
            shape = store.levels[index]
            resolution = (1e4 / shape.mpp.x, 1e4 / shape.mpp.y)
            about = {
                "axes": "YXS",
                "Name": token_map.what,
                "Description": RESEARCH_USE_ONLY,
                "PhysicalSizeX": shape.mpp.x,
                "PhysicalSizeXUnit": "\N{MICRO SIGN}m",
                "PhysicalSizeY": shape.mpp.y,
                "PhysicalSizeYUnit": "\N{MICRO SIGN}m",
            }
            tiff.write(
                _tiles(store, index, level, share, dark, window),
                shape=(shape.height_px, shape.width_px, 3),
                dtype="uint8",
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                resolution=resolution,
                resolutionunit="CENTIMETER",
                metadata=about if index == first else None,
                subifds=len(shown) - 1 if index == first else 0,
                subfiletype=0 if index == first else 1,
            )
        _write_values(tiff, token_map)
    os.replace(part, path)


def _write_values(tiff: tifffile.TiffWriter, token_map: TokenMap) -> None:
    mpp = token_map.frame.mpp
    tiff.write(
        token_map.raster(),
        photometric="minisblack",
        compression="zlib",
        resolution=(1e4 / (mpp.x * TOKEN_PX), 1e4 / (mpp.y * TOKEN_PX)),
        resolutionunit="CENTIMETER",
        metadata={
            "axes": "YX",
            "Name": f"values: {token_map.what}; NaN = not evaluated",
            "PhysicalSizeX": mpp.x * TOKEN_PX,
            "PhysicalSizeXUnit": "\N{MICRO SIGN}m",
            "PhysicalSizeY": mpp.y * TOKEN_PX,
            "PhysicalSizeYUnit": "\N{MICRO SIGN}m",
        },
    )


def _tiles(
    store: Store,
    index: int,
    level: int,
    share: NDArray[np.float32],
    dark: bool,
    window: tuple[float, float] | None,
) -> Iterator[NDArray[np.uint8]]:
    """Painted tiles of one level in row-major order, edge tiles padded with white (black where dark)."""
    shape, working = store.levels[index], store.levels[level]
    token_y = TOKEN_PX * working.mpp.y / shape.mpp.y
    token_x = TOKEN_PX * working.mpp.x / shape.mpp.x
    cols = ((np.arange(shape.width_px) + 0.5) / token_x).astype(np.int64).clip(max=share.shape[1] - 1)
    for top in range(0, shape.height_px, TILE_PX):
        height = min(TILE_PX, shape.height_px - top)
        rows = ((top + np.arange(height) + 0.5) / token_y).astype(np.int64).clip(max=share.shape[0] - 1)
        pixels = np.moveaxis(store.read_region(index, top, 0, height, shape.width_px), 0, -1)
        strip = paint(grey_of(to_rgb8(pixels, window), dark), share[rows[:, None], cols[None]], dark)
        for left in range(0, shape.width_px, TILE_PX):
            tile = np.full((TILE_PX, TILE_PX, 3), 0 if dark else 255, np.uint8)
            part = strip[:, left : left + TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile
