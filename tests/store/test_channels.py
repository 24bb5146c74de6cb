"""16 bit and many channels keep their depth, and every channel its own chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from atlas_path.store import PreprocessOptions, open_store
from atlas_path.store.codecs import lossless_codec
from atlas_path.store.layout import SHARD_BYTES_MAX, window_layout
from pipelines.preprocess import preprocess


def multichannel(path: Path, n_channels: int) -> np.ndarray:
    """An OME-TIFF of smooth spots on a dark background; its pixels (channel, y, x)."""
    y, x = np.mgrid[0:701, 0:1303]
    pixels = np.stack(
        [
            3000
            + 2000 * np.sin(y / (20 + c)) * np.cos(x / (30 + c)) * ((y - 350) ** 2 + (x - 600) ** 2 < 9e4)
            for c in range(n_channels)
        ]
    ).astype(np.uint16)
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="minisblack",
        ome=True,
        metadata={
            "axes": "CYX",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
        },
    )
    return pixels


@pytest.mark.parametrize(("n_channels", "codec"), [(2, "lz4"), (6, "zstd"), (6, "jpeg")])
def test_multichannel(tmp_path, n_channels: int, codec: str) -> None:
    path = tmp_path / "a.ome.tif"
    pixels = multichannel(path, n_channels)
    result = preprocess([path], tmp_path / "out", PreprocessOptions(workers=0, tissue="none", codec=codec))
    assert result.records[0].error == ""
    store = open_store(tmp_path / "out" / result.records[0].store)
    assert (store.n_channels, store.dtype, store.meta.background) == (n_channels, np.uint16, 0)
    np.testing.assert_array_equal(store.read_region(0, 0, 0, 701, 1303), pixels)
    window = store.read_windows(0, np.array([[1, 2], [2, 5]]))
    np.testing.assert_array_equal(window[0], pixels[:, 256:512, 512:768])
    np.testing.assert_array_equal(window[1, :, : 701 - 512, : 1303 - 1280], pixels[:, 512:, 1280:])
    array = zarr.open_group(store.path, mode="r")["0"]
    assert array.chunks[0] == (n_channels if n_channels <= 4 else 1)
    np.testing.assert_array_equal(array[:], pixels)
    even = np.pad(pixels, ((0, 0), (0, 1), (0, 1)), mode="edge").astype(float)
    means = even.reshape(n_channels, 351, 2, 652, 2).mean(axis=(2, 4))
    assert np.abs(store.read_region(1, 0, 0, 351, 652) - means).max() <= 0.5


@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint8"), (5, "uint16"), (40, "uint16"), (4, "float32")])
def test_a_shard_stays_small_enough_for_memory(channels: int, dtype: str) -> None:
    layout = window_layout(50_000, 50_000, channels, dtype, lossless_codec("lz4", dtype), 0)
    assert np.prod(layout.shard) * np.dtype(dtype).itemsize <= SHARD_BYTES_MAX
    assert layout.shard[1] % layout.chunk[1] == 0
