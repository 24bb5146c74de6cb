"""Options of `heatmap`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Format = Literal["png", "sheet", "csv", "geojson", "ome-zarr", "ome-tiff"]
FORMATS: tuple[Format, ...] = ("png", "sheet", "csv", "geojson", "ome-zarr", "ome-tiff")
Method = Literal["contribution", "attention", "ig", "occlusion"]


class HeatmapOptions(BaseModel):
    """What to export, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path | None = Field(default=None, description="where to write; default: <scores>/heatmaps")
    method: Method = "contribution"
    label: str | None = Field(
        default=None, description="class to explain; default: positive or predicted one"
    )
    formats: tuple[Format, ...] = FORMATS
    cases: tuple[str, ...] = Field(default=(), description="only these cases; default: all")
    stores: Path | None = Field(default=None, description="where the stores are, if they were moved")
    model: Path | None = Field(default=None, description="run folder, if it was moved")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    limit: float | None = Field(
        default=None, gt=0, description="full colour, per mm2; default: from the cohort"
    )
    long_side_px: int = Field(default=1000, ge=200, description="longer side of a panel of the PNG")
    top_windows: int = Field(default=8, ge=1, description="windows of each kind on the contact sheet")
    cap: int = Field(default=5000, ge=1, description="most objects of a GeoJSON")
    longest_px: int = Field(default=12288, ge=256, description="longest side of the OME-TIFF")
    faithfulness_seconds: float = Field(
        default=20.0, ge=0, description="time for the deletion and insertion test of a case; 0: no test"
    )
    truth: Path | None = Field(default=None, description="lesions: CSV, GeoJSON, or a folder of GeoJSON")
