"""`heatmap`: from stored attribution to files that people and other programs open.

Nothing is predicted here: the map is the one stored with the prediction (or, with another `method`, computed
from the same windows and the same model). All images of a scores folder share one colour scale, taken from
the evidence itself: 90 % of all absolute contribution lies below full colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atlas_path.errors import AtlasPathError, UsageError
from atlas_path.geometry import TOKEN_PX
from atlas_path.progress import progress
from atlas_path.results import ScoresInfo, read_predictions, read_scores_info, read_table, write_table
from atlas_path.store import open_store
from pipelines.attribution_store import AttributionInfo, attribution_path, read_info
from pipelines.explain import Explained, explained_output
from pipelines.exports.geojson import write_geojson
from pipelines.exports.ome_tiff import write_ome_tiff
from pipelines.exports.ome_zarr import write_ome_zarr
from pipelines.exports.overlay import Scale, write_overlay
from pipelines.exports.picture import picture_of
from pipelines.exports.windows import window_rows, write_contact_sheet, write_windows
from pipelines.heatmap_caption import caption_of
from pipelines.heatmap_maps import MapSource
from pipelines.heatmap_scale import cohort_scale
from pipelines.score_case import store_key
from pipelines.token_map import TokenMap
from pipelines.work import BatchResult, ImageRecord

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["png", "sheet", "csv", "geojson", "ome-zarr", "ome-tiff"]
FORMATS: tuple[Format, ...] = ("png", "sheet", "csv", "geojson", "ome-zarr", "ome-tiff")
Method = Literal["contribution", "attention", "ig", "occlusion"]
SUMMARY_COLUMNS = (
    "image_id", "case_id", "status", "reason", "class", "what", "unit", "limit", "sum", "overlay", "objects",
    "object_tokens", "object_share", "error",
)  # fmt: skip


class HeatmapOptions(BaseModel):
    """Options of `heatmap`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path | None = Field(default=None, description="where to write; default: <scores>/heatmaps")
    method: Method = "contribution"
    label: str | None = Field(
        default=None, description="class to explain; default: positive or predicted one"
    )
    formats: tuple[Format, ...] = FORMATS
    cases: tuple[str, ...] = Field(default=(), description="only these cases; default: all")
    stores: Path | None = Field(default=None, description="where the stores are, if they were moved")
    model: Path | None = Field(default=None, description="run folder, if it was moved (ig and occlusion)")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    limit: float | None = Field(
        default=None, gt=0, description="full colour, per mm2; default: from the cohort"
    )
    long_side_px: int = Field(default=1000, ge=200, description="longer side of a panel of the PNG")
    top_windows: int = Field(default=8, ge=1, description="windows of each kind on the contact sheet")
    cap: int = Field(default=5000, ge=1, description="most objects of a GeoJSON")
    longest_px: int = Field(default=12288, ge=256, description="longest side of the OME-TIFF")


@dataclass(frozen=True)
class Target:
    """One image to export."""

    info: AttributionInfo
    row: Mapping[str, Any]
    image: Mapping[str, Any]
    explained: Explained


def heatmap(scores: Path, options: HeatmapOptions) -> BatchResult:
    """Export the maps of every scored image.

    Writes, under `<scores>/heatmaps/`: `<image_id>.png`, a folder `<image_id>/` with the other formats, and
    `heatmaps.csv`. An image that cannot be exported becomes a row with its reason.

    Raises:
        UsageError: `scores` is not a scores folder, or there is nothing to export.
    """
    info = read_scores_info(scores)
    targets = find_targets(scores, info, options)
    out = options.out or scores / "heatmaps"
    source = MapSource(scores, info, options.method, options.model, options.stores, options.device)
    records: list[ImageRecord] = []
    summary: list[dict[str, Any]] = []
    usable = []
    for target in targets:
        try:
            source.prepare(target.info, target.explained)
            usable.append(target)
        except AtlasPathError as error:
            records.append(ImageRecord.failure(target.info.image_id, error, case_id=target.info.case_id))
    scale = cohort_scale(
        (source.read(t.info, t.explained) for t in usable), options.limit, options.long_side_px
    )
    with progress("heatmap", len(usable)) as advance:
        for target in usable:
            try:
                summary.append(_export(out, target, source, scale, options, info))
                record = ImageRecord(target.info.image_id, target.info.case_id, "done", "written")
            except AtlasPathError as error:
                record = ImageRecord.failure(target.info.image_id, error, case_id=target.info.case_id)
            records.append(record)
            advance(record.image_id if record.ok else f"{record.image_id}: {record.error}", 1)
    summary += [_failure_row(record) for record in records if not record.ok]
    write_table(summary, SUMMARY_COLUMNS, out / "heatmaps.csv")
    return BatchResult.of(records)


def find_targets(scores: Path, info: ScoresInfo, options: HeatmapOptions) -> list[Target]:
    """The images that have maps, with their case's row and what is to be explained.

    Raises:
        UsageError: none, or a class or case that does not exist.
    """
    rows = {str(row["case_id"]): row for row in _records(read_predictions(scores))}
    unknown = sorted(set(options.cases) - set(rows))
    if unknown:
        raise UsageError(f"--case {unknown[0]}", "is not in predictions.csv", "give ids of scored cases")
    targets = []
    for image in _records(read_table(scores / "images.csv")):
        if not image["has_map"] or (options.cases and image["case_id"] not in options.cases):
            continue
        attribution = read_info(attribution_path(scores, str(image["image_id"])))
        row = rows[str(image["case_id"])]
        explained = explained_output(
            info.task, len(attribution.bias), options.label, str(row.get("pred_label", ""))
        )
        targets.append(Target(attribution, row, image, explained))
    if not targets:
        raise UsageError(scores, "holds no maps", "score with maps, and with a local-evidence model")
    return targets


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _export(
    out: Path, target: Target, source: MapSource, scale: Scale, options: HeatmapOptions, info: ScoresInfo
) -> dict[str, Any]:
    """Write the formats asked for and return the image's row of `heatmaps.csv`."""
    token_map = source.read(target.info, target.explained)
    store = open_store(source.store_path(target.info))
    if store_key(store) != target.info.store_key:
        raise UsageError(
            store.path, "is not the store that was scored", "score again, or give --stores the right folder"
        )
    level = target.info.level
    image_id = target.info.image_id
    token_limit = scale.limit * _token_mm2(token_map)
    own = out / image_id
    caption = caption_of(target.row, target.image, info, target.explained, token_map)
    picture = picture_of(store, level, options.long_side_px)
    row: dict[str, Any] = {
        "image_id": image_id,
        "case_id": target.info.case_id,
        "status": "done",
        "class": target.explained.label,
        "what": token_map.what,
        "unit": scale.unit,
        "limit": scale.limit,
        "sum": float(token_map.value_NT.sum(dtype=np.float64)),
    }
    if "png" in options.formats:
        write_overlay(out / f"{image_id}.png", token_map, picture, scale, caption)
        row["overlay"] = f"{image_id}.png"
    if {"csv", "sheet"} & set(options.formats):
        rows = window_rows(token_map, source.attention(target.info), _tissue(store, level, token_map))
        if "csv" in options.formats:
            write_windows(own / "windows.csv", rows)
        if "sheet" in options.formats:
            write_contact_sheet(
                own / "windows.png", token_map, store, level, rows, caption, options.top_windows
            )
    if "geojson" in options.formats:
        written = write_geojson(
            own / "windows.geojson", token_map, token_limit, target.explained.label, options.cap
        )
        row |= {
            "objects": written.n_objects,
            "object_tokens": written.bin_tokens,
            "object_share": written.share,
        }
    if "ome-zarr" in options.formats:
        write_ome_zarr(
            own / "heatmap.ome.zarr",
            token_map,
            target.info.um_first_pixel_yx,
            token_limit,
            target.info.model_sha256,
        )
    if "ome-tiff" in options.formats:
        write_ome_tiff(
            own / "heatmap.ome.tiff", token_map, store, level, token_limit, picture.dark, options.longest_px
        )
    return row


def _tissue(store: Any, level: int, token_map: TokenMap) -> NDArray[np.float32]:
    fraction = store.tissue_fraction(level)
    return np.asarray(fraction[token_map.row_col_N2[:, 0], token_map.row_col_N2[:, 1]], np.float32)


def _token_mm2(token_map: TokenMap) -> float:
    mpp = token_map.frame.mpp
    return TOKEN_PX**2 * mpp.y * mpp.x / 1e6


def _failure_row(record: ImageRecord) -> dict[str, Any]:
    return {
        "image_id": record.image_id,
        "case_id": record.case_id,
        "status": record.status,
        "reason": record.reason,
        "error": record.error,
    }


__all__ = ["FORMATS", "HeatmapOptions", "heatmap"]
