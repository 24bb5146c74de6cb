"""Every exported file is opened by the program it is for, or by the library behind it."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
import zarr
from PIL import Image

from atlas_path.store import PreprocessOptions, open_store
from pipelines.attribution_store import attribution_path, read_attribution
from pipelines.exports.geojson import write_geojson
from pipelines.exports.ome_tiff import write_ome_tiff
from pipelines.exports.overlay import read_layout
from pipelines.heatmap import HeatmapOptions, heatmap
from pipelines.preprocess import preprocess
from pipelines.score_maps import frame_of
from pipelines.token_map import LevelFrame, TokenMap

Paint = Callable[[Path, int, int], Path]
QUPATH_TYPES = {"tile", "cell", "detection", "annotation", "tmaCore", "root"}


@pytest.fixture(scope="module")
def exported(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats of all images of a scores folder."""
    out = tmp_path_factory.mktemp("heatmaps")
    result = heatmap(scored, HeatmapOptions(out=out, faithfulness_seconds=0, device="cpu"))
    assert result.exit_code == 0
    return out


def test_every_format_is_there(exported: Path) -> None:
    for image_id in ("a", "b", "sub/c"):
        assert (exported / f"{image_id}.png").is_file()
        names = {p.name for p in (exported / image_id).iterdir()}
        assert names == {
            "windows.csv", "windows.png", "windows.geojson", "heatmap.ome.zarr", "heatmap.ome.tiff"
        }  # fmt: skip
    assert not list(exported.rglob("*.part"))


def test_ome_tiff_in_tifffile_and_openslide(exported: Path) -> None:
    path = exported / "a/heatmap.ome.tiff"
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        colour, values = tiff.series
        assert colour.axes == "YXS"
        assert colour.dtype == np.uint8
        assert values.dtype == np.float32
        assert colour.shape == (700, 1100, 3)
        assert tiff.pages[0].is_tiled
        first = colour.asarray()
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (1100, 700)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(1.0, rel=1e-3)
        theirs = np.asarray(slide.read_region((100, 60), 0, (300, 200)).convert("RGB"))
    assert np.abs(theirs.astype(int) - first[60:260, 100:400].astype(int)).max() < 12


def test_ome_tiff_is_a_pyramid(tmp_path: Path, paint: Paint) -> None:
    """Levels are those of the store from the model's level on; edges that fill no tile are right."""
    slide = paint(tmp_path / "big.tif", 2300, 1490)
    assert preprocess([slide], tmp_path / "stores", PreprocessOptions(mpp=1.0, workers=0)).exit_code == 0
    store = open_store(tmp_path / "stores/big.ome.zarr")
    row_col = store.kept_windows(0)
    values = np.zeros((len(row_col), 256), np.float32)
    values[-1] = 1.0
    token_map = TokenMap("big", frame_of(store, 0), row_col, values, "x")
    write_ome_tiff(tmp_path / "h.ome.tiff", token_map, store, 0, 1.0, False)
    with tifffile.TiffFile(tmp_path / "h.ome.tiff") as tiff:
        colour = tiff.series[0]
        assert [level.shape for level in colour.levels] == [(2300, 1490, 3), (1150, 745, 3), (575, 373, 3)]
        fine, coarse = colour.asarray().astype(int), colour.levels[1].asarray().astype(int)
        half = fine[:, :1490].reshape(1150, 2, 745, 2, 3).mean(axis=(1, 3))
        assert np.abs(half - coarse).mean() < 6, "levels show the same picture"
    with openslide.OpenSlide(tmp_path / "h.ome.tiff") as slide_again:
        assert slide_again.dimensions == (1490, 2300)
    write_ome_tiff(tmp_path / "s.ome.tiff", token_map, store, 0, 1.0, False, longest_px=1200)
    with tifffile.TiffFile(tmp_path / "s.ome.tiff") as tiff:
        assert tiff.series[0].shape == (1150, 745, 3)
        assert tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"][0]["Pixels"]["PhysicalSizeX"] == 2.0


def test_ome_zarr_in_ome_zarr_models_and_ome_zarr_py(exported: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr_models.v05.image import Image as OmeImage

    path = exported / "a/heatmap.ome.zarr"
    model = OmeImage.from_zarr(zarr.open_group(path, mode="r"))
    multiscale = model.attributes.ome.multiscales[0]
    assert [axis.unit for axis in multiscale.axes] == ["micrometer", "micrometer"]
    nodes = list(Reader(parse_url(str(path)))())
    assert len(nodes) == 1
    arrays = nodes[0].data
    assert len(arrays) == len(multiscale.datasets)
    assert tuple(arrays[0].shape) == (44, 69)
    scale = nodes[0].metadata["coordinateTransformations"][0][0]["scale"]
    assert scale == pytest.approx([16.0, 16.0], rel=1e-6)


def test_ome_zarr_holds_the_stored_values(exported: Path, scored: Path) -> None:
    stored = read_attribution(attribution_path(scored, "a"))
    values = zarr.open_group(exported / "a/heatmap.ome.zarr", mode="r")["0"][:]
    assert np.nansum(values, dtype=np.float64) == pytest.approx(stored.contribution_NTO.sum(), abs=1e-5)
    assert np.isnan(values).any(), "glass was not evaluated"


def test_geojson_is_what_qupath_reads(exported: Path) -> None:
    document = json.loads((exported / "a/windows.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    seen = set()
    for feature in document["features"]:
        assert feature["type"] == "Feature"
        seen.add(uuid.UUID(feature["id"]))
        ring = feature["geometry"]["coordinates"][0]
        assert feature["geometry"]["type"] == "Polygon"
        assert ring[0] == ring[-1]
        assert len(ring) == 5
        assert all(0 <= x <= 1100 and 0 <= y <= 700 for x, y in ring)
        properties = feature["properties"]
        assert properties["objectType"] in QUPATH_TYPES
        assert isinstance(properties["measurements"], dict)
        assert all(math.isfinite(v) for v in properties["measurements"].values())
        assert all(isinstance(v, int) and 0 <= v <= 255 for v in properties["classification"]["color"])
    assert len(seen) == len(document["features"]) > 0


def test_geojson_is_capped_by_growing_cells(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    row_col = np.argwhere(np.ones((6, 5), bool)).astype(np.int64)
    values = rng.normal(size=(30, 256)).astype(np.float32)
    frame = LevelFrame.from_dict(LevelFrame(6 * 256, 5 * 256, _mpp(1.0)).as_dict())
    token_map = TokenMap("x", frame, row_col, values)
    for cap in (100_000, 2000, 100, 7):
        summary = write_geojson(tmp_path / "x.geojson", token_map, 1.0, "c", cap)
        assert summary.n_objects <= cap
        assert summary.bin_tokens == {100_000: 1, 2000: 2, 100: 8, 7: 16}[cap]
    whole = write_geojson(tmp_path / "x.geojson", token_map, 1.0, "c", 100_000)
    assert whole.share >= 0.949


def test_png_says_what_it_is(exported: Path) -> None:
    with Image.open(exported / "a.png") as figure:
        assert "Research use only" in figure.info["Disclaimer"]
        width, height = figure.size
    layouts = [read_layout(exported / f"{name}.png") for name in ("a", "b", "sub/c")]
    assert len({layout["limit"] for layout in layouts}) == 1, "one scale for the cohort"
    left, top, panel_width, panel_height = layouts[0]["map_panel_xywh"]
    assert left + panel_width <= width
    assert top + panel_height <= height


def test_table_of_windows(exported: Path) -> None:
    table = pd.read_csv(exported / "a/windows.csv")
    assert list(table["rank"]) == list(range(1, len(table) + 1))
    assert (np.diff(table["value"]) <= 0).all()
    assert table["share"].sum() == pytest.approx(1.0)
    assert (table["tissue_fraction"] > 0).all()


def _mpp(value: float):
    from atlas_path.geometry import Mpp

    return Mpp(value, value)
