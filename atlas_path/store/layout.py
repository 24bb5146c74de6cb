"""How one array of a store lies on disk: a zarr v3 array of axes c, y, x in shards of chunks.

The JSON follows the Zarr core specification v3 and the `sharding_indexed` codec (ZEP 2): a shard holds the
chunks of one 4096 px square back to back, then an index of (offset, bytes) pairs and its CRC-32C. These files
are written and read here, because zarr-python is several times slower at it; any zarr v3 reader opens them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atlas_path.geometry import SHARD_PX, WINDOW_PX
from atlas_path.store.codecs import ChunkCodec, codec_from_json

SHARD_BYTES_MAX = 64 << 20  # decoded; a shard is the unit of work of one thread


@dataclass(frozen=True)
class ArrayLayout:
    """Shape, chunks, shards and codec of one stored level.

    Args:
        shape: (channels, height, width).
        dtype: numpy name of the pixel type, e.g. 'uint8'.
        chunk: (channels, height, width) of a chunk.
        shard: the same of a shard; a whole number of chunks.
        codec: how a chunk becomes bytes.
        fill: value of pixels in chunks that are not stored.
    """

    shape: tuple[int, int, int]
    dtype: str
    chunk: tuple[int, int, int]
    shard: tuple[int, int, int]
    codec: ChunkCodec
    fill: int | float

    @property
    def chunks_per_shard(self) -> tuple[int, int, int]:
        """Chunks of a shard along c, y, x."""
        return (
            self.shard[0] // self.chunk[0],
            self.shard[1] // self.chunk[1],
            self.shard[2] // self.chunk[2],
        )

    @property
    def shard_grid(self) -> tuple[int, int]:
        """Shards along y and x (one shard spans all channels)."""
        return -(-self.shape[1] // self.shard[1]), -(-self.shape[2] // self.shard[2])

    @property
    def chunk_grid(self) -> tuple[int, int]:
        """Chunks along y and x."""
        return -(-self.shape[1] // self.chunk[1]), -(-self.shape[2] // self.chunk[2])

    def shard_key(self, row: int, col: int) -> str:
        """Path of a shard below the array's folder."""
        return f"c/0/{row}/{col}"

    def to_json(self) -> dict[str, Any]:
        """The array's `zarr.json`."""
        sharding = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": list(self.chunk),
                "codecs": self.codec.to_json(),
                "index_codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "crc32c"},
                ],
                "index_location": "end",
            },
        }
        return array_json(self.shape, self.dtype, self.shard, [sharding], self.fill, ("c", "y", "x"))

    @classmethod
    def from_json(cls, text: Mapping[str, Any]) -> ArrayLayout:
        """Back from `zarr.json` as written by `to_json`."""
        sharding = text["codecs"][0]["configuration"]
        return cls(
            shape=tuple(text["shape"]),
            dtype=text["data_type"],
            chunk=tuple(sharding["chunk_shape"]),
            shard=tuple(text["chunk_grid"]["configuration"]["chunk_shape"]),
            codec=codec_from_json(sharding["codecs"]),
            fill=text["fill_value"],
        )


def array_json(
    shape: tuple[int, ...],
    dtype: str,
    chunk: tuple[int, ...],
    codecs: list[dict[str, Any]],
    fill: int | float,
    axes: tuple[str, ...],
) -> dict[str, Any]:
    """The `zarr.json` of an array with a regular chunk grid."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(axes),
    }


def window_layout(
    height_px: int, width_px: int, n_channels: int, dtype: str, codec: ChunkCodec, fill: int | float
) -> ArrayLayout:
    """The layout of a level on the window grid: chunks of 256 px, shards of 4096 px.

    Up to four channels share a chunk; more are stored one a chunk, so that a viewer reads only what it shows,
    and with shards made smaller until one is at most 64 MiB decoded.
    """
    chunk_c = n_channels if n_channels <= 4 else 1
    shard_px = SHARD_PX
    pixel_bytes = n_channels * np.dtype(dtype).itemsize
    while shard_px > WINDOW_PX and shard_px * shard_px * pixel_bytes > SHARD_BYTES_MAX:
        shard_px //= 2
    return ArrayLayout(
        shape=(n_channels, height_px, width_px),
        dtype=dtype,
        chunk=(chunk_c, WINDOW_PX, WINDOW_PX),
        shard=(n_channels, shard_px, shard_px),
        codec=codec,
        fill=fill,
    )


def tile_layout(
    height_px: int, width_px: int, n_channels: int, codec: ChunkCodec, tile_px: tuple[int, int], fill: int
) -> ArrayLayout:
    """The layout of a copied level: a chunk is a tile of the scanner, a shard as many as fit into 4096 px."""
    chunk = (n_channels, *tile_px)
    side_y, side_x = (max(1, SHARD_PX // px) * px for px in tile_px)
    return ArrayLayout(
        (n_channels, height_px, width_px), "uint8", chunk, (n_channels, side_y, side_x), codec, fill
    )


def write_json(path: Path, text: Mapping[str, Any], indent: int | None = 2) -> None:
    """Write a JSON file, keys in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(text, indent=indent, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
