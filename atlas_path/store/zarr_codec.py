"""The JPEG codec for zarr-python, found through the entry point group `zarr.codecs`.

Where atlas-path is installed, plain `zarr.open` reads (and writes) the arrays of compact stores.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from atlas_path.store.jpeg import CODEC_NAME, Jpeg


@dataclass(frozen=True)
class JpegTileCodec(ArrayBytesCodec):
    """Chunks (y, x, c) of uint8 as JPEG streams whose common header is in the configuration."""

    codec: Jpeg
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From the codec's entry in zarr.json."""
        return cls(Jpeg.from_configuration(data["configuration"]))

    def to_dict(self) -> dict[str, Any]:
        """The codec's entry in zarr.json."""
        entry: dict[str, Any] = self.codec.to_json()[-1]
        assert entry["name"] == CODEC_NAME
        return entry

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Not known before encoding."""
        raise ValueError(f"the size of {input_byte_length} bytes as a JPEG is not known beforehand")

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        height, width, _ = chunk_spec.shape
        pixels = await asyncio.to_thread(self.codec.decode, chunk_bytes.to_bytes(), height, width)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        pixels = np.asarray(chunk_array.as_numpy_array(), np.uint8)
        payload = await asyncio.to_thread(self.codec.encode, pixels)
        return chunk_spec.prototype.buffer.from_bytes(payload)
