"""Alignment: a mark at known micrometres on the slide is found there in every export, within half a token.

The map of these tests is a detector of blue: each token's value is the share of blue in its pixels, read from
the store as the model reads it. So the whole chain is under test: slide, store, windows, tokens, files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from atlas_path.geometry import TOKEN_PX, WINDOW_TOKENS
from atlas_path.slides.tiff import TiffSlide
from atlas_path.store import PreprocessOptions, Store, open_store
from pipelines.colours import FOR
from pipelines.exports.geojson import write_geojson
from pipelines.exports.ome_tiff import write_ome_tiff
from pipelines.exports.ome_zarr import write_ome_zarr
from pipelines.exports.overlay import Caption, Scale, read_layout, write_overlay
from pipelines.exports.picture import picture_of
from pipelines.exports.windows import window_rows, write_contact_sheet, write_windows
from pipelines.preprocess import preprocess
from pipelines.score_maps import first_pixel_um, frame_of
from pipelines.token_map import TokenMap

BLUE = (20, 30, 235)
WITHIN_TOKENS = 0.25
"""Half of what is promised: a shift by half a token anywhere in the chain would show."""


@dataclass(frozen=True)
class Slide:
    """A slide to make: level-0 size, pixel sizes, the mark's centre and side in micrometres, the store."""

    name: str
    height_px: int
    width_px: int
    mpp_yx: tuple[float, float]
    mark_um_yx: tuple[float, float]
    store_mpp: float | str
    model_mpp: float
    bounds_px: tuple[int, int, int, int] | None = None

    @property
    def token_um(self) -> tuple[float, float]:
        ratio = self.model_mpp / float(np.sqrt(self.mpp_yx[0] * self.mpp_yx[1]))
        return TOKEN_PX * self.mpp_yx[0] * ratio, TOKEN_PX * self.mpp_yx[1] * ratio


SLIDES = [
    Slide("plain", 700, 900, (1.0, 1.0), (341.0, 563.0), 1.0, 1.0),
    Slide("forty", 2400, 3000, (0.25, 0.25), (395.0, 137.0), 1.0, 1.0),
    Slide("odd_level", 1203, 1777, (0.5, 0.5), (181.0, 613.0), 0.5, 1.0),
    Slide("anisotropic", 900, 700, (0.8, 1.25), (233.0, 471.0), "native", 1.0),
    Slide("resampled", 1500, 1300, (0.62, 0.62), (633.0, 411.0), 1.0, 1.0),
    Slide("bounds", 1400, 1600, (1.0, 1.0), (705.0, 1123.0), 1.0, 1.0, (297, 411, 900, 1000)),
]


@dataclass(frozen=True)
class Made:
    """A store with its map."""

    slide: Slide
    store: Store
    level: int
    token_map: TokenMap

    def off_by_tokens(self, y_um: float, x_um: float) -> float:
        """Distance from the mark, in tokens, along the worse axis."""
        dy = abs(y_um - self.slide.mark_um_yx[0]) / self.slide.token_um[0]
        dx = abs(x_um - self.slide.mark_um_yx[1]) / self.slide.token_um[1]
        return max(dy, dx)


@pytest.fixture(scope="module", params=SLIDES, ids=lambda s: s.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    slide: Slide = request.param
    folder = tmp_path_factory.mktemp(slide.name)
    path = _write(folder / f"{slide.name}.tif", slide)
    with pytest.MonkeyPatch.context() as patch:
        if slide.bounds_px:  # as OpenSlide reports for MRXS: the scanned area inside a larger frame
            honest = TiffSlide.__init__

            def with_bounds(self, *args, **kwargs):
                honest(self, *args, **kwargs)
                self.bounds_px = slide.bounds_px

            patch.setattr(TiffSlide, "__init__", with_bounds)
            patch.setattr("atlas_path.slides.registry._open", lambda p, _mammo=None: TiffSlide(p))
        options = PreprocessOptions(mpp=slide.store_mpp, workers=0, tissue="none")
        result = preprocess([path], folder / "stores", options)
    assert result.exit_code == 0, result.records
    store = open_store(folder / "stores" / f"{slide.name}.ome.zarr")
    level = store.level_for(slide.model_mpp)
    return Made(slide, store, level, _blue_map(store, level))


def _write(path: Path, slide: Slide) -> Path:
    rng = np.random.default_rng(1)
    image = np.empty((slide.height_px, slide.width_px, 3), np.uint8)
    image[...] = np.array([205, 140, 180])
    image += rng.integers(0, 12, (*image.shape[:2], 1), np.uint8)
    side_px = [2 * um / mpp for um, mpp in zip(slide.token_um, slide.mpp_yx, strict=True)]
    centre = [um / mpp for um, mpp in zip(slide.mark_um_yx, slide.mpp_yx, strict=True)]
    y0, x0 = (round(c - s / 2) for c, s in zip(centre, side_px, strict=True))
    y1, x1 = (round(c + s / 2) for c, s in zip(centre, side_px, strict=True))
    image[y0:y1, x0:x1] = BLUE
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric="rgb", compression="deflate",
        resolution=(1e4 / slide.mpp_yx[1], 1e4 / slide.mpp_yx[0]), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    return path


def _blue_map(store: Store, level: int) -> TokenMap:
    grid = store.grid(level)
    row_col = np.argwhere(np.ones(grid.shape, bool)).astype(np.int64)
    pixels = store.read_windows(level, row_col).astype(np.float32)
    blue = np.clip((pixels[:, 2] - pixels[:, 0]) / 255, 0, 1)
    n = len(row_col)
    tokens = blue.reshape(n, WINDOW_TOKENS, TOKEN_PX, WINDOW_TOKENS, TOKEN_PX).mean(axis=(2, 4))
    values = np.where(tokens < 0.01, 0, tokens).reshape(n, -1).astype(np.float32)
    return TokenMap(store.image_id, frame_of(store, level), row_col, values, "blue")


def _centroid(weight: np.ndarray) -> tuple[float, float]:
    """(y, x) of the weighted centre, pixels counted from the outer edge."""
    y, x = np.mgrid[0 : weight.shape[0], 0 : weight.shape[1]]
    total = weight.sum()
    return float(((y + 0.5) * weight).sum() / total), float(((x + 0.5) * weight).sum() / total)


def _orange(picture: np.ndarray) -> np.ndarray:
    """How much of the colour of positive evidence each pixel holds: red minus blue, where that is much."""
    rgb = picture[..., :3].astype(np.float32)
    strength = (rgb[..., 0] - rgb[..., 2]) / (255 * (FOR[0] - FOR[2]))
    return np.where(strength > 0.15, strength, 0.0)


def test_token_raster(made: Made) -> None:
    y, x = _centroid(np.nan_to_num(made.token_map.raster()))
    y0, x0 = made.token_map.frame.to_slide_px(y * TOKEN_PX, x * TOKEN_PX)
    assert made.off_by_tokens(y0 * made.slide.mpp_yx[0], x0 * made.slide.mpp_yx[1]) < WITHIN_TOKENS


def test_png(made: Made, tmp_path: Path) -> None:
    picture = picture_of(made.store, made.level, 900)
    limit = float(made.token_map.value_NT.max()) / (
        TOKEN_PX**2 * made.token_map.frame.mpp.y * made.token_map.frame.mpp.x / 1e6
    )
    write_overlay(tmp_path / "o.png", made.token_map, picture, Scale(limit, 1), Caption("t", "v"))
    layout = read_layout(tmp_path / "o.png")
    left, top, width, height = layout["map_panel_xywh"]
    step_y, step_x = layout["level_px_per_figure_px_yx"]
    panel = np.asarray(Image.open(tmp_path / "o.png"))[top : top + height, left : left + width]
    y, x = _centroid(_orange(panel))
    y0, x0 = made.token_map.frame.to_slide_px(y * step_y, x * step_x)
    assert made.off_by_tokens(y0 * made.slide.mpp_yx[0], x0 * made.slide.mpp_yx[1]) < WITHIN_TOKENS
    left, top, width, height = layout["slide_panel_xywh"]
    tissue = np.asarray(Image.open(tmp_path / "o.png"))[top : top + height, left : left + width].astype(float)
    y, x = _centroid(np.clip(tissue[..., 2] - tissue[..., 0], 0, None))
    y0, x0 = made.token_map.frame.to_slide_px(y * step_y, x * step_x)
    assert made.off_by_tokens(y0 * made.slide.mpp_yx[0], x0 * made.slide.mpp_yx[1]) < WITHIN_TOKENS, (
        "the tissue itself"
    )
    um = made.token_map.frame.mpp.x * step_x, made.token_map.frame.mpp.y * step_y
    assert um[0] == pytest.approx(um[1], rel=0.01), "a millimetre is as long along both sides"


def test_ome_zarr(made: Made, tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "h.ome.zarr", made.token_map, first_pixel_um(made.store, made.level), 1.0, "x")
    group = zarr.open_group(tmp_path / "h.ome.zarr", mode="r")
    image = zarr.open_group(made.store.path, mode="r")
    base = image.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert base[1]["translation"][1:] == [0, 0]
    half_pixel_um = [s / 2 for s in base[0]["scale"][1:]]  # pixel centres are at whole numbers of the frame
    for dataset in group.attrs["ome"]["multiscales"][0]["datasets"]:
        values = np.nan_to_num(group[dataset["path"]][:])
        scale, shift = (
            t[k] for t, k in zip(dataset["coordinateTransformations"], ("scale", "translation"), strict=True)
        )
        centre = [c - 0.5 for c in _centroid(values)]  # index of the centroid
        y, x = (c * s + t + h for c, s, t, h in zip(centre, scale, shift, half_pixel_um, strict=True))
        allowed = WITHIN_TOKENS * 2 ** int(dataset["path"])
        assert made.off_by_tokens(y, x) < allowed


def test_ome_tiff(made: Made, tmp_path: Path) -> None:
    limit = float(made.token_map.value_NT.max())
    write_ome_tiff(tmp_path / "h.ome.tiff", made.token_map, made.store, made.level, limit, False)
    with tifffile.TiffFile(tmp_path / "h.ome.tiff") as tiff:
        colour, values = tiff.series
        metadata = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
        for series, about, weigh in zip((colour, values), metadata, (_orange, np.nan_to_num), strict=True):
            size = about["Pixels"]["PhysicalSizeY"], about["Pixels"]["PhysicalSizeX"]
            y, x = _centroid(weigh(series.asarray()))
            assert made.off_by_tokens(y * size[0], x * size[1]) < WITHIN_TOKENS
        for level in colour.levels[1:]:
            factor = round(colour.shape[0] / level.shape[0])
            y, x = _centroid(_orange(level.asarray()))
            size = metadata[0]["Pixels"]["PhysicalSizeY"], metadata[0]["Pixels"]["PhysicalSizeX"]
            assert made.off_by_tokens(y * size[0] * factor, x * size[1] * factor) < WITHIN_TOKENS


def test_geojson(made: Made, tmp_path: Path) -> None:
    write_geojson(tmp_path / "w.geojson", made.token_map, 1.0, "blue")
    features = json.loads((tmp_path / "w.geojson").read_text())["features"]
    corners = np.array([f["geometry"]["coordinates"][0][:4] for f in features])
    weight = np.array([f["properties"]["measurements"]["value"] for f in features])
    x, y = (corners.mean(axis=1) * weight[:, None]).sum(axis=0) / weight.sum()
    bounds = made.slide.bounds_px or (0, 0)
    y_um, x_um = (y + bounds[0]) * made.slide.mpp_yx[0], (x + bounds[1]) * made.slide.mpp_yx[1]
    assert made.off_by_tokens(y_um, x_um) < WITHIN_TOKENS


def test_windows_table_and_contact_sheet(made: Made, tmp_path: Path) -> None:
    tissue = np.ones(len(made.token_map.row_col_N2), np.float32)
    rows = window_rows(made.token_map, None, tissue)
    write_windows(tmp_path / "w.csv", rows)
    top = rows[0]
    assert made.off_by_tokens(top["peak_y_mm"] * 1000, top["peak_x_mm"] * 1000) < 0.5
    assert top["minx"] <= top["peak_x"] <= top["minx"] + top["width"]
    sheet_path = tmp_path / "s.png"
    write_contact_sheet(sheet_path, made.token_map, made.store, made.level, rows, Caption("t", "v"), 2)
    sheet = np.asarray(Image.open(sheet_path)).astype(float)
    y, x = _centroid(np.clip(sheet[..., 2] - sheet[..., 0] - 60, 0, None)[90:320, 10:250])
    frame = _orange(sheet)[90:320, 10:250]
    inner = frame[6:-6, 6:-6]
    assert abs(_centroid(inner[4:-4, 4:-4])[0] + 10 - y) < 14
    assert abs(_centroid(inner[4:-4, 4:-4])[1] + 10 - x) < 14
