"""PNG and JPEG images: one level, decoded once on first use.

They say nothing about size that can be trusted, so micrometres per pixel always come from the caller.
"""

from __future__ import annotations

import threading
from pathlib import Path

import imagecodecs
import numpy as np
import simplejpeg
from PIL import Image

from atlas_path.errors import UnreadableSlideError, UnsupportedSlideError
from atlas_path.slides.base import SlideReader, pyramid

LARGEST_FLAT_BYTES = 2**29
_KINDS = {"L": "mono", "1": "mono", "I;16": "mono", "I;16B": "mono", "I": "mono"}


class FlatSlide(SlideReader):
    """A PNG or JPEG image as a slide of one level.

    Raises:
        UnreadableSlideError: damaged or cut off.
        UnsupportedSlideError: CMYK, or too large to decode at once.
    """

    reader = "flat"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()
        self._pixels: np.ndarray | None = None
        try:
            with Image.open(path) as image:
                width, height = image.size
                mode, self.vendor = image.mode, (image.format or "").lower() or None
                self.icc_profile = image.info.get("icc_profile")
        except Image.DecompressionBombError as error:
            raise _too_large(path) from error
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadableSlideError(path, "damaged or cut off", "copy the file again") from error
        if mode == "CMYK":
            raise UnsupportedSlideError(path, "is CMYK", "save it as RGB")
        self.compression = self.vendor
        self.levels = pyramid([(height, width)], path)
        if _KINDS.get(mode) == "mono":
            self.kind, self.n_channels, self.channel_names = "mono", 1, ("gray",)
            self.dtype = np.dtype(np.uint16 if mode.startswith("I") else np.uint8)
        elif mode == "RGB" and self.vendor == "png" and _png_bit_depth(path) == 16:
            self.dtype = np.dtype(np.uint16)
        if height * width * self.n_channels * self.dtype.itemsize > LARGEST_FLAT_BYTES:
            raise _too_large(path)
        self.reader_version = f"imagecodecs {imagecodecs.__version__}"

    def _read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:  # noqa: ARG002
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._pixels[y_px : y_px + height_px, x_px : x_px + width_px].copy()

    def close(self) -> None:
        with self._lock:
            self._pixels = None

    def _decode(self) -> np.ndarray:
        data = self.path.read_bytes()
        try:
            if self.vendor == "jpeg":
                pixels = simplejpeg.decode_jpeg(data, "GRAY" if self.kind == "mono" else "RGB")
            else:
                pixels = imagecodecs.png_decode(data)
        except (ValueError, RuntimeError) as error:
            raise UnreadableSlideError(
                self.path, f"does not decode ({' '.join(str(error).split())})", "copy the file again"
            ) from error
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        if pixels.shape[-1] in (2, 4):
            pixels = self._on_background(pixels)
        frame = self.levels[0]
        if pixels.shape != (frame.height_px, frame.width_px, self.n_channels) or pixels.dtype != self.dtype:
            raise UnsupportedSlideError(
                self.path, "is a kind of PNG that is not read", "save it as 8-bit RGB"
            )
        return np.asarray(pixels)

    def _on_background(self, pixels: np.ndarray) -> np.ndarray:
        opacity = pixels[..., -1:].astype(np.float32) / np.iinfo(pixels.dtype).max
        blended: np.ndarray = np.rint(pixels[..., :-1] * opacity + self.background * (1 - opacity))
        return blended.astype(pixels.dtype)


def _too_large(path: Path) -> UnsupportedSlideError:
    return UnsupportedSlideError(path, "is too large to decode at once", "convert it to a tiled TIFF first")


def _png_bit_depth(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]
