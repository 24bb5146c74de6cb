"""Where the frames of a DICOM file lie, and whether the file is whole.

Nothing is decoded here: the walk goes over item headers only, so it is quick on a stack of gigabytes and it
finds a cut file before a decoder could paper over it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.dataset import Dataset

from atlas_path.slides.mammo.errors import UnreadableMammogramError
from atlas_path.slides.mammo.header import DEFLATED, EXPLICIT_BIG_ENDIAN, Header, quiet_pydicom

ITEM = 0xE000FFFE  # (FFFE,E000) read as one little-endian number
SEQUENCE_END = 0xE0DDFFFE
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", EXPLICIT_BIG_ENDIAN, DEFLATED)
LARGEST_SIDE_PX = 65535


@dataclass(frozen=True)
class PixelLayout:
    """How one frame is laid out, as the header declares it."""

    rows: int
    cols: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    n_frames: int

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.cols * (self.bits_allocated // 8)


def layout_of(header: Header) -> PixelLayout:
    """The layout, checked for sense.

    Raises:
        UnreadableMammogramError: 'damaged': a size or a number of bits that cannot be.
    """

    def whole(keyword: str, default: int | None = None) -> int:
        value = header.number(keyword)
        if value is None and default is not None:
            return default
        if value is None or value != int(value):
            raise _damaged(header, f"does not say its {keyword}")
        return int(value)

    rows, cols = whole("Rows"), whole("Columns")
    allocated = whole("BitsAllocated", 16)
    stored = whole("BitsStored", allocated)
    layout = PixelLayout(
        rows, cols, allocated, stored, whole("HighBit", stored - 1), whole("PixelRepresentation", 0) == 1,
        whole("NumberOfFrames", 1),
    )  # fmt: skip
    if not (0 < rows <= LARGEST_SIDE_PX and 0 < cols <= LARGEST_SIDE_PX and layout.n_frames > 0):
        raise _damaged(header, "declares an impossible size")
    if (
        allocated not in (8, 16)
        or not 0 < stored <= allocated
        or not stored <= layout.high_bit + 1 <= allocated
    ):
        raise _damaged(header, f"declares {stored} bits stored in {allocated}, which cannot be read")
    return layout


class Frames:
    """Raw (still compressed) frames of an open file, read one at a time."""

    def __init__(self, file: BinaryIO, header: Header, layout: PixelLayout) -> None:
        self.file, self.header, self.layout = file, header, layout
        self.big_endian = header.transfer_syntax == EXPLICIT_BIG_ENDIAN
        self._inflated: bytes | None = None
        self._spans: list[list[tuple[int, int]]] = []
        if header.transfer_syntax == DEFLATED:
            self._inflated = self._inflate()
        elif header.transfer_syntax in NATIVE:
            self._check_native(header.pixels_declared, header.file_bytes - (header.pixels_at or 0))
        else:
            self._spans = self._encapsulated_spans()

    @property
    def is_native(self) -> bool:
        return self.header.transfer_syntax in NATIVE

    def raw(self, index: int) -> bytes:
        """The bytes of frame `index`."""
        if self._inflated is not None:
            size = self.layout.frame_bytes
            return self._inflated[index * size : (index + 1) * size]
        if self.is_native:
            spans = [
                ((self.header.pixels_at or 0) + index * self.layout.frame_bytes, self.layout.frame_bytes)
            ]
        else:
            spans = self._spans[index]
        parts = []
        for at, size in spans:
            self.file.seek(at)
            part = self.file.read(size)
            if len(part) != size:
                raise _truncated(self.header)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check_native(self, declared: int | None, available: int) -> None:
        needed = self.layout.frame_bytes * self.layout.n_frames
        if declared is None:
            raise _damaged(self.header, "has uncompressed pixels of undefined length")
        if declared < needed:
            raise _damaged(
                self.header,
                f"declares {needed} bytes of pixels but holds {declared} (size or frames are wrong)",
            )
        if available < needed:
            raise _truncated(self.header)

    def _inflate(self) -> bytes:
        import pydicom

        with quiet_pydicom(self.header.subject, "the deflated data set"):
            dataset: Dataset = pydicom.dcmread(self.header.path)
            pixels = bytes(dataset.get("PixelData", b""))
        self._check_native(len(pixels), len(pixels))
        return pixels

    def _encapsulated_spans(self) -> list[list[tuple[int, int]]]:
        """Per frame the (offset, size) of its fragments."""
        table, fragments = self._walk()
        n_frames = self.layout.n_frames
        if n_frames == 1:
            if not fragments:
                raise _truncated(self.header)
            return [fragments]
        if len(fragments) == n_frames:
            return [[fragment] for fragment in fragments]
        if len(table) != n_frames or not fragments:
            raise _damaged(
                self.header, f"holds {len(fragments)} fragments for {n_frames} frames and no table"
            )
        first = fragments[0][0] - 8
        spans: list[list[tuple[int, int]]] = [[] for _ in range(n_frames)]
        for at, size in fragments:
            index = sum(1 for start in table if start <= at - 8 - first) - 1
            spans[index].append((at, size))
        if not all(spans):
            raise _damaged(self.header, "has an offset table that does not fit its fragments")
        return spans

    def _walk(self) -> tuple[list[int], list[tuple[int, int]]]:
        at = self.header.pixels_at or 0
        items: list[tuple[int, int]] = []
        while True:
            self.file.seek(at)
            head = self.file.read(8)
            if len(head) < 8:
                raise _truncated(self.header)
            tag, size = struct.unpack("<II", head)
            if tag == SEQUENCE_END:
                break
            if tag != ITEM:
                raise _damaged(self.header, "has something else between its pixel fragments")
            if at + 8 + size > self.header.file_bytes:
                raise _truncated(self.header)
            items.append((at + 8, size))
            at += 8 + size
        if not items:
            raise _truncated(self.header)
        self.file.seek(items[0][0])
        table = self.file.read(items[0][1])
        offsets = [number for (number,) in struct.iter_unpack("<I", table[: len(table) // 4 * 4])]
        return offsets, items[1:]


def _damaged(header: Header, fault: str) -> UnreadableMammogramError:
    return UnreadableMammogramError(header.subject, fault, "export it again", "damaged")


def _truncated(header: Header) -> UnreadableMammogramError:
    return UnreadableMammogramError(
        header.subject, "ends before its pixels do", "copy or export it again", "truncated"
    )
