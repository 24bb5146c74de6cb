"""Where the lesions are: boxes, circles and polygons in slide pixels, drawn on a raster in micrometres."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas_path.cohort.table import ALIASES, stem_of
from atlas_path.errors import UsageError
from atlas_path.stats.froc import LesionMask, lesion_mask
from pipelines.evaluate_inputs import read_text_table, rename_columns
from pipelines.evaluate_outcomes import numbers

Points = NDArray[np.float64]
"""(n, 2) vertices (x, y) in level-0 pixels of the slide."""

CIRCLE_VERTICES = 48
MASK_UM = 8.0  # close to CAMELYON's level 5: 7.8 um a pixel
LARGEST_MASK_PX = 4096
GEOMETRY = {
    "x": ("x_px",), "y": ("y_px",), "radius": ("radius_px", "r"), "width": ("width_px", "w"),
    "height": ("height_px", "h"),
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """Lesion outlines of every image that has some, by image id as written."""

    outlines: dict[str, list[Points]]
    source: Path
    from_qupath: bool = False
    """GeoJSON counts from the scanned area (QuPath's frame), CSV from the corner of level 0."""

    def of(self, image_id: str) -> list[Points]:
        """Outlines of an image; its id may be written with or without the folder."""
        found = self.outlines.get(image_id)
        return found if found is not None else self.outlines.get(image_id.rsplit("/", 1)[-1], [])

    def unused(self, image_ids: Iterable[str]) -> list[str]:
        """Images of the truth that were not among these."""
        ids = set(image_ids)
        known = ids | {name.rsplit("/", 1)[-1] for name in ids}
        return sorted(set(self.outlines) - known)


def read_truth(path: Path) -> Truth:
    """Read a CSV of boxes (x, y, width, height: top-left) or circles (x, y, radius), or a folder of GeoJSON.

    Rows of a CSV whose column `malignant` says 0 are not lesions to be found.

    Raises:
        UsageError: no such file, unknown columns, or a number that is none.
    """
    if path.is_dir():
        files = sorted(path.glob("*.geojson"))
        if not files:
            raise UsageError(path, "holds no .geojson files", "name them <image_id>.geojson")
        return Truth({file.stem: geojson_outlines(file) for file in files}, path, from_qupath=True)
    if path.suffix.lower() in (".geojson", ".json"):
        return Truth({path.stem: geojson_outlines(path)}, path, from_qupath=True)
    if not path.is_file():
        raise UsageError(path, "no such file", "give a CSV of lesions or a folder of GeoJSON files")
    table = rename_columns(read_text_table(path), {**ALIASES, **GEOMETRY})
    if "image_id" not in table.columns and "path" in table.columns:
        table["image_id"] = [stem_of(cell) for cell in table["path"]]
    box = {"x", "y", "width", "height"} <= set(table.columns)
    if "image_id" not in table.columns or not (box or {"x", "y", "radius"} <= set(table.columns)):
        raise UsageError(
            path,
            f"columns are {', '.join(table.columns)}",
            "give image_id and x,y,width,height or x,y,radius",
        )
    geometry = {c: numbers(table[c]) for c in ("x", "y", *(("width", "height") if box else ("radius",)))}
    bad = ~np.all([np.isfinite(values) for values in geometry.values()], axis=0)
    if bad.any():
        raise UsageError(
            path, f"row {int(np.flatnonzero(bad)[0]) + 2} has no usable geometry", "write plain numbers"
        )
    outlines: dict[str, list[Points]] = {}
    benign = table["malignant"].isin(["0", "0.0", "False"]) if "malignant" in table.columns else None
    for k, image_id in enumerate(table["image_id"]):
        if benign is not None and benign[k]:
            continue
        values = {name: float(column[k]) for name, column in geometry.items()}
        outlines.setdefault(str(image_id), []).append(_rectangle(values) if box else _circle(values))
    return Truth(outlines, path)


def _rectangle(v: dict[str, float]) -> Points:
    x0, y0, x1, y1 = v["x"], v["y"], v["x"] + v["width"], v["y"] + v["height"]
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _circle(v: dict[str, float]) -> Points:
    angle = np.linspace(0, 2 * math.pi, CIRCLE_VERTICES, endpoint=False)
    return np.stack([v["x"] + v["radius"] * np.cos(angle), v["y"] + v["radius"] * np.sin(angle)], 1)


def geojson_outlines(path: Path) -> list[Points]:
    """Outer rings of the polygons of a GeoJSON file.

    Raises:
        UsageError: not GeoJSON.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        features = document["features"] if isinstance(document, dict) else document
        geometries = [feature["geometry"] for feature in features]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            path, f"is not GeoJSON ({type(error).__name__})", "export annotations as a FeatureCollection"
        ) from error
    rings: list[Points] = []
    for geometry in geometries:
        kind, coordinates = geometry.get("type"), geometry.get("coordinates")
        polygons: Sequence[Any] = (
            coordinates if kind == "MultiPolygon" else [coordinates] if kind == "Polygon" else []
        )
        rings += [np.asarray(polygon[0], dtype=np.float64)[:, :2] for polygon in polygons]
    return rings


@dataclass(frozen=True)
class Raster:
    """A raster in micrometres over a slide: `x_um = (x_slide - x0) * um_per_slide_px_x`, pixel = um / mpp."""

    height: int
    width: int
    mpp: float
    x0: float
    y0: float
    um_x: float
    um_y: float

    @classmethod
    def over(
        cls, x0: float, y0: float, width_px: float, height_px: float, um_x: float, um_y: float
    ) -> Raster:
        """Cover an area given in slide pixels, at 8 um a pixel or coarser where that is too large."""
        longest = max(width_px * um_x, height_px * um_y)
        mpp = max(MASK_UM, um_x, um_y, longest / LARGEST_MASK_PX)
        height, width = (max(1, math.ceil(size / mpp)) for size in (height_px * um_y, width_px * um_x))
        return cls(height, width, mpp, x0, y0, um_x, um_y)

    def to_px(self, x_slide: Any, y_slide: Any) -> tuple[Any, Any]:
        """Slide pixels to raster pixels (x, y)."""
        return (x_slide - self.x0) * self.um_x / self.mpp, (y_slide - self.y0) * self.um_y / self.mpp

    def lesions(self, outlines: Sequence[Points]) -> LesionMask:
        """The outlines as CAMELYON16 judges them: widened, holes filled, small ones marked."""
        from PIL import Image, ImageDraw

        canvas = Image.new("1", (self.width, self.height))
        pen = ImageDraw.Draw(canvas)
        for outline in outlines:
            x, y = self.to_px(outline[:, 0], outline[:, 1])
            pen.polygon([(float(a), float(b)) for a, b in zip(x, y, strict=True)], fill=1, outline=1)
        return lesion_mask(np.asarray(canvas), self.mpp)
