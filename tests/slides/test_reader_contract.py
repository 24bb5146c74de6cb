"""One contract for every format: size, depth, channels, resolution and pixels are those of the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import otherwriters as other
import pytest
import slidewriters as tiff
import vendorwriters as vendor

from atlas_path.slides import Slide, describe, fingerprint, open_slide, read_thumbnail

LOSSLESS, JPEG_Q90 = 0.0, 1.5


@dataclass(frozen=True)
class Case:
    """How a format is written, and what must be read back: mean absolute difference at most `error`."""

    write: Callable[[Path, np.ndarray], Path]
    reader: str
    mpp: float | None = 0.5
    error: float = LOSSLESS
    raw_tiles: bool = False
    source: str = "rgb"


CASES = {
    "svs-jpeg": Case(lambda d, p: tiff.aperio(d / "a.svs", p), "openslide", 0.25, JPEG_Q90, True),
    "svs-jpeg2000-rgb": Case(
        lambda d, p: tiff.aperio(d / "a.svs", p, "aperio_jp2000_rgb"), "openslide", 0.25, LOSSLESS
    ),
    "svs-jpeg2000-ycbcr": Case(
        lambda d, p: tiff.aperio(d / "a.svs", p, "aperio_jp2000_ycbc"), "openslide", 0.25, JPEG_Q90
    ),
    "scn": Case(lambda d, p: tiff.leica_scn(d / "a.scn", p), "openslide", 0.5, JPEG_Q90),
    "philips": Case(lambda d, p: tiff.philips(d / "a.tiff", p), "openslide", 0.25, JPEG_Q90, True),
    "mrxs": Case(lambda d, p: vendor.mrxs(d / "a.mrxs", p), "openslide", 0.25, JPEG_Q90),
    "bif": Case(lambda d, p: vendor.ventana_bif(d / "a.bif", p), "openslide", 0.25, JPEG_Q90),
    "tiff-jpeg": Case(lambda d, p: tiff.pyramid_tiff(d / "a.tif", p), "tiff", 0.5, JPEG_Q90, True),
    "tiff-jpeg-rgb": Case(
        lambda d, p: tiff.pyramid_tiff(d / "a.tif", p, compressionargs={"level": 90, "outcolorspace": "rgb"}),
        "tiff",
        0.5,
        JPEG_Q90,
        True,
    ),
    "tiff-lzw": Case(lambda d, p: tiff.pyramid_tiff(d / "a.tif", p, "lzw", predictor=True), "tiff"),
    "tiff-deflate": Case(lambda d, p: tiff.pyramid_tiff(d / "a.tif", p, "zlib"), "tiff"),
    "tiff-zstd": Case(lambda d, p: tiff.pyramid_tiff(d / "a.tif", p, "zstd"), "tiff"),
    "tiff-jpeg2000": Case(lambda d, p: tiff.pyramid_tiff(d / "a.tif", p, "jpeg2000"), "tiff"),
    "tiff-uncompressed": Case(lambda d, p: tiff.pyramid_tiff(d / "a.tif", p, None), "tiff"),
    "tiff-big": Case(
        lambda d, p: tiff.pyramid_tiff(d / "a.tif", p, bigtiff=True), "tiff", 0.5, JPEG_Q90, True
    ),
    "tiff-planar": Case(lambda d, p: tiff.pyramid_tiff(d / "a.tif", p, "lzw", planar=True), "tiff", 0.5),
    "tiff-strips": Case(lambda d, p: tiff.striped_tiff(d / "a.tif", p), "tiff", None),
    "tiff-strips-lzw": Case(lambda d, p: tiff.striped_tiff(d / "a.tif", p, "lzw"), "tiff", None),
    "tiff-strips-jpeg": Case(lambda d, p: tiff.striped_tiff(d / "a.tif", p, "jpeg"), "tiff", None, JPEG_Q90),
    "tiff-big-endian": Case(
        lambda d, p: tiff.striped_tiff(d / "a.tif", p, byteorder=">"), "tiff", None, source="gray16"
    ),
    "ome-tiff-rgb": Case(lambda d, p: tiff.ome_tiff_rgb(d / "a.ome.tif", p), "tiff"),
    "ome-tiff-channels": Case(
        lambda d, p: tiff.ome_tiff_channels(d / "a.ome.tif", p), "tiff", 0.325, source="channels"
    ),
    "qptiff": Case(lambda d, p: tiff.qptiff(d / "a.qptiff", p), "tiff", 0.5, source="channels"),
    "qptiff-rgb": Case(lambda d, p: tiff.qptiff_rgb(d / "a.qptiff", p), "tiff", 0.5, JPEG_Q90, True),
    "scn-channels": Case(
        lambda d, p: tiff.leica_scn_channels(d / "a.scn", p), "tiff", 0.5, source="channels"
    ),
    "dicom-jpeg": Case(lambda d, p: other.dicom_rgb(d / "a", p), "openslide", 0.25, JPEG_Q90, True),
    "dicom-uncompressed": Case(lambda d, p: other.dicom_rgb(d / "a", p, other.EXPLICIT), "openslide", 0.25),
    "dicom-jpeg2000": Case(lambda d, p: other.dicom_rgb(d / "a", p, other.J2K), "openslide", 0.25),
    "dicom-jpeg-ls": Case(lambda d, p: other.dicom_rgb(d / "a", p, other.JPEG_LS), "dicom", 0.25),
    "dicom-rle": Case(lambda d, p: other.dicom_rgb(d / "a", p, other.RLE), "dicom", 0.25),
    "dicom-channels": Case(lambda d, p: other.dicom_channels(d / "a", p), "dicom", 0.5, source="channels"),
    "dicom-channels-jpeg2000": Case(
        lambda d, p: other.dicom_channels(d / "a", p, other.J2K), "dicom", 0.5, source="channels"
    ),
    "dicom-mono-rle": Case(
        lambda d, p: other.dicom_channels(d / "a", p.transpose(2, 0, 1), other.RLE),
        "dicom",
        source="gray16",
    ),
    "ome-zarr-0.4-rgb": Case(
        lambda d, p: other.ome_zarr(d / "a.zarr", p.transpose(2, 0, 1), "0.4", "cyx"), "ome_zarr"
    ),
    "ome-zarr-0.5-rgb": Case(
        lambda d, p: other.ome_zarr(d / "a.ome.zarr", p.transpose(2, 0, 1), "0.5", "cyx"), "ome_zarr"
    ),
    "ome-zarr-0.4-channels": Case(
        lambda d, p: other.ome_zarr(d / "a.zarr", p[None, :, None], "0.4", "tczyx"),
        "ome_zarr",
        source="channels",
    ),
    "ome-zarr-0.5-channels": Case(
        lambda d, p: other.ome_zarr(d / "a.zarr", p, "0.5", "cyx"), "ome_zarr", source="channels"
    ),
    "png": Case(lambda d, p: other.png(d / "a.png", p), "flat", None),
    "png-16": Case(lambda d, p: other.png(d / "a.png", p), "flat", None, source="rgb16"),
    "png-gray-16": Case(lambda d, p: other.png(d / "a.png", p[..., 0]), "flat", None, source="gray16"),
    "jpeg": Case(lambda d, p: other.jpeg(d / "a.jpg", p), "flat", None, JPEG_Q90),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def _source(case: Case, picture: np.ndarray, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(what the writer takes, the pixels (h, w, c) that must come back)."""
    last = channels.transpose(1, 2, 0)
    return {
        "rgb": (picture, picture),
        "channels": (channels, last),
        "gray16": (last[..., :1], last[..., :1]),
        "rgb16": (last[..., :3], last[..., :3]),
    }[case.source]


@pytest.fixture
def written(case: Case, tmp_path: Path, picture: np.ndarray, channels: np.ndarray) -> tuple[Path, np.ndarray]:
    given, truth = _source(case, picture, channels)
    return case.write(tmp_path, given), truth


def test_contract(case: Case, written: tuple[Path, np.ndarray]) -> None:
    path, truth = written
    with open_slide(path) as slide:
        assert isinstance(slide, Slide)
        assert slide.reader == case.reader
        _check_facts(case, slide, truth)
        _check_pixels(case, slide, truth)
        _check_frame(slide)
        _check_threads(slide)
        _check_raw_tiles(case, slide)
        if slide.mpp:
            thumbnail = read_thumbnail(slide, mpp=4.0)
            assert thumbnail.valid.all()
            assert thumbnail.mpp.mean == pytest.approx(4.0, rel=0.1)
        text = json.dumps(describe(slide))
        assert not any(word in text for word in ("SMITH", "Smith", "Date", "2019", str(path.parent)))
    slide.close()  # twice does no harm


def _check_facts(case: Case, slide: Slide, truth: np.ndarray) -> None:
    top = slide.levels[0]
    height, width = slide.bounds_px[2:] if slide.bounds_px else (top.height_px, top.width_px)
    if case.write is not CASES["mrxs"].write and case.write is not CASES["bif"].write:  # whole tiles only
        assert (height, width) == truth.shape[:2]
    assert slide.dtype == truth.dtype
    assert slide.n_channels == truth.shape[2] == len(slide.channel_names)
    assert len(set(slide.channel_names)) == slide.n_channels
    assert slide.kind == {1: "mono", 3: "rgb", 4: "multichannel"}[truth.shape[2]]
    assert (top.downsample_y, top.downsample_x) == (1.0, 1.0)
    assert all(a.height_px > b.height_px for a, b in zip(slide.levels, slide.levels[1:], strict=False))
    assert all(level.downsample_y == level.downsample_x for level in slide.levels)
    if case.mpp is None:
        assert slide.mpp is None
        assert slide.mpp_source is None
    else:
        assert (slide.mpp.y, slide.mpp.x) == pytest.approx((case.mpp, case.mpp))
        assert slide.mpp_source


def _check_pixels(case: Case, slide: Slide, truth: np.ndarray) -> None:
    y0, x0 = (slide.bounds_px or (0, 0))[:2]
    for y, x, height, width in ((0, 0, 512, 640), (201, 333, 100, 77), (255, 511, 3, 3)):
        pixels = slide.read_region(0, y0 + y, x0 + x, height, width)
        assert pixels.shape == (height, width, slide.n_channels)
        assert pixels.dtype == slide.dtype
        difference = np.abs(pixels.astype(float) - truth[y : y + height, x : x + width])
        assert difference.mean() <= case.error
    if len(slide.levels) > 1:
        level, step = slide.levels[1], int(slide.levels[1].downsample_y)
        coarse = slide.read_region(1, y0 // step + 10, x0 // step + 20, 40, 50)
        fine = slide.read_region(
            0, y0 // step * step + 10 * step, x0 // step * step + 20 * step, 40 * step, 50 * step
        )
        mean = fine.reshape(40, step, 50, step, -1).astype(float).mean(axis=(1, 3))
        scale = 1.0 if slide.dtype == np.uint8 else 257.0
        assert np.abs(coarse - mean).mean() <= 4 * scale, level


def _check_frame(slide: Slide) -> None:
    """Outside the slide there is background, and the part inside is the same as when read alone."""
    height, width = slide.levels[0].height_px, slide.levels[0].width_px
    background = np.iinfo(slide.dtype).max if slide.kind == "rgb" else 0
    around = slide.read_region(0, height - 20, width - 30, 50, 60)
    assert (around[20:] == background).all()
    assert (around[:, 30:] == background).all()
    assert (around[:20, :30] == slide.read_region(0, height - 20, width - 30, 20, 30)).all()
    assert (slide.read_region(0, -70, -70, 60, 60) == background).all()
    with pytest.raises(IndexError):
        slide.read_region(len(slide.levels), 0, 0, 1, 1)


def _check_threads(slide: Slide) -> None:
    places = [(y, x) for y in (0, 130, 260, 390) for x in (0, 170, 340, 510)]
    alone = [slide.read_region(0, y, x, 120, 120) for y, x in places]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda place: slide.read_region(0, *place, 120, 120), places))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


def _check_raw_tiles(case: Case, slide: Slide) -> None:
    tiles = slide.jpeg_tiles(0)
    assert (tiles is not None) == case.raw_tiles
    if tiles is None:
        return
    assert (tiles.rows, tiles.cols) == tiles.offsets.shape == tiles.bytecounts.shape
    pixels = tiles.decode(1, 1)
    h, w = tiles.tile_height_px, tiles.tile_width_px
    assert (pixels == slide.read_region(0, h, w, h, w)).all()
    reduced = tiles.decode(1, 1, scale=4)
    mean = pixels.reshape(h // 4, 4, w // 4, 4, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(reduced - mean).mean() < 2


def test_fingerprint_sees_a_change_anywhere(tmp_path: Path, picture: np.ndarray) -> None:
    path = vendor.mrxs(tmp_path / "a.mrxs", picture)
    before = fingerprint(path)
    assert before == fingerprint(path)
    assert before["n_files"] == 4
    data = tmp_path / "a" / "Data0000.dat"
    content = bytearray(data.read_bytes())
    content[-5] ^= 255
    data.write_bytes(bytes(content))
    assert fingerprint(path)["sha256"] != before["sha256"]
    assert fingerprint(path, full=True)["hash"] == "full"


def test_given_mpp_wins(tmp_path: Path, picture: np.ndarray) -> None:
    path = tiff.aperio(tmp_path / "a.svs", picture)
    with open_slide(path, mpp=0.31) as slide:
        assert (slide.mpp.y, slide.mpp_source) == (0.31, "given")
