"""Damage in slides whose pixels come through `read_region`: squares fall back to single windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from atlas_path.store import open_store
from pipelines.preprocess import PreprocessOptions, preprocess


def picture(height_px: int = 2300, width_px: int = 3100) -> np.ndarray:
    """(height, width, 3) uint8, different everywhere, with grain that no codec makes into nothing."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height_px, :width_px]
    base = np.stack([120 + 80 * np.sin(y / (31 + k)) * np.cos(x / (47 - k)) for k in range(3)], axis=-1)
    return np.clip(base + rng.integers(-9, 10, base.shape), 0, 255).astype(np.uint8)


def zero_out(slide: Path, tile: int) -> None:
    """Overwrite the middle of one tile of level 0 with zeros."""
    with tifffile.TiffFile(slide) as tif:
        offset, count = tif.pages[0].dataoffsets[tile], tif.pages[0].databytecounts[tile]
    with slide.open("r+b") as stream:
        stream.seek(offset + count // 4)
        stream.write(bytes(count // 2))


@pytest.mark.parametrize("compression", ["zlib", "jpeg2000"])
def test_only_the_windows_on_a_damaged_tile_are_lost(make_slide, tmp_path, compression) -> None:
    pixels = picture()
    slide = make_slide("a.tif", pixels, tile=240, levels=(1, 4), compression=compression)
    zero_out(slide, 4 * 13 + 5)  # row 4, column 5: 960..1200, 1200..1440
    options = PreprocessOptions(workers=0, tissue="none", max_bad=0.1)
    result = preprocess([slide], tmp_path / "out", options)
    store = open_store(tmp_path / "out" / result.records[0].store)
    assert np.argwhere(store.valid_fraction(0) < 1).tolist() == [[3, 4], [3, 5], [4, 4], [4, 5]]
    assert result.records[0].bad_windows == 4
    lossless = store.read_region(0, 0, 0, 2300, 3100).transpose(1, 2, 0)
    lost = np.zeros(pixels.shape[:2], bool)
    lost[3 * 256 : 5 * 256, 4 * 256 : 6 * 256] = True
    np.testing.assert_array_equal(lossless[~lost], pixels[~lost])


def test_too_many_of_them_fail_the_slide(make_slide, tmp_path) -> None:
    slide = make_slide("a.tif", picture(), tile=240, levels=(1, 4), compression="zlib")
    zero_out(slide, 4 * 13 + 5)
    result = preprocess([slide], tmp_path / "out", PreprocessOptions(workers=0, tissue="none"))
    assert result.records[0].reason == "damaged"
    assert "cannot be read, more than 1.00%" in result.records[0].error
    assert not list((tmp_path / "out").glob("*.ome.zarr"))
