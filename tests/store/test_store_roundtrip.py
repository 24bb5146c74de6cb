"""A store is valid OME-Zarr 0.5, its pixels are the slide's, and the fast reader agrees with zarr."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.image_label import ImageLabel
from PIL import ImageCms

from atlas_path.errors import IncompleteStoreError, ResolutionError, StoreError
from atlas_path.slides.colour import apply_icc_srgb
from atlas_path.store import PreprocessOptions, Store, find_stores, open_store
from pipelines.preprocess import preprocess

PIXELS = np.random.default_rng(5).integers(0, 256, (701, 1303, 3), np.uint8)


def convert(slide: Path, out: Path, **options: object) -> Store:
    result = preprocess([slide], out, PreprocessOptions(workers=0, **options))
    assert [record.error for record in result.records] == [""]
    return open_store(out / result.records[0].store)


@pytest.fixture
def noise_store(make_slide, tmp_path) -> Store:
    """Every window kept, lossless source, odd sizes: the hardest case for edges."""
    slide = make_slide("noise.tif", PIXELS, compression="deflate", levels=(1,))
    return convert(slide, tmp_path / "out", tissue="none")


def test_level_0_is_the_slide_and_coarser_levels_are_2x_means(noise_store: Store) -> None:
    assert [(level.height_px, level.width_px) for level in noise_store.levels] == [(701, 1303), (351, 652)]
    level_0 = noise_store.read_region(0, 0, 0, 701, 1303)
    np.testing.assert_array_equal(level_0, PIXELS.transpose(2, 0, 1))
    even = np.pad(PIXELS, ((0, 1), (0, 1), (0, 0)), mode="edge").astype(float)
    means = even.reshape(351, 2, 652, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    level_1 = noise_store.read_region(1, 0, 0, 351, 652)
    assert np.abs(level_1 - means).max() <= 0.5


def test_it_is_valid_ome_zarr_that_others_read(noise_store: Store) -> None:
    group = zarr.open_group(noise_store.path, mode="r")
    assert isinstance(open_ome_zarr(group), Image)
    assert isinstance(open_ome_zarr(group["labels/tissue"]), ImageLabel)
    assert isinstance(open_ome_zarr(group["windows/tissue_fraction"]), Image)
    assert isinstance(open_ome_zarr(group["windows/valid_fraction"]), Image)
    multiscale = group.attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "y", "x"]
    assert len(group["labels/tissue"].attrs["ome"]["multiscales"][0]["datasets"]) == len(noise_store.levels)
    for k, level in enumerate(noise_store.levels):
        array = group[str(k)]
        assert array.chunks == (3, 256, 256)
        np.testing.assert_array_equal(
            array[:], noise_store.read_region(k, 0, 0, level.height_px, level.width_px)
        )
        scale = multiscale["datasets"][k]["coordinateTransformations"][0]["scale"]
        assert scale == pytest.approx([1, level.mpp.y, level.mpp.x])


@functools.cache  # a profile carries the time it was made
def swapped_srgb() -> bytes:
    """A profile of a scanner whose red is sRGB's blue, and the other way round."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)


@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
@pytest.mark.parametrize("tile", [256, 240])
def test_icc_srgb_changes_the_pixels_and_keep_does_not(make_slide, tmp_path, compression, tile) -> None:
    """Odd sizes: the edge of a window is written to after the profile was applied."""
    slide = make_slide(
        "icc.tif", PIXELS, compression=compression, levels=(1,), tile=tile, iccprofile=swapped_srgb()
    )
    kept = convert(slide, tmp_path / "keep", tissue="none")
    assert kept.icc_profile() == swapped_srgb()
    pixels = kept.read_region(0, 0, 0, 701, 1303)
    managed = convert(slide, tmp_path / "srgb", tissue="none", icc="srgb").read_region(0, 0, 0, 701, 1303)
    expected = apply_icc_srgb(pixels.transpose(1, 2, 0), swapped_srgb()).transpose(2, 0, 1)
    np.testing.assert_array_equal(managed, expected)
    assert np.abs(managed.astype(int) - pixels[::-1]).max() <= 1  # red and blue have changed places


def test_windows_are_the_region_padded_with_background(noise_store: Store) -> None:
    rows, cols = noise_store.grid(0).shape
    every = np.argwhere(np.ones((rows, cols), bool))
    windows = noise_store.read_windows(0, every)
    assert windows.shape == (rows * cols, 3, 256, 256)
    padded = np.full((3, rows * 256, cols * 256), noise_store.meta.background, np.uint8)
    padded[:, :701, :1303] = PIXELS.transpose(2, 0, 1)
    for window, (row, col) in zip(windows, every, strict=True):
        np.testing.assert_array_equal(window, padded[:, row * 256 :, col * 256 :][:, :256, :256])
    np.testing.assert_array_equal(noise_store.read_windows(0, every[::-1]), windows[::-1])
    assert (noise_store.read_windows(0, np.array([[99, 99]])) == noise_store.meta.background).all()


@pytest.mark.parametrize(
    "box", [(-30, -20, 100, 90), (250, 250, 300, 10), (600, 1200, 400, 400), (900, 0, 5, 5)]
)
def test_regions_may_lie_anywhere(noise_store: Store, box: tuple[int, int, int, int]) -> None:
    y, x, height, width = box
    canvas = np.full((3, 2000, 3000), noise_store.meta.background, np.uint8)
    canvas[:, 500 : 500 + 701, 500 : 500 + 1303] = PIXELS.transpose(2, 0, 1)
    expected = canvas[:, 500 + y : 500 + y + height, 500 + x : 500 + x + width]
    np.testing.assert_array_equal(noise_store.read_region(0, y, x, height, width), expected)


def test_background_windows_are_not_stored(make_slide, tmp_path) -> None:
    store = convert(make_slide(), tmp_path / "out")
    counts = store.meta.counts
    assert 0 < counts.stored < counts.windows
    assert counts.stored + counts.empty == counts.windows
    fraction = store.tissue_fraction(0)
    assert fraction.shape == store.grid(0).shape
    assert fraction.max() > 0.999
    assert fraction.min() == 0
    kept = store.kept_windows(0)
    assert 0 < len(kept) <= counts.stored
    assert (fraction[kept[:, 0], kept[:, 1]] >= 0.01).all()
    assert (store.read_windows(0, np.argwhere(fraction == 0)) == store.meta.background).any()
    assert 240 <= store.meta.background <= 247  # the glass, so that storing leaves no edge
    assert (store.valid_fraction(0) == 1).all()


def test_a_store_pickles_and_is_found(noise_store: Store, tmp_path) -> None:
    again = pickle.loads(pickle.dumps(noise_store))
    window = np.array([[1, 2]])
    np.testing.assert_array_equal(again.read_windows(0, window), noise_store.read_windows(0, window))
    assert find_stores(tmp_path / "out") == [noise_store.path]
    assert find_stores([noise_store.path]) == [noise_store.path]


def test_without_its_completion_record_a_store_does_not_exist(noise_store: Store, tmp_path) -> None:
    (noise_store.path / "complete.json").unlink()
    with pytest.raises(IncompleteStoreError, match="no completed store"):
        open_store(noise_store.path)
    assert find_stores(tmp_path / "out") == []


def test_a_damaged_shard_is_named(noise_store: Store) -> None:
    shard = noise_store.path / "0/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="wrong checksum"):
        open_store(noise_store.path).read_windows(0, np.array([[0, 0]]))
    shard.write_bytes(content[:100])
    with pytest.raises(StoreError, match="shorter than its index"):
        open_store(noise_store.path).read_windows(0, np.array([[0, 0]]))


def test_levels_are_found_by_resolution(noise_store: Store) -> None:
    assert noise_store.level_for(0.5) == 0
    assert noise_store.level_for(0.96) == 1
    with pytest.raises(ResolutionError, match=r"no level of 0.25 um/px \(it has 0.5, 1\)"):
        noise_store.level_for(0.25)


def test_the_thumbnail_keeps_its_shape(noise_store: Store) -> None:
    assert noise_store.thumbnail(400).shape == (215, 400, 3)
    assert noise_store.thumbnail(9999).shape == (701, 1303, 3)
