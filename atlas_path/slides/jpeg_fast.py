"""JPEG tiles to pixels by this project's own decoder (`jpeg_c/`), where it was compiled and fits.

It takes baseline streams at 4:4:4 or gray, at full or half size, gives exactly libjpeg-turbo's pixels, and
takes about two thirds of its time. All others, and every stream that is not perfect, it declines:
`jpeg_decode` then asks libjpeg-turbo. Installing from source compiles it if there is a C compiler
(`hatch_build.py`); without one all works as before, slower. `ATLAS_PATH_JPEG=libjpeg` turns it off.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LIBRARY = Path(__file__).with_name("_jpeg_fast.so")
SCALES = (1, 2)
_DECODED, _DECLINED, _NO_MEMORY = range(3)


def _load() -> ctypes.CDLL | None:
    if os.environ.get("ATLAS_PATH_JPEG") == "libjpeg":
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if not library.jpeg_fast_pays():
            return None
    except (OSError, AttributeError):  # not compiled, or another machine's: `atlas-path doctor` says so
        return None
    library.jpeg_fast_new.restype = ctypes.c_void_p
    library.jpeg_fast_free.argtypes = [ctypes.c_void_p]
    pointers = [ctypes.c_void_p] * 2
    sizes = [ctypes.c_int] * 4
    library.jpeg_fast_decode.restype = None
    library.jpeg_fast_decode.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        *pointers,
        *sizes,
        *pointers,
    ]
    return library


class _Context:
    """Tables and buffers of one thread, given back when the thread ends."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._free = library.jpeg_fast_free
        self.pointer = library.jpeg_fast_new()
        if self.pointer is None:
            raise MemoryError("no memory for a JPEG decoder")

    def __del__(self) -> None:
        if self.pointer is not None:
            self._free(self.pointer)


_library = _load()
_local = threading.local()


def available() -> bool:
    """The decoder was compiled, is faster on this processor (x86-64 with AVX2), and is not turned off."""
    return _library is not None


def decode_fast(
    images: Sequence[bytes | memoryview],
    channels: int,
    height_px: int,
    width_px: int,
    scale: int,
    prefix: bytes = b"",
    out: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray | None]:
    """Pixels (height / scale, width / scale, channels) uint8 of JPEGs of one size; None for those declined.

    Args:
        images: streams from SOI to EOI.
        channels: 3 (RGB) or 1 (gray), of the streams and of the pixels.
        height_px: height at full size.
        width_px: its width.
        scale: 1, 2, 4 or 8; 4 and 8 are declined.
        prefix: takes the place of each SOI, as in `jpeg_tiles.with_prefix`; nothing for complete streams.
        out: contiguous arrays to write to, one each; new ones without it.

    Raises:
        MemoryError: there is none left.
    """
    n = len(images)
    if _library is None or scale not in SCALES or height_px % scale or width_px % scale:
        return [None] * n
    if not hasattr(_local, "context"):
        _local.context = _Context(_library)
    if out is None:
        out = [np.empty((height_px // scale, width_px // scale, channels), np.uint8) for _ in range(n)]
    states = bytearray(n)
    _library.jpeg_fast_decode(
        _local.context.pointer,
        prefix,
        len(prefix),
        n,
        (ctypes.c_void_p * n)(*map(_address_of_bytes, images)),
        (ctypes.c_size_t * n)(*map(len, images)),
        channels,
        height_px,
        width_px,
        scale,
        (ctypes.c_void_p * n)(*map(_address, out)),
        (ctypes.c_uint8 * n).from_buffer(states),
    )
    if _NO_MEMORY in states:
        raise MemoryError("no memory for a JPEG tile")
    return [pixels if state == _DECODED else None for pixels, state in zip(out, states, strict=True)]


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _address_of_bytes(data: bytes | memoryview) -> int | None:
    return _address(np.frombuffer(data, np.uint8)) if data else None
