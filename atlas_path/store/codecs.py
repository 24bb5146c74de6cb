"""A chunk of pixels to bytes and back: the lossless codecs of the Zarr v3 core.

lz4 (through blosc) is the default. Measured on H&E windows of 256 px, one core: lz4 encodes at 760-900 and
decodes at 1,700 MPix/s, zstd level 1 at 270-300 and 430-470, and zstd saves only a tenth of the disk; reading
back is what training does all day. `benchmarks/ingest.py` and `benchmarks/readback.py` compare both.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import imagecodecs
import numpy as np

from atlas_path.slides.jpeg_tiles import Coded
from atlas_path.store.jpeg import CODEC_NAME, Jpeg

LZ4_LEVEL = 1
ZSTD_LEVEL = 1
_local = threading.local()


class ChunkCodec(Protocol):
    """How the chunks of an array are coded. Immutable, picklable, thread safe; releases the GIL."""

    @property
    def name(self) -> str:
        """'lz4', 'zstd' or 'jpeg'."""

    def to_json(self) -> list[dict[str, Any]]:
        """The `codecs` list of zarr.json."""

    def encode(self, window: np.ndarray) -> bytes:
        """Bytes of a chunk that is given as (y, x, c), any strides; stored as (c, y, x)."""

    def decode_into(self, payload: Coded, out: np.ndarray) -> None:
        """Decode into a C-contiguous chunk (c, y, x).

        Raises:
            ValueError: the bytes are damaged.
        """


@dataclass(frozen=True)
class Lz4:
    """LZ4 in a blosc frame; 16-bit pixels are byte-shuffled, which shrinks them."""

    itemsize: int = 1

    @property
    def name(self) -> str:
        """See `ChunkCodec`."""
        return "lz4"

    @property
    def _shuffle(self) -> str:
        return "shuffle" if self.itemsize > 1 else "noshuffle"

    def to_json(self) -> list[dict[str, Any]]:
        """See `ChunkCodec`."""
        blosc = {
            "cname": "lz4",
            "clevel": LZ4_LEVEL,
            "shuffle": self._shuffle,
            "typesize": self.itemsize,
            "blocksize": 0,
        }
        return [_little_endian(), {"name": "blosc", "configuration": blosc}]

    def encode(self, window: np.ndarray) -> bytes:
        """See `ChunkCodec`."""
        return bytes(
            imagecodecs.blosc_encode(
                _planar(window),
                level=LZ4_LEVEL,
                compressor="lz4",
                shuffle=self._shuffle,
                typesize=self.itemsize,
                numthreads=1,
            )
        )

    def decode_into(self, payload: Coded, out: np.ndarray) -> None:
        """See `ChunkCodec`."""
        _decode(imagecodecs.blosc_decode, payload, out, numthreads=1)


@dataclass(frozen=True)
class Zstd:
    """Zstandard, a tenth smaller than lz4 and about four times slower to read."""

    @property
    def name(self) -> str:
        """See `ChunkCodec`."""
        return "zstd"

    def to_json(self) -> list[dict[str, Any]]:
        """See `ChunkCodec`."""
        return [
            _little_endian(),
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
        ]

    def encode(self, window: np.ndarray) -> bytes:
        """See `ChunkCodec`."""
        return bytes(imagecodecs.zstd_encode(_planar(window), level=ZSTD_LEVEL))

    def decode_into(self, payload: Coded, out: np.ndarray) -> None:
        """See `ChunkCodec`."""
        _decode(imagecodecs.zstd_decode, payload, out)


def lossless_codec(name: str, dtype: str) -> ChunkCodec:
    """The codec of that name ('lz4' or 'zstd') for pixels of `dtype`."""
    return Zstd() if name == "zstd" else Lz4(np.dtype(dtype).itemsize)


def codec_from_json(codecs: Sequence[dict[str, Any]]) -> ChunkCodec:
    """The codec that wrote an array, from its `zarr.json`.

    Raises:
        ValueError: not a codec of ours.
    """
    last = codecs[-1]
    if last["name"] == "blosc":
        return Lz4(int(last["configuration"]["typesize"]))
    if last["name"] == "zstd":
        return Zstd()
    if last["name"] == CODEC_NAME:
        return Jpeg.from_configuration(last["configuration"])
    raise ValueError(f"codec {last['name']!r} is not one of this project's stores")


def _little_endian() -> dict[str, Any]:
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _planar(window: np.ndarray) -> Any:
    """(y, x, c) as a C-contiguous, little-endian (c, y, x); cv2 is several times faster at it than numpy."""
    height, width, channels = window.shape
    planes = _scratch((channels, height, width), window.dtype)
    if 1 < channels <= 4 and window.dtype in (np.uint8, np.uint16):
        cv2.split(np.ascontiguousarray(window), list(planes))  # 20 us; 440 us for a window with strides
    else:
        np.copyto(planes, window.transpose(2, 0, 1))
    return planes if sys.byteorder == "little" or planes.itemsize == 1 else planes.byteswap()


def _scratch(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of this thread's own, the same one every time: new memory costs more than filling it."""
    array: np.ndarray | None = getattr(_local, "planes", None)
    if array is None or array.shape != shape or array.dtype != dtype:
        array = _local.planes = np.empty(shape, dtype)
    return array


def _decode(decoder: Any, payload: Coded, out: np.ndarray, **options: Any) -> None:
    """Decode straight into `out`; every failure of the codec library becomes a ValueError."""
    try:
        decoded = decoder(payload, out=out.reshape(-1).view(np.uint8), **options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"a chunk does not decode ({error})") from error
    if len(decoded) != out.nbytes:
        raise ValueError(f"a chunk decodes to {len(decoded)} bytes instead of {out.nbytes}")
    if sys.byteorder == "big" and out.itemsize > 1:
        out.byteswap(inplace=True)
