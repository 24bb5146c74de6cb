"""Compact stores: the scanner's tiles byte for byte, windows answered from them, damage found on copying."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v05 import Image

from atlas_path.errors import StoreError
from atlas_path.slides import open_slide
from atlas_path.store import PreprocessOptions, Store, open_store
from atlas_path.store.chunks import Chunks
from atlas_path.store.jpeg import Jpeg
from atlas_path.store.tile_cache import TileCache
from atlas_path.store.tile_check import odd_looking
from pipelines.preprocess import preprocess


def convert(slide: Path, out: Path, **options: object) -> Store:
    result = preprocess([slide], out, PreprocessOptions(workers=0, codec="jpeg", **options))
    assert [record.error for record in result.records] == [""]
    return open_store(out / result.records[0].store)


def textured(height: int, width: int) -> np.ndarray:
    """Pink, smooth enough for JPEG, different everywhere."""
    y, x = np.mgrid[0:height, 0:width]
    red = 190 + 40 * np.sin(y / 17) * np.cos(x / 23)
    green = 110 + 50 * np.cos((y + 2 * x) / 31)
    blue = 160 + 40 * np.sin((y - x) / 13)
    return np.stack([red, green, blue], axis=-1).round().astype(np.uint8)


@pytest.fixture
def slide(make_slide) -> Path:
    return make_slide("a.tif", textured(2300, 3100), tile=240, compression="jpeg", levels=(1, 4))


def test_the_tiles_are_the_slides_bytes(slide: Path, tmp_path) -> None:
    store = convert(slide, tmp_path / "out", tissue="none")
    assert [(level.path, level.origin) for level in store.meta.levels] == [
        ("0", "copied"),
        (None, "virtual"),
        ("2", "copied"),
    ]
    with open_slide(slide) as source:
        for level, slide_level in ((0, 0), (2, 1)):
            tiles = source.jpeg_tiles(slide_level)
            chunks = Chunks(store.path / str(level))
            assert chunks.layout.chunk == (3, 240, 240)
            for row in range(tiles.rows):
                for col in range(tiles.cols):
                    assert chunks.payload(row, col) == tiles.raw(row, col)


def test_level_0_is_exactly_what_the_decoder_gives(slide: Path, tmp_path) -> None:
    store = convert(slide, tmp_path / "out", tissue="none")
    with open_slide(slide) as source:
        expected = source.read_region(0, 0, 0, 2300, 3100)
    np.testing.assert_array_equal(store.read_region(0, 0, 0, 2300, 3100), expected.transpose(2, 0, 1))
    rows, cols = store.grid(0).shape
    every = np.argwhere(np.ones((rows, cols), bool))
    padded = np.full((rows * 256, cols * 256, 3), store.meta.background, np.uint8)
    padded[:2300, :3100] = expected
    for window, (row, col) in zip(store.read_windows(0, every), every, strict=True):
        part = padded[row * 256 : (row + 1) * 256, col * 256 : (col + 1) * 256]
        np.testing.assert_array_equal(window, part.transpose(2, 0, 1))


def test_a_virtual_level_is_the_finer_one_at_half_size(slide: Path, tmp_path) -> None:
    store = convert(slide, tmp_path / "out", tissue="none")
    level = store.levels[1]
    assert (level.height_px, level.width_px) == (1150, 1550)
    full = store.read_region(0, 0, 0, 2300, 3100).transpose(1, 2, 0)
    mean = cv2.resize(np.ascontiguousarray(full), (1550, 1150), interpolation=cv2.INTER_AREA)
    virtual = store.read_region(1, 0, 0, 1150, 1550).transpose(1, 2, 0)
    difference = np.abs(virtual.astype(int) - mean.astype(int))
    assert difference.mean() < 1
    window = store.read_windows(1, np.array([[2, 3]]))[0]
    np.testing.assert_array_equal(window, virtual[512:768, 768:1024].transpose(2, 0, 1))


def test_zarr_opens_it_where_atlas_path_is_installed(slide: Path, tmp_path) -> None:
    store = convert(slide, tmp_path / "out", tissue="none")
    group = zarr.open_group(store.path, mode="r")
    assert isinstance(open_ome_zarr(group), Image)
    paths = [dataset["path"] for dataset in group.attrs["ome"]["multiscales"][0]["datasets"]]
    assert paths == ["0", "2"]
    np.testing.assert_array_equal(group["0"][:], store.read_region(0, 0, 0, 2300, 3100))
    level = store.levels[2]
    np.testing.assert_array_equal(group["2"][:], store.read_region(2, 0, 0, level.height_px, level.width_px))


def test_zarr_can_write_the_codec_too(tmp_path) -> None:
    pixels = textured(64, 96).transpose(2, 0, 1)
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(3, 64, 96),
        chunks=(3, 64, 96),
        dtype="uint8",
        filters=[zarr.codecs.TransposeCodec(order=(1, 2, 0))],
        serializer=zarr.registry.get_codec_class("atlas_path.jpeg").from_dict(Jpeg(3, 95).to_json()[-1]),
        compressors=None,
    )
    array[:] = pixels
    back = zarr.open_array(tmp_path / "a.zarr", mode="r")[:]
    assert np.abs(back.astype(int) - pixels).mean() < 2


def test_a_slide_twice_as_fine_keeps_its_tiles_and_answers_what_was_asked(make_slide, tmp_path) -> None:
    """The level that was asked for has exactly the pixels of a portable store: nothing is lost anew."""
    slide = make_slide("a.tif", textured(2300, 3100), tile=240, mpp=0.25, levels=(1, 4))
    store = convert(slide, tmp_path / "out", tissue="none")
    assert [(level.path, level.origin) for level in store.meta.levels] == [
        ("0", "copied"),
        (None, "virtual"),
        ("2", "copied"),
    ]
    assert (store.meta.base.how, store.meta.mpp_requested) == ("native", 0.5)
    with open_slide(slide) as source:
        tiles = source.jpeg_tiles(0)
        assert Chunks(store.path / "0").payload(3, 5) == tiles.raw(3, 5)
    result = preprocess([slide], tmp_path / "portable", PreprocessOptions(workers=0, tissue="none"))
    portable = open_store(tmp_path / "portable" / result.records[0].store)
    level = store.level_for(0.5)
    assert (level, portable.level_for(0.5)) == (1, 0)
    assert store.grid(level) == portable.grid(0)
    windows = portable.kept_windows(0)
    np.testing.assert_array_equal(store.kept_windows(level), windows)
    np.testing.assert_array_equal(store.read_windows(level, windows), portable.read_windows(0, windows))


@pytest.mark.parametrize(("mpp", "tiles"), [(0.125, 240), (0.25, 2048), (0.3, 240)])
def test_tiles_that_do_not_serve_are_encoded_anew(make_slide, tmp_path, mpp: float, tiles: int) -> None:
    """Four times as fine would be sixteen times the bytes; giant tiles are slow; others do not fit at all."""
    slide = make_slide("a.tif", textured(2300, 3100), tile=tiles, mpp=mpp, compression="jpeg", levels=(1,))
    store = convert(slide, tmp_path / "out", tissue="none")
    assert store.meta.levels[0].origin == "decoded"
    assert store.meta.base.how == ("resampled" if mpp == 0.3 else "scaled")


def test_a_finer_slide_is_encoded_anew_at_half_size(make_slide, tmp_path) -> None:
    slide = make_slide("a.tif", textured(2300, 3100), tile=240, mpp=0.25, levels=(1, 4))
    store = convert(slide, tmp_path / "out", tissue="none", recode=True)
    assert [(level.path, level.origin) for level in store.meta.levels] == [("0", "decoded"), ("1", "copied")]
    assert store.meta.base.how == "scaled"
    mean = cv2.resize(textured(2300, 3100), (1550, 1150), interpolation=cv2.INTER_AREA)
    level_0 = store.read_region(0, 0, 0, 1150, 1550).transpose(1, 2, 0)
    assert np.abs(level_0.astype(int) - mean).mean() < 2.5


def test_only_tiles_under_kept_windows_are_copied(make_slide, tmp_path) -> None:
    store = convert(make_slide("a.tif", tile=240, levels=(1,)), tmp_path / "out")
    chunks = Chunks(store.path / "0")
    stored = np.array([[chunks.payload(r, c) is not None for c in range(9)] for r in range(7)])
    assert 0 < stored.sum() < stored.size
    keep = store.tissue_fraction(0) > 0
    for row, col in np.argwhere(keep):
        tiles = stored[
            row * 256 // 240 : -(-(row + 1) * 256 // 240), col * 256 // 240 : -(-(col + 1) * 256 // 240)
        ]
        assert tiles.all()
    background = store.read_windows(0, np.argwhere(~keep)[:1])
    assert np.isin(store.meta.background, background)


def test_16_bit_slides_stay_lossless(make_slide, tmp_path) -> None:
    pixels = textured(700, 800)[..., 0].astype(np.uint16) * 100
    slide = make_slide("a.tif", pixels, compression="deflate", levels=(1,))
    store = convert(slide, tmp_path / "out", tissue="none")
    assert store.meta.codec == "lz4"
    np.testing.assert_array_equal(store.read_region(0, 0, 0, 700, 800)[0], pixels)


def zero_out(slide: Path, row: int, col: int, start: float = 0.3, stop: float = 0.8) -> None:
    """Overwrite a part of one tile of level 0 with zeros."""
    with open_slide(slide) as source:
        tiles = source.jpeg_tiles(0)
        offset, count = int(tiles.offsets[row, col]), int(tiles.bytecounts[row, col])
    with slide.open("r+b") as stream:
        stream.seek(offset + int(count * start))
        stream.write(bytes(int(count * (stop - start))))


@pytest.mark.parametrize("codec", ["jpeg", "lz4"])
def test_damaged_tiles_are_masked_never_shown_as_glass(make_slide, tmp_path, codec) -> None:
    slide = make_slide("a.tif", textured(2300, 3100), tile=240, levels=(1, 4))
    zero_out(slide, 4, 5)
    options = PreprocessOptions(workers=0, codec=codec, tissue="none", max_bad=0.1)
    result = preprocess([slide], tmp_path / "out", options)
    store = open_store(tmp_path / "out" / result.records[0].store)
    bad = np.argwhere(store.valid_fraction(0) < 1)
    assert bad.tolist() == [[3, 4], [3, 5], [4, 4], [4, 5]]  # tile (4, 5): 960..1200, 1200..1440
    assert store.meta.counts.bad == 4 == result.records[0].bad_windows
    assert store.meta.counts.bad_px == 240 * 240
    assert store.valid_fraction(0)[4, 5] == pytest.approx(1 - (1200 - 1024) * (1440 - 1280) / 256**2)
    assert store.valid_fraction(1)[2, 2] < 1
    label = zarr.open_group(store.path, mode="r")["labels/valid/0"][:]
    assert np.argwhere(label == 0).tolist() == bad.tolist()
    kept = {tuple(window) for window in store.kept_windows(0).tolist()}
    assert (4, 4) in kept  # more than half of it could be read
    assert "unreadable windows" in (tmp_path / "out/summary.md").read_text()


@pytest.mark.parametrize("codec", ["jpeg", "lz4"])
def test_too_much_damage_fails_the_slide(make_slide, tmp_path, codec) -> None:
    slide = make_slide("a.tif", textured(2300, 3100), tile=240, levels=(1, 4))
    for col in range(6):
        zero_out(slide, 4, col)
    result = preprocess([slide], tmp_path / "out", PreprocessOptions(workers=0, codec=codec, tissue="none"))
    assert result.records[0].reason == "damaged"
    assert "cannot be read, more than 1.00%" in result.records[0].error
    assert not list((tmp_path / "out").glob("*.ome.zarr"))
    assert not list((tmp_path / "out").glob(".*.part"))


def test_signs_of_damage() -> None:
    whole = Jpeg(3, 90).encode(textured(240, 240))
    middle = len(whole) // 2
    rng = np.random.default_rng(0)
    garbage = whole[:middle] + rng.integers(0, 256, 2048, np.uint8).tobytes() + whole[middle + 2048 :]
    zeros = whole[:middle] + bytes(512) + whole[middle + 512 :]
    cut = whole[: len(whole) - 700]
    assert odd_looking([whole, garbage, zeros, whole, cut, b""]).tolist() == [
        False,
        True,
        True,
        False,
        True,
        True,
    ]
    assert odd_looking([]).tolist() == []


def test_a_damaged_chunk_of_a_finished_store_is_named(slide: Path, tmp_path) -> None:
    store = convert(slide, tmp_path / "out", tissue="none")
    shard = store.path / "0/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[3000:6000] = bytes(3000)
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="damaged chunk at row 0"):
        open_store(store.path).read_windows(0, np.array([[0, 0], [0, 1]]))


def test_it_pickles_and_the_cache_is_bounded(slide: Path, tmp_path) -> None:
    store = convert(slide, tmp_path / "out", tissue="none")
    again = pickle.loads(pickle.dumps(store))
    at = np.array([[1, 1], [8, 11]])
    np.testing.assert_array_equal(again.read_windows(0, at), store.read_windows(0, at))
    cache = TileCache(max_bytes=1000)
    for i in range(50):
        cache.put(i, np.zeros(100, np.uint8))
    assert cache.n_bytes == 1000
    assert cache.get(0) is None
    assert cache.get(49) is not None


def test_the_real_aperio_slide(shared, tmp_path) -> None:
    path = shared / "data/wsi/CMU-1-Small-Region.svs"
    store = convert(path, tmp_path / "out")
    assert store.meta.levels[0].origin == "copied"
    kept = store.kept_windows(0)
    with open_slide(path) as source:
        for row, col in kept[::7]:
            y, x, height, width = store.grid(0).box_px(int(row), int(col))
            expected = source.read_region(0, y, x, height, width).transpose(2, 0, 1)
            window = store.read_windows(0, np.array([[row, col]]))[0]
            np.testing.assert_array_equal(window[:, :height, :width], expected)
