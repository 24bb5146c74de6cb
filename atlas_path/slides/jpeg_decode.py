"""JPEG to pixels, with every sign of damage an error, and harmless padding no sign of damage.

Perfect streams of the usual kind are decoded by `jpeg_fast`, all others by libjpeg-turbo. libjpeg only warns
when data end early and fills the rest with gray; here a warning is an error. Two warnings get a second look,
because whole tiles of some writers cause them: zeros between the last block and the end marker, and scan
parameters of a progressive JPEG in a sequential one. JPEG has no checksum: single changed bits can
decode without a trace.
"""

from __future__ import annotations

import cv2
import imagecodecs
import numpy as np
import simplejpeg

from atlas_path.slides.jpeg_fast import decode_fast

EOI = b"\xff\xd9"
_PADDED = "extraneous bytes before marker 0xd9"
_HARMLESS = "Invalid SOS parameters for sequential JPEG"


def decode_strict(data: bytes, colour_space: str, height_px: int, width_px: int) -> np.ndarray:
    """Pixels (height, width, 3 or 1) of a complete JPEG, by the faster decoder that takes it.

    Args:
        data: the stream, from SOI to EOI.
        colour_space: 'RGB' or 'GRAY', of the pixels.
        height_px: height of the image.
        width_px: its width.

    Raises:
        ValueError: damaged, or of another size.
    """
    (fast,) = decode_fast([data], 1 if colour_space == "GRAY" else 3, height_px, width_px, 1)
    return decode_by_libjpeg(data, colour_space, height_px, width_px) if fast is None else fast


def decode_by_libjpeg(
    data: bytes,
    colour_space: str,
    height_px: int,
    width_px: int,
    scale: int = 1,
    buffer: np.ndarray | None = None,
) -> np.ndarray:
    """Pixels (height / scale, width / scale, 3 or 1), rounded up, of a complete JPEG.

    Args:
        data: the stream, from SOI to EOI.
        colour_space: 'RGB' or 'GRAY', of the pixels.
        height_px: height of the image at full size.
        width_px: its width.
        scale: 1, 2, 4 or 8, by the scaled inverse transform.
        buffer: bytes that the pixels may be written to, as many as they are; new ones without it.

    Raises:
        ValueError: damaged, or of another size.
    """
    height, width = -(-height_px // scale), -(-width_px // scale)
    at_least = (height, width) if scale > 1 else (0, 0)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, colour_space, min_height=at_least[0], min_width=at_least[1], buffer=buffer
        )
    except ValueError as error:
        pixels = _second_look(data, colour_space, at_least, str(error))
        if pixels is None:
            raise
        if scale > 1 and pixels.shape[:2] == (height_px, width_px):
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    pixels = np.asarray(pixels).reshape(*pixels.shape[:2], -1)
    if pixels.shape[:2] != (height, width):
        raise ValueError(f"it is {pixels.shape[0]} x {pixels.shape[1]} px")
    return pixels


def _second_look(data: bytes, space: str, at_least: tuple[int, int], warning: str) -> np.ndarray | None:
    """The pixels when the warning had a harmless cause, else None."""
    end = data.rfind(EOI)
    if _PADDED in warning and end > 0:
        bare = data[:end].rstrip(b"\0") + EOI
        try:
            return np.asarray(
                simplejpeg.decode_jpeg(bare, space, min_height=at_least[0], min_width=at_least[1])
            )
        except ValueError:
            return None
    if _HARMLESS in warning:
        pixels = np.asarray(imagecodecs.jpeg8_decode(data))
        return pixels if (pixels.ndim == 2) == (space == "GRAY") else None
    return None
