"""All files of one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas_path.errors import UsageError
from atlas_path.geometry import TOKEN_PX
from atlas_path.results import ScoresInfo
from atlas_path.store import Store, open_store
from pipelines.attribution_store import AttributionInfo
from pipelines.explain import Explained
from pipelines.exports.geojson import write_geojson
from pipelines.exports.ome_tiff import write_ome_tiff
from pipelines.exports.ome_zarr import write_ome_zarr
from pipelines.exports.overlay import Scale, write_overlay
from pipelines.exports.picture import picture_of
from pipelines.exports.windows import window_rows, write_contact_sheet, write_windows
from pipelines.faithfulness import Faithfulness
from pipelines.heatmap_caption import caption_of
from pipelines.heatmap_maps import MapSource
from pipelines.heatmap_options import HeatmapOptions
from pipelines.score_maps import store_key
from pipelines.token_map import TokenMap


@dataclass(frozen=True)
class Target:
    """One image to export: its stored maps, its rows in the tables, and what is to be explained."""

    info: AttributionInfo
    row: Mapping[str, Any]
    image: Mapping[str, Any]
    explained: Explained


def export_image(
    out: Path,
    target: Target,
    source: MapSource,
    scale: Scale,
    options: HeatmapOptions,
    scores: ScoresInfo,
    check: Faithfulness | None,
) -> dict[str, Any]:
    """Write the formats asked for and return the image's row of `heatmaps.csv`.

    Raises:
        UsageError: the store is missing, or is not the one that was scored.
    """
    info, explained = target.info, target.explained
    token_map = source.read(info, explained)
    store = open_store(source.store_path(info))
    if store_key(store) != info.store_key:
        raise UsageError(
            store.path, "is not the store that was scored", "score again, or give --stores the right folder"
        )
    token_limit = scale.limit * _token_mm2(token_map)
    own = out / info.image_id
    caption = caption_of(target.row, target.image, scores, info, explained, token_map, check)
    facts = store.meta.facts
    if facts.get("view"):
        caption = replace(
            caption, title=f"{caption.title}   {facts.get('laterality') or '?'} {facts['view']}"
        )
    picture = picture_of(store, info.level, options.long_side_px)
    row: dict[str, Any] = {
        "image_id": info.image_id,
        "case_id": info.case_id,
        "status": "done",
        "class": explained.label,
        "what": token_map.what,
        "unit": scale.unit,
        "limit": scale.limit,
        "sum": float(token_map.value_NT.sum(dtype=np.float64)),
    }
    if "png" in options.formats:
        write_overlay(out / f"{info.image_id}.png", token_map, picture, scale, caption)
        row["overlay"] = f"{info.image_id}.png"
    if {"csv", "sheet"} & set(options.formats):
        rows = window_rows(token_map, source.attention(info), _tissue(store, info.level, token_map))
        if "csv" in options.formats:
            write_windows(own / "windows.csv", rows)
        if "sheet" in options.formats:
            sheet = own / "windows.png"
            write_contact_sheet(sheet, token_map, store, info.level, rows, caption, options.top_windows)
    if "geojson" in options.formats:
        written = write_geojson(own / "windows.geojson", token_map, token_limit, explained.label, options.cap)
        row |= {"objects": written.n_objects, "object_tokens": written.bin_tokens}
        row["object_share"] = written.share
    if "ome-zarr" in options.formats:
        layer = own / "heatmap.ome.zarr"
        write_ome_zarr(layer, token_map, info.um_first_pixel_yx, token_limit, info.model_sha256)
    if "ome-tiff" in options.formats:
        tiff = own / "heatmap.ome.tiff"
        write_ome_tiff(tiff, token_map, store, info.level, token_limit, picture.dark, options.longest_px)
    return row


def _tissue(store: Store, level: int, token_map: TokenMap) -> NDArray[np.float32]:
    fraction = store.tissue_fraction(level)
    return np.asarray(fraction[token_map.row_col_N2[:, 0], token_map.row_col_N2[:, 1]], np.float32)


def _token_mm2(token_map: TokenMap) -> float:
    mpp = token_map.frame.mpp
    return TOKEN_PX**2 * mpp.y * mpp.x / 1e6
