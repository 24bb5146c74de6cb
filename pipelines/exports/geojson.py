"""Evidence as QuPath objects: a GeoJSON feature collection to drag onto the slide.

Schema as QuPath reads it: `objectType` tile, `id` a UUID, `measurements` an object of numbers, coordinates in
pixels of the full-resolution image as QuPath shows it (bounds offset subtracted). A viewer chokes on
hundreds of thousands of polygons, so tokens are binned into cells of 1, 2, 4, 8 or 16 tokens a side, the
finest at which at most `cap` cells hold `COVERAGE` of all evidence, and only these cells are written, without
those that are negligible on the cohort's scale.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atlas_path import RESEARCH_USE_ONLY
from atlas_path.geometry import TOKEN_PX, WINDOW_TOKENS
from atlas_path.results import commit_text
from pipelines.colours import AGAINST, FOR, NEGLIGIBLE
from pipelines.exports.overlay import binned
from pipelines.token_map import TokenMap

CAP = 5000
COVERAGE = 0.95
MOST_CELLS = 4_000_000
NAMESPACE = uuid.UUID("6f0f6c0a-7a0e-5d0c-9f0e-2b7c3f0a5c11")
GRADES = ((0.66, "strong"), (0.33, "moderate"), (0.0, "weak"))


@dataclass(frozen=True)
class GeoJsonSummary:
    """What was written: cells, tokens a side of a cell, share of all absolute evidence they hold."""

    n_objects: int
    bin_tokens: int
    share: float


def write_geojson(
    path: Path, token_map: TokenMap, limit: float, label: str, cap: int = CAP
) -> GeoJsonSummary:
    """Write the collection.

    Args:
        limit: mean token value at full colour; cells are graded weak, moderate and strong by thirds of it.
        label: the class that the evidence is for.
    """
    raster = token_map.raster()
    bin_tokens = 1
    while raster.size / bin_tokens**2 > MOST_CELLS and bin_tokens < WINDOW_TOKENS:
        bin_tokens *= 2  # sorting tens of millions of tokens to keep a few thousand would be in vain
    while True:
        mean = np.nan_to_num(binned(raster, bin_tokens))
        order = np.argsort(-np.abs(mean), axis=None, kind="stable")
        mass = np.cumsum(np.abs(mean).ravel()[order], dtype=np.float64)
        total = float(mass[-1])
        needed = int(np.searchsorted(mass, COVERAGE * total) + 1) if total > 0 else 0
        needed = min(needed, int((np.abs(mean) >= NEGLIGIBLE * limit).sum()))
        if needed <= cap or bin_tokens == WINDOW_TOKENS:
            break
        bin_tokens *= 2
    kept = order[: min(needed, cap)]
    features = [
        _feature(token_map, mean, int(index), rank, bin_tokens, limit, label, total)
        for rank, index in enumerate(kept, start=1)
    ]
    about = {"what": token_map.what, "intended_use": RESEARCH_USE_ONLY, "tokens_a_side": bin_tokens}
    collection = {"type": "FeatureCollection", "atlas_path": about, "features": features}
    commit_text(path, json.dumps(collection, allow_nan=False) + "\n")
    share = float(mass[len(kept) - 1] / total) if len(kept) else 0.0
    return GeoJsonSummary(len(features), bin_tokens, share)


def _feature(
    token_map: TokenMap,
    mean: Any,
    index: int,
    rank: int,
    bin_tokens: int,
    limit: float,
    label: str,
    total: float,
) -> dict[str, Any]:
    row, col = divmod(index, mean.shape[1])
    value = float(mean[row, col])
    cell_px = TOKEN_PX * bin_tokens
    frame = token_map.frame
    y0, x0 = frame.to_qupath_px(row * cell_px, col * cell_px)
    y1, x1 = frame.to_qupath_px(
        min((row + 1) * cell_px, frame.height_px), min((col + 1) * cell_px, frame.width_px)
    )
    x0, y0, x1, y1 = (round(float(v), 3) for v in (x0, y0, x1, y1))
    grade = next(name for least, name in GRADES if abs(value) >= least * limit)
    side = ("for" if value > 0 else "against") if token_map.signed else "diagnostic:"
    colour = [round(255 * float(c)) for c in (FOR if value > 0 else AGAINST)]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, f"{token_map.image_id}/{bin_tokens}/{row}/{col}")),
        "geometry": {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]},
        "properties": {
            "objectType": "tile",
            "classification": {"name": f"{grade} {side} {label}", "color": colour},
            "isLocked": True,
            "measurements": {
                "value": value * bin_tokens**2,
                "mean per token": value,
                "share of evidence": abs(value) / total if total else 0.0,
                "rank": rank,
            },
        },
    }
