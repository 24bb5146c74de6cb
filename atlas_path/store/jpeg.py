"""JPEG chunks: the scanner's own tiles as they are, or windows encoded anew; decoded at 1/1, 1/2, 1/4 or 1/8.

A tile of a TIFF is an abbreviated stream: tables and colour model stand elsewhere in the file. They are kept
once, in the codec's configuration, as the bytes that take the place of a tile's SOI marker; so a chunk holds
exactly the bytes of the slide, and prefix + chunk[2:] is a JPEG that every decoder opens.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg

from atlas_path.slides.jpeg_decode import decode_by_libjpeg
from atlas_path.slides.jpeg_fast import decode_fast
from atlas_path.slides.jpeg_tiles import Coded, with_prefix

CODEC_NAME = "atlas_path.jpeg"
SOI = b"\xff\xd8"
SUBSAMPLING = "444"  # colour is what stains differ in


@dataclass(frozen=True)
class Jpeg:
    """The codec of compact stores.

    Args:
        channels: 3 (RGB) or 1 (gray).
        quality: of windows that are encoded here; does not matter for reading.
        prefix: takes the place of the SOI of every chunk.
    """

    channels: int
    quality: int = 90
    prefix: bytes = SOI

    @property
    def name(self) -> str:
        """See `ChunkCodec`."""
        return "jpeg"

    def to_json(self) -> list[dict[str, Any]]:
        """See `ChunkCodec`. The transpose is there because NGFF wants c first and JPEG has it last."""
        configuration = {
            "channels": self.channels,
            "quality": self.quality,
            "prefix": base64.b64encode(self.prefix).decode(),
        }
        return [
            {"name": "transpose", "configuration": {"order": [1, 2, 0]}},
            {"name": CODEC_NAME, "configuration": configuration},
        ]

    @classmethod
    def from_configuration(cls, configuration: dict[str, Any]) -> Jpeg:
        """Back from `to_json`."""
        prefix = base64.b64decode(configuration["prefix"])
        return cls(int(configuration["channels"]), int(configuration["quality"]), prefix)

    def encode(self, window: np.ndarray) -> bytes:
        """See `ChunkCodec`."""
        return bytes(
            simplejpeg.encode_jpeg(
                np.ascontiguousarray(window),
                quality=self.quality,
                colorspace=self._space,
                colorsubsampling=SUBSAMPLING if self.channels == 3 else "Gray",
            )
        )

    def decode_into(self, payload: Coded, out: np.ndarray) -> None:
        """See `ChunkCodec`."""
        pixels = self.decode(payload, out.shape[1], out.shape[2])
        if self.channels == 1:
            out[0] = pixels[:, :, 0]
        else:
            cv2.split(pixels, list(out))

    def decode(
        self,
        payload: Coded,
        height_px: int,
        width_px: int,
        scale: int = 1,
        buffer: np.ndarray | None = None,
    ) -> np.ndarray:
        """Pixels (height / scale, width / scale, channels) of a chunk of height x width, perhaps in `buffer`.

        Scales 2, 4 and 8 use the decoder's reduced inverse DCT, which is close to the mean of the pixels.

        Raises:
            ValueError: damaged; a warning of the decoder counts.
        """
        out = None
        if buffer is not None:
            shape = (height_px // scale, width_px // scale, self.channels)
            out = [buffer[: math.prod(shape)].reshape(shape)]
        (fast,) = decode_fast([payload], self.channels, height_px, width_px, scale, self.prefix, out)
        if fast is not None:
            return fast
        data = with_prefix(payload, self.prefix)
        return decode_by_libjpeg(data, self._space, height_px, width_px, scale, buffer)

    @property
    def _space(self) -> str:
        return "RGB" if self.channels == 3 else "GRAY"
