"""The compressed JPEG tiles of one level, as they lie in the file.

Ingest copies them byte for byte, or decodes them at 1/2, 1/4 or 1/8 for almost nothing. A tile of a TIFF is
an abbreviated JPEG stream: its tables stand once in the JPEGTables tag, and its colour model in the TIFF's
photometric tag only. `standalone` puts both where every decoder finds them: the tables behind SOI, the
colour model in an Adobe APP14 segment (transform 0: RGB, 1: YCbCr; ISO/IEC 10918-6, TIFF Technical Note 2).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from atlas_path.errors import UnreadableSlideError
from atlas_path.slides.jpeg_decode import EOI, decode_by_libjpeg
from atlas_path.slides.jpeg_fast import decode_fast

Colour = Literal["rgb", "ycbcr", "gray"]
Subsampling = Literal["444", "422", "420", "440", "411", "gray"]

Coded = bytes | memoryview
RawTile = Coded | UnreadableSlideError | None
"""A tile's bytes; its damage; or None where none is stored."""
Tile = np.ndarray | UnreadableSlideError | None
"""The same, decoded."""

SOI = b"\xff\xd8"
DECODE_SCALES = (1, 2, 4, 8)
RUN_BYTES, GAP_BYTES = 4 << 20, 1 << 15  # of one read for several tiles

_APP14 = {"rgb": 0, "ycbcr": 1}
_SUBSAMPLING: dict[tuple[int, int], Subsampling] = {
    (1, 1): "444",
    (1, 2): "422",
    (2, 2): "420",
    (2, 1): "440",
    (1, 4): "411",
}


class JpegTiles:
    """The grid of JPEG tiles of one level. Thread safe and picklable (the file is opened on first use).

    Every tile is `tile_height_px` x `tile_width_px`, those at the right and lower edge too: their pixels
    beyond `height_px` x `width_px` are padding.

    Args:
        path: the file that holds the tiles.
        height_px: height of the level.
        width_px: width of the level.
        tile_height_px: height of each tile.
        tile_width_px: width of each tile.
        offsets: (rows, cols) int64, first byte of each tile.
        bytecounts: (rows, cols) int64; 0 where the format stores no tile (background).
        colour: colour model of the coded components.
        tables: content of the JPEGTables tag, None where each tile is complete.

    Attributes:
        prefix: bytes that take the place of a tile's SOI to make it a complete JPEG (see `with_prefix`).
    """

    def __init__(
        self,
        path: Path,
        height_px: int,
        width_px: int,
        tile_height_px: int,
        tile_width_px: int,
        offsets: np.ndarray,
        bytecounts: np.ndarray,
        colour: Colour,
        tables: bytes | None = None,
    ) -> None:
        self.path, self.colour, self.tables = path, colour, tables
        self.height_px, self.width_px = height_px, width_px
        self.tile_height_px, self.tile_width_px = tile_height_px, tile_width_px
        self.rows, self.cols = -(-height_px // tile_height_px), -(-width_px // tile_width_px)
        self.offsets = np.asarray(offsets, np.int64).reshape(self.rows, self.cols)
        self.bytecounts = np.asarray(bytecounts, np.int64).reshape(self.rows, self.cols)
        self.prefix = SOI + _adobe(colour) + (_inner(tables) if tables else b"")
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._file_size = 0
        self.subsampling: Subsampling = self._first_frame()

    def raw(self, row: int, col: int) -> bytes | None:
        """The tile's bytes exactly as stored; None where the format stores no tile.

        Raises:
            UnreadableSlideError: the file ends before the tile does, or the bytes are not a JPEG.
        """
        data = self.raw_many([(row, col)])[0]
        if isinstance(data, UnreadableSlideError):
            raise data
        return None if data is None else bytes(data)

    def raw_many(self, at: Sequence[tuple[int, int]]) -> list[RawTile]:
        """What `raw` gives for each (row, col), its error in place of damaged tiles.

        Tiles that lie close together in the file, as those of a row mostly do, are read at once.
        """
        where = [(int(self.offsets[one]), int(self.bytecounts[one]), i) for i, one in enumerate(at)]
        found: list[RawTile] = [None] * len(at)
        for run in runs(sorted(one for one in where if one[0] and one[1]), RUN_BYTES, GAP_BYTES):
            start = run[0][0]
            size = max(o + n for o, n, _ in run) - start
            data = memoryview(read_at(self._open(), size, start, self._file_size))
            for offset, count, i in run:
                part = data[offset - start : offset - start + count]
                if len(part) != count and len(run) > 1:  # the run's end is missing, perhaps not this tile's
                    part = memoryview(read_at(self._open(), count, offset, self._file_size))
                if len(part) != count:
                    found[i] = self._damage(*at[i], "lies beyond the end of the file or cannot be read")
                else:
                    found[i] = part if part[:2] == SOI else self._damage(*at[i], "is not a JPEG")
        return found

    def standalone(self, row: int, col: int) -> bytes | None:
        """The tile as a complete JPEG any decoder shows in the right colours; None where there is no tile.

        The entropy-coded data are those of the file, untouched.
        """
        data = self.raw(row, col)
        if data is None:
            return None
        return with_prefix(data, self.prefix)

    def decode(self, row: int, col: int, scale: int = 1) -> np.ndarray | None:
        """The tile's pixels (tile_height, tile_width, 3 or 1) uint8; None where there is no tile.

        `scale` 2, 4 or 8 decodes to 1/scale of the size (rounded up) with the scaled inverse DCT.

        Raises:
            UnreadableSlideError: the tile is damaged; a decoder's warning counts as damage.
        """
        (tile,) = self.decode_many([(row, col)], self.raw_many([(row, col)]), scale)
        if isinstance(tile, UnreadableSlideError):
            raise tile
        return tile

    def decode_many(
        self, at: Sequence[tuple[int, int]], raw: Sequence[RawTile], scale: int = 1
    ) -> list[Tile]:
        """The tiles at (row, col) from what `raw_many` gave for them; the error in place of damaged ones."""
        found: list[Tile] = [one if isinstance(one, UnreadableSlideError) else None for one in raw]
        coded = [(i, one) for i, one in enumerate(raw) if one and not isinstance(one, UnreadableSlideError)]
        channels = 1 if self.colour == "gray" else 3
        side_y, side_x = self.tile_height_px, self.tile_width_px
        fast = decode_fast([one for _, one in coded], channels, side_y, side_x, scale, self.prefix)
        for (i, one), pixels in zip(coded, fast, strict=True):
            try:
                found[i] = self._by_libjpeg(*at[i], one, scale) if pixels is None else pixels
            except UnreadableSlideError as damage:
                found[i] = damage
        return found

    def _by_libjpeg(self, row: int, col: int, raw: Coded, scale: int) -> np.ndarray:
        data = with_prefix(raw, self.prefix)
        space = "GRAY" if self.colour == "gray" else "RGB"
        try:
            return decode_by_libjpeg(data, space, self.tile_height_px, self.tile_width_px, scale)
        except ValueError as error:
            raise self._damage(row, col, f"does not decode ({error})") from error

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_lock": None, "_fd": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            self.close()

    def _open(self) -> int:
        with self._lock:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                self._file_size = os.fstat(self._fd).st_size
            return self._fd

    def _first_frame(self) -> Subsampling:
        """Subsampling from the frame header of the first stored tile: the TIFF tag of some makers lies."""
        if self.colour == "gray":
            return "gray"
        for row, col in np.argwhere(self.bytecounts > 0)[:8]:
            try:
                data = self.raw(int(row), int(col))
            except UnreadableSlideError:
                continue  # reported when this tile is read
            factors = _sampling_factors(data or b"")
            if factors is not None:
                return factors
        return "444"

    def _damage(self, row: int, col: int, what: str) -> UnreadableSlideError:
        return UnreadableSlideError(
            self.path,
            f"JPEG tile (row {row}, column {col}) {what}",
            "copy the file again or rescan the slide",
        )


def runs(
    pieces: Sequence[tuple[int, int, int]], run_bytes: int, gap_bytes: int
) -> Iterator[list[tuple[int, int, int]]]:
    """Pieces of a file (offset, bytes, number), sorted, in groups worth one read."""
    run: list[tuple[int, int, int]] = []
    for piece in pieces:
        if run and (piece[0] - (run[-1][0] + run[-1][1]) > gap_bytes or piece[0] - run[0][0] > run_bytes):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def read_at(descriptor: int, count: int, offset: int, file_size: int) -> bytes:
    """`count` bytes at `offset`, or fewer: nothing is read for a range that a damaged header puts elsewhere,
    nor where the disk fails."""
    if offset < 0 or count < 0 or offset + count > file_size:
        return b""
    try:
        return os.pread(descriptor, count, offset)
    except OSError:
        return b""


def as_standalone(data: bytes, colour: Colour) -> bytes:
    """A JPEG with its colour model stated, whatever it says of itself."""
    return with_prefix(data, SOI + _adobe(colour))


def with_prefix(data: Coded, prefix: bytes) -> bytes:
    """`data` with `prefix` for its SOI; a JFIF or Adobe segment of its own could contradict and goes."""
    if data[2:4] in (b"\xff\xe0", b"\xff\xee"):
        data = _without_app0_app14(bytes(data))
    return b"".join((prefix, memoryview(data)[2:]))


def _adobe(colour: Colour) -> bytes:
    """An Adobe APP14 segment that states the colour transform; nothing for gray."""
    if colour == "gray":
        return b""
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([_APP14[colour]])


def _inner(tables: bytes) -> bytes:
    """The table segments between SOI and EOI of a JPEGTables tag."""
    start = 2 if tables[:2] == SOI else 0
    stop = len(tables) - 2 if tables[-2:] == EOI else len(tables)
    return tables[start:stop]


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, stop) of the header segments up to and with start-of-scan; [] past damage."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, stop = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((marker, at, stop))
        if marker == 0xDA:
            break
        at = stop
    return found


def _without_app0_app14(data: bytes) -> bytes:
    segments = _segments(data)
    kept = [data[start:stop] for marker, start, stop in segments if marker not in (0xE0, 0xEE)]
    return SOI + b"".join(kept) + (data[segments[-1][2] :] if segments else data[2:])


def _sampling_factors(data: bytes) -> Subsampling | None:
    for marker, start, stop in _segments(data):
        if marker in (0xC0, 0xC1, 0xC2) and stop - start >= 19:
            luma, chroma = data[start + 11], data[start + 14]
            ratio = (luma >> 4) // max(chroma >> 4, 1), (luma & 15) // max(chroma & 15, 1)
            return _SUBSAMPLING.get((ratio[1], ratio[0]), "444")
    return None
