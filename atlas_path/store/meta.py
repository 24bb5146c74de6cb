"""What a store says of itself: `attributes.atlas_path` of its group, and the OME-Zarr 0.5 block beside it.

Never here: patient name, accession number, dates of the examination, label or macro image.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from atlas_path.geometry import Mpp

STORE_FORMAT = "atlas-path-store/1"
OME_VERSION = "0.5"

Codec = Literal["lz4", "zstd", "jpeg"]
Origin = Literal["decoded", "copied", "reduced", "virtual"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MppRecord(_Record):
    """Micrometres per pixel along y and x."""

    y: float
    x: float

    @classmethod
    def of(cls, mpp: Mpp) -> MppRecord:
        """From the geometry type."""
        return cls(y=mpp.y, x=mpp.x)

    @property
    def value(self) -> Mpp:
        """As the geometry type."""
        return Mpp(self.y, self.x)


class SourceRecord(_Record):
    """The slide file that the store was made from."""

    name: str
    fingerprint: dict[str, Any]
    reader: str
    reader_version: str
    vendor: str | None
    compression: str | None
    kind: Literal["rgb", "mono", "multichannel"]
    height_px: int
    width_px: int
    n_levels: int
    mpp: MppRecord | None
    mpp_source: str | None
    bounds_px: tuple[int, int, int, int] | None
    has_icc_profile: bool
    notes: tuple[str, ...] = ()


class LevelRecord(_Record):
    """One level of the 2x pyramid.

    `origin`: 'decoded' from the slide, 'copied' (the scanner's own JPEG tiles), 'reduced' from the level
    below, or 'virtual': not stored, answered on reading from the next finer level (compact stores).
    """

    height_px: int
    width_px: int
    origin: Origin
    path: str | None


class BaseRecord(_Record):
    """How level 0 of the store relates to level 0 of the slide."""

    source_level: int
    how: Literal["native", "scaled", "resampled"]
    downsample_y: float
    downsample_x: float


class TissueRecord(_Record):
    """How tissue was found and how much there is."""

    method: Literal["auto", "none", "outline"]
    mpp: MppRecord
    area_mm2: float
    flags: tuple[str, ...]


class CountRecord(_Record):
    """Windows of level 0: stored, empty (background, not stored) and bad (some pixels unreadable)."""

    windows: int
    stored: int
    empty: int
    bad: int
    bad_px: int


class StoreMeta(_Record):
    """Everything a later stage needs to know of a store."""

    format: str = STORE_FORMAT
    image_id: str
    atlas_path_version: str
    source: SourceRecord
    mpp: MppRecord
    mpp_requested: float | Literal["native"]
    base: BaseRecord
    codec: Codec
    dtype: str
    background: int | float
    channel_names: tuple[str, ...]
    levels: tuple[LevelRecord, ...]
    tissue: TissueRecord
    counts: CountRecord
    parameters: dict[str, Any]
    parameters_sha256: str
    facts: dict[str, Any] = {}
    """What the slide itself wants kept, by its allow-list (`KeepsAttributes`: view, side, VOI items)."""


def multiscales(name: str, axes: str, paths: list[tuple[str, Mpp]], base: Mpp) -> dict[str, Any]:
    """The OME-Zarr 0.5 `multiscales` entry of arrays with the axes 'cyx' or 'yx'.

    `paths` are (path, mpp) pairs, finest first. Coordinates are those of pixel centres, with the centre of
    the first pixel of the image's level 0 (whose mpp is `base`) at the origin: so the centre of a coarser
    level's first pixel lies at half the difference of the pixel sizes.
    """
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    channel = [{"name": "c", "type": "channel"}] if axes == "cyx" else []
    lead_scale, lead_shift = ([1.0], [0.0]) if channel else ([], [])
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [*lead_scale, mpp.y, mpp.x]},
                {
                    "type": "translation",
                    "translation": [*lead_shift, (mpp.y - base.y) / 2, (mpp.x - base.x) / 2],
                },
            ],
        }
        for path, mpp in paths
    ]
    return {"name": name, "axes": [*channel, *space], "datasets": datasets}


def group_json(attributes: dict[str, Any]) -> dict[str, Any]:
    """The `zarr.json` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def omero_block(
    channel_names: tuple[str, ...], dtype: str, ranges: list[tuple[float, float]]
) -> dict[str, Any]:
    """Display settings: red, green and blue for colour slides, else one hue a channel over its own range."""
    if channel_names == ("red", "green", "blue"):
        colours = ["FF0000", "00FF00", "0000FF"]
    elif len(channel_names) == 1:
        colours = ["FFFFFF"]
    else:
        hues = ["0000FF", "00FF00", "FF0000", "FFFF00", "FF00FF", "00FFFF", "FF8000", "FFFFFF"]
        colours = [hues[i % len(hues)] for i in range(len(channel_names))]
    kind = np.dtype(dtype)
    low, high = (0.0, 1.0) if kind.kind == "f" else (0.0, float(np.iinfo(kind).max))
    channels = [
        {
            "label": name,
            "color": colour,
            "active": i < 8,
            "window": {"min": low, "max": high, "start": float(start), "end": float(end)},
        }
        for i, (name, colour, (start, end)) in enumerate(zip(channel_names, colours, ranges, strict=True))
    ]
    return {"channels": channels, "rdefs": {"model": "color"}}
