"""Where the frames of a DICOM whole-slide instance lie, and how one becomes pixels.

Frames are read by offset, so a level of gigabytes is opened in a moment and read from many threads. Decoders
are strict: a JPEG that ends early is damage, not a gray area.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from atlas_path.errors import UnreadableSlideError, UnsupportedSlideError
from atlas_path.slides.jpeg_decode import decode_strict
from atlas_path.slides.jpeg_tiles import Colour, as_standalone

NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
SYNTAX_NAMES = {
    "1.2.840.10008.1.2": "none",
    "1.2.840.10008.1.2.1": "none",
    JPEG_BASELINE: "jpeg",
    "1.2.840.10008.1.2.4.51": "jpeg",
    "1.2.840.10008.1.2.4.57": "jpeg lossless",
    "1.2.840.10008.1.2.4.70": "jpeg lossless",
    "1.2.840.10008.1.2.4.80": "jpeg-ls",
    "1.2.840.10008.1.2.4.81": "jpeg-ls",
    "1.2.840.10008.1.2.4.90": "jpeg2000",
    "1.2.840.10008.1.2.4.91": "jpeg2000",
    "1.2.840.10008.1.2.4.201": "htj2k",
    "1.2.840.10008.1.2.4.202": "htj2k",
    "1.2.840.10008.1.2.4.203": "htj2k",
    "1.2.840.10008.1.2.4.110": "jpeg xl",
    "1.2.840.10008.1.2.4.111": "jpeg xl",
    "1.2.840.10008.1.2.4.112": "jpeg xl",
    "1.2.840.10008.1.2.5": "rle",
}
_ITEM, _END = 0xE000FFFE, 0xE0DDFFFE


def frame_spans(path: Path, dataset: Any, pixels_at: int, n_frames: int) -> list[list[tuple[int, int]]]:
    """Per frame its (offset, size) pieces in the file; the element of PixelData starts at `pixels_at`.

    Raises:
        UnreadableSlideError: the file is cut off inside its table of fragments, or holds too few of them.
    """
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(pixels_at)
        head = file.read(12)
        start = pixels_at + (8 if syntax == "1.2.840.10008.1.2" else 12)
        if len(head) < 12:
            raise _cut(path)
        if syntax in NATIVE:
            frame = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
            frame *= int(dataset.BitsAllocated) // 8
            return [[(start + i * frame, frame)] for i in range(n_frames)]
        items, at = [], start
        while at + 8 <= size:
            file.seek(at)
            tag, length = struct.unpack("<II", file.read(8))
            if tag == _END:
                break
            if tag != _ITEM:
                raise UnreadableSlideError(path, "holds something else between its frames", "export it again")
            items.append((at + 8, length))
            at += 8 + length
        if not items:
            raise _cut(path)
        fragments = items[1:]
        if len(fragments) <= n_frames:  # the rest is missing: those frames are damaged, the others are not
            return [[one] for one in fragments] + [[] for _ in range(n_frames - len(fragments))]
        file.seek(items[0][0])
        table = np.frombuffer(file.read(items[0][1] // 4 * 4), "<u4").astype(np.int64)
    if len(table) != n_frames:
        raise UnreadableSlideError(path, "does not say which fragments make a frame", "export it again")
    starts = np.array([at - 8 for at, _ in fragments]) - (fragments[0][0] - 8)
    owner = np.searchsorted(table, starts, side="right") - 1
    spans: list[list[tuple[int, int]]] = [[] for _ in range(n_frames)]
    for index, fragment in zip(owner, fragments, strict=True):
        spans[max(int(index), 0)].append(fragment)
    return spans


class FrameDecoder:
    """Turns the bytes of a frame into (rows, columns, samples) of the stored type.

    Raises:
        UnsupportedSlideError: a transfer syntax or a kind of pixels that is not read.
    """

    def __init__(self, path: Path, dataset: Any) -> None:
        self.syntax = str(dataset.file_meta.TransferSyntaxUID)
        self.photometric = str(dataset.PhotometricInterpretation)
        self.rows, self.columns = int(dataset.Rows), int(dataset.Columns)
        self.samples = int(dataset.SamplesPerPixel)
        self._planar = int(dataset.get("PlanarConfiguration", 0)) == 1 and self.samples > 1
        bits = int(dataset.BitsAllocated)
        remedy = "convert it to JPEG, JPEG 2000 or uncompressed"
        if self.syntax not in SYNTAX_NAMES:
            raise UnsupportedSlideError(path, "its transfer syntax is not read", remedy)
        if bits not in (8, 16) or int(dataset.get("PixelRepresentation", 0)) != 0:
            raise UnsupportedSlideError(path, f"its {bits}-bit or signed samples are not read", remedy)
        if self.photometric not in ("RGB", "MONOCHROME1", "MONOCHROME2") and not self._is_coded_colour():
            raise UnsupportedSlideError(path, f"photometric {self.photometric[:16]} is not read", remedy)
        self.dtype = np.dtype(f"uint{bits}")
        self._white = 2 ** int(dataset.get("BitsStored", bits)) - 1

    @property
    def jpeg_colour(self) -> Colour | None:
        """Colour model of the frames when they are 8-bit baseline JPEG."""
        if self.syntax != JPEG_BASELINE or self.dtype != np.uint8:
            return None
        if self.samples == 1:
            return "gray" if self.photometric == "MONOCHROME2" else None
        return "rgb" if self.photometric == "RGB" else "ycbcr"

    def decode(self, data: bytes) -> np.ndarray:
        """Pixels of one frame.

        Raises:
            ValueError, RuntimeError: the data are damaged.
        """
        shape = (self.rows, self.columns, self.samples)
        if self.syntax in NATIVE:
            flat = np.frombuffer(
                data, self.dtype.newbyteorder("<"), count=self.rows * self.columns * self.samples
            )
            frame = (
                flat.reshape((self.samples, *shape[:2])).transpose(1, 2, 0)
                if self._planar
                else flat.reshape(shape)
            )
        else:
            frame = np.asarray(self._decompress(data))
        frame = frame.reshape(shape).astype(self.dtype)
        return (self._white - frame).astype(self.dtype) if self.photometric == "MONOCHROME1" else frame

    def _decompress(self, data: bytes) -> Any:
        name = SYNTAX_NAMES[self.syntax]
        if self.jpeg_colour is not None:
            space = "GRAY" if self.samples == 1 else "RGB"
            return decode_strict(as_standalone(data, self.jpeg_colour), space, self.rows, self.columns)
        if name == "rle":
            planes = imagecodecs.dicomrle_decode(data, self.dtype.newbyteorder("<"))
            flat = np.frombuffer(planes, self.dtype.newbyteorder("<"))
            return flat.reshape(self.samples, self.rows, self.columns).transpose(1, 2, 0)
        if name in ("jpeg2000", "htj2k"):
            return imagecodecs.jpeg2k_decode(data)
        if name == "jpeg-ls":
            return imagecodecs.jpegls_decode(data)
        if name == "jpeg xl":
            return imagecodecs.jpegxl_decode(data)
        return imagecodecs.ljpeg_decode(data) if name == "jpeg lossless" else imagecodecs.jpeg8_decode(data)

    def _is_coded_colour(self) -> bool:
        """YCbCr that the decoder of the stream turns into RGB by itself."""
        coded = SYNTAX_NAMES[self.syntax] in ("jpeg", "jpeg2000", "htj2k", "jpeg xl")
        return coded and self.photometric in ("YBR_FULL_422", "YBR_FULL", "YBR_ICT", "YBR_RCT")


def _cut(path: Path) -> UnreadableSlideError:
    return UnreadableSlideError(path, "is cut off before its pixels", "copy the file again and compare sizes")
