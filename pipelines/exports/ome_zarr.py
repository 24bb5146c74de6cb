"""A map as an OME-Zarr 0.5 image that lies on the slide's store when both are opened together (napari).

Axes y, x in micrometres; one pixel a token at the finest level; NaN where nothing was evaluated. The values
are the tokens' own, so the finest level sums to the explained number; coarser levels hold means. A
transformation refers to pixel centres: the first token of 16 pixels is centred 7.5 pixels after the first
pixel.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from atlas_path import RESEARCH_USE_ONLY
from atlas_path.geometry import TOKEN_PX
from pipelines.token_map import TokenMap

CHUNK_TOKENS = 512
SMALLEST_TOKENS = 64


def write_ome_zarr(
    path: Path,
    token_map: TokenMap,
    um_first_pixel_yx: tuple[float, float],
    limit: float,
    model_sha256: str,
) -> None:
    """Write the layer, whole or not at all.

    Args:
        um_first_pixel_yx: centre of the level's first pixel in the micrometre frame of the store.
        limit: token value at full colour, for the display window.
    """
    levels = [token_map.raster()]
    while max(levels[-1].shape) > SMALLEST_TOKENS:
        levels.append(_halved_mean(levels[-1]))
    mpp = token_map.frame.mpp
    datasets = []
    for index in range(len(levels)):
        token_px = TOKEN_PX * 2**index
        scale = [token_px * mpp.y, token_px * mpp.x]
        shift = [
            um_first_pixel_yx[0] + (token_px - 1) / 2 * mpp.y,
            um_first_pixel_yx[1] + (token_px - 1) / 2 * mpp.x,
        ]
        transformations = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
        datasets.append({"path": str(index), "coordinateTransformations": transformations})
    lowest = -limit if token_map.signed else 0.0
    channel = {
        "label": token_map.what,
        "color": "DF5200",
        "active": True,
        "window": {"min": lowest, "max": limit, "start": lowest, "end": limit},
    }
    ome = {
        "version": "0.5",
        "multiscales": [
            {
                "name": token_map.image_id.rsplit("/", 1)[-1],
                "type": "mean",
                "axes": [{"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")],
                "datasets": datasets,
            }
        ],
        "omero": {"channels": [channel]},
    }
    about = {
        "semantics": token_map.what,
        "value": "per token; the finest level sums to the explained number minus its bias",
        "nan": "not evaluated (background)",
        "model_sha256": model_sha256,
        "intended_use": RESEARCH_USE_ONLY,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    group = zarr.open_group(part, mode="w", zarr_format=3, attributes={"ome": ome, "atlas_path": about})
    for index, values in enumerate(levels):
        array = group.create_array(
            str(index),
            shape=values.shape,
            dtype="float32",
            chunks=(min(CHUNK_TOKENS, values.shape[0]), min(CHUNK_TOKENS, values.shape[1])),
            fill_value=float("nan"),
            dimension_names=("y", "x"),
        )
        array[...] = values
    if path.exists():
        shutil.rmtree(path)
    os.replace(part, path)


def _halved_mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the evaluated tokens in each 2 x 2 block; odd sizes round up."""
    rows, cols = -(-values.shape[0] // 2), -(-values.shape[1] // 2)
    padding = ((0, rows * 2 - values.shape[0]), (0, cols * 2 - values.shape[1]))
    blocks = np.pad(values, padding, constant_values=np.nan).reshape(rows, 2, cols, 2)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3))
    total = np.where(known, blocks, 0.0).sum(axis=(1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
