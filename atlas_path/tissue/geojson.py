"""Tissue outlines as GeoJSON that QuPath opens and saves: level-0 pixels, (x, y), one feature a piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import contourpy
import numpy as np

from atlas_path.errors import UsageError
from atlas_path.geometry import Mpp
from atlas_path.tissue.mask import TissueMask

_REMEDY = "export polygons as GeoJSON from QuPath, in pixels of the full-resolution image"


def tissue_geojson(
    mask: np.ndarray, slide_height_px: int, slide_width_px: int, origin_px: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """A FeatureCollection of the outlines of `mask` (h, w), which covers the slide exactly.

    Coordinates are level-0 pixels from `origin_px` (y, x): (0, 0) is the full frame of the file; QuPath
    shows slides with bounds cropped, so give their upper left corner for it.
    """
    rows, cols = mask.shape
    scale_y, scale_x = slide_height_px / rows, slide_width_px / cols
    features = []
    for rings in _outlines(mask):
        pixels = [(ring + 0.5) * (scale_x, scale_y) - (origin_px[1], origin_px[0]) for ring in rings]
        coordinates = [np.round(ring, 2).tolist() for ring in pixels]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": coordinates},
                "properties": {
                    "objectType": "annotation",
                    "isLocked": False,
                    "classification": {"name": "Tissue", "color": [0, 170, 80]},
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def mask_from_geojson(
    source: Mapping[str, Any] | Sequence[Any] | Path,
    shape: tuple[int, int],
    slide_height_px: int,
    slide_width_px: int,
    mpp: Mpp,
    origin_px: tuple[int, int] = (0, 0),
) -> TissueMask:
    """The mask of an (edited) outline, `shape` (h, w) pixels for the whole slide of `mpp` at level 0.

    Polygons and multipolygons of all features count together; those of a class whose name starts with
    'ignore' or 'exclude' are taken out again. A mask pixel is tissue when its centre lies inside.

    Raises:
        UsageError: not GeoJSON, no polygon in it, or coordinates outside the slide.
    """
    subject = source if isinstance(source, Path) else Path("GeoJSON")
    kept, dropped = np.zeros(shape, bool), np.zeros(shape, bool)
    scale = np.array([shape[1] / slide_width_px, shape[0] / slide_height_px])
    origin = np.array([origin_px[1], origin_px[0]], float)
    n_polygons = 0
    for excluded, rings in _polygons(_load(source), subject):
        n_polygons += 1
        inside = _even_odd([(ring + origin) * scale for ring in rings], shape)
        target = dropped if excluded else kept
        target |= inside
    if not n_polygons:
        raise UsageError(subject, "holds no polygon", _REMEDY)
    if not kept.any():
        raise UsageError(subject, "has no polygon on this slide", _REMEDY)
    mask_mpp = mpp.scaled(slide_height_px / shape[0], slide_width_px / shape[1])
    return TissueMask(kept & ~dropped, mask_mpp, ("edited",))


def _outlines(mask: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Outer ring and holes, (n, 2) of (x, y) in pixel-centre coordinates, of each connected piece."""
    padded = np.pad(mask.astype(np.float32), 1)
    filled = contourpy.contour_generator(
        z=padded, name="threaded", thread_count=1, fill_type=contourpy.FillType.OuterOffset
    ).filled(0.5, np.inf)  # "threaded" lets other threads of Python go on meanwhile
    for points, offsets in zip(*filled, strict=True):
        rings = [points[a:b] - 1.0 for a, b in pairwise(offsets)]
        yield [_straightened(ring) for ring in rings]


def _straightened(ring: np.ndarray) -> np.ndarray:
    """The closed ring without points on straight stretches."""
    points = ring[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    corner = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    kept = points[corner] if corner.sum() >= 3 else points
    return np.concatenate([kept, kept[:1]])


def _load(source: Mapping[str, Any] | Sequence[Any] | Path) -> Any:
    if not isinstance(source, Path):
        return source
    try:
        return json.loads(source.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(source, "is not readable GeoJSON", _REMEDY) from error


def _polygons(document: Any, subject: Path) -> Iterator[tuple[bool, list[np.ndarray]]]:
    """(excluded, rings) of every polygon in a collection, list, feature or bare geometry."""
    if isinstance(document, Mapping) and document.get("type") == "FeatureCollection":
        document = document.get("features", [])
    for feature in document if isinstance(document, list) else [document]:
        if not isinstance(feature, Mapping):
            raise UsageError(subject, "is not GeoJSON", _REMEDY)
        geometry = feature.get("geometry") if feature.get("type") == "Feature" else feature
        properties = feature.get("properties") or {}
        name = str((properties.get("classification") or {}).get("name", "")).lower()
        excluded = name.startswith(("ignore", "exclude"))
        if not isinstance(geometry, Mapping):
            continue
        kind, coordinates = geometry.get("type"), geometry.get("coordinates") or []
        if kind not in ("Polygon", "MultiPolygon"):
            continue
        for polygon in [coordinates] if kind == "Polygon" else coordinates:
            try:
                rings = [np.asarray(ring, float)[:, :2] for ring in polygon]
            except (TypeError, ValueError, IndexError) as error:
                raise UsageError(subject, "has a polygon with broken coordinates", _REMEDY) from error
            yield excluded, [ring for ring in rings if len(ring) >= 3]


def _even_odd(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside an odd number of rings (mask coordinates); all edges at once.

    Every edge toggles, in each row of pixel centres that it crosses, all pixels to the right of the crossing.
    """
    height, width = shape
    toggles = np.zeros((height, width + 1), np.int64)
    for ring in rings:
        start, stop = ring, np.roll(ring, -1, axis=0)
        (x0, y0), (x1, y1) = start.T, stop.T
        first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
        last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
        counts = last - first
        edge = np.repeat(np.arange(len(ring)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        x = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        np.add.at(toggles, (row, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)), 1)
    return np.asarray(np.cumsum(toggles, axis=1)[:, :width] % 2 == 1)
