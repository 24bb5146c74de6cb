"""Small arrays of a store (masks, one value a window): one compressed chunk each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from imagecodecs import zstd_decode, zstd_encode

from atlas_path.store.layout import array_json, read_json, write_json
from atlas_path.store.shard import damaged, write_bytes

TISSUE_FRACTION = "windows/tissue_fraction"
VALID_FRACTION = "windows/valid_fraction"
ZSTD_LEVEL = 3


def write_array(folder: Path, array: np.ndarray, axes: tuple[str, ...]) -> None:
    """A small array as one zstd chunk."""
    zstd = {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, zstd]
    little: Any = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    write_json(folder / "zarr.json", array_json(array.shape, array.dtype.name, array.shape, codecs, 0, axes))
    write_bytes(folder / "c" / "/".join("0" * array.ndim), bytes(zstd_encode(little, level=ZSTD_LEVEL)))


def read_array(folder: Path) -> np.ndarray:
    """Back from `write_array`.

    Raises:
        StoreError: missing or damaged.
    """
    try:
        text = read_json(folder / "zarr.json")
        payload = (folder / "c" / "/".join("0" * len(text["shape"]))).read_bytes()
        pixels = np.frombuffer(zstd_decode(payload), np.dtype(text["data_type"]).newbyteorder("<"))
        array: np.ndarray = pixels.reshape(text["shape"]).astype(text["data_type"])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(folder, f"cannot be read ({error})") from error
    return array
