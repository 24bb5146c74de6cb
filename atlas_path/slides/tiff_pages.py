"""One TIFF page as a grid of tiles (strips are tiles of full width), read by `pread` and decoded strictly.

tifffile parses the file and knows the compressions; what it reads leniently is checked here: bytes that lie
beyond the end of the file, a tile of the wrong size and a JPEG decoder's warnings are damage, never pixels.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile

from atlas_path.errors import UnreadableSlideError, UnsupportedSlideError
from atlas_path.slides.jpeg_tiles import Colour, JpegTiles, read_at

JPEG = 7
JPEG2000 = (33003, 33004, 33005, 34712)
HOLE = bytes(2048)  # never inside arithmetic-coded data; JPEG 2000 decoders show such a hole as blur
PLAIN_READ_BYTES = 2**20
LARGEST_TILE_BYTES = 2**28
MINISWHITE, MINISBLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
_JPEG_COLOUR: dict[int, Colour] = {RGB: "rgb", YCBCR: "ycbcr", MINISBLACK: "gray"}
_SHOWABLE = (MINISWHITE, MINISBLACK, RGB, PALETTE)


class SharedFile:
    """A file read at offsets from many threads; opened on first use, closed by `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._lock = threading.Lock()

    def pread(self, count: int, offset: int) -> bytes:
        """`count` bytes at `offset`; fewer where the file does not have them or the disk fails."""
        with self._lock:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            descriptor = self._fd
        return read_at(descriptor, count, offset, os.fstat(descriptor).st_size)

    def close(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None


class PageTiles:
    """The tiles of one page (of one sample plane of it, when its samples are stored apart).

    Attributes:
        height_px, width_px, tile_height_px, tile_width_px: geometry.
        n_samples: channels of a decoded tile.
        dtype: type of the decoded samples.
    """

    def __init__(self, file: SharedFile, page: Any, plane: int = 0) -> None:
        self._file, self._plane = file, plane
        self._key: tifffile.TiffPage = page.keyframe
        self._tables: bytes | None = page.jpegtables if hasattr(page, "jpegtables") else None
        self._header: bytes | None = getattr(page, "jpegheader", None)
        key = self._key
        self.height_px, self.width_px = int(key.imagelength), int(key.imagewidth)
        if key.is_tiled:
            self.tile_height_px, self.tile_width_px = int(key.tilelength), int(key.tilewidth)
        else:
            self.tile_height_px = min(int(key.rowsperstrip), self.height_px) or self.height_px
            self.tile_width_px = self.width_px
        self.rows = -(-self.height_px // self.tile_height_px)
        self.cols = -(-self.width_px // self.tile_width_px)
        self.dtype = np.dtype(key.dtype)
        self.n_planes = int(key.samplesperpixel) if int(key.planarconfig) == 2 else 1
        self.n_samples = 3 if key.photometric == PALETTE else int(key.samplesperpixel) // self.n_planes
        self._offsets = np.asarray(page.dataoffsets, np.int64)
        self._bytecounts = np.asarray(page.databytecounts, np.int64)
        self._decode = key.decode  # built while the file is open; needs no file afterwards
        self._colours = np.asarray(key.colormap) if key.photometric == PALETTE else None
        self._plain_rows = self._is_one_plain_block()
        if self._plain_rows:  # any number of rows can be read: bounded pieces instead of one huge strip
            row_bytes = self.width_px * self.n_samples * self.dtype.itemsize
            self.tile_height_px = int(np.clip(PLAIN_READ_BYTES // row_bytes, 1, self.height_px))
            self.rows = -(-self.height_px // self.tile_height_px)
        elif (
            self.tile_height_px * self.tile_width_px * self.n_samples * self.dtype.itemsize
            > LARGEST_TILE_BYTES
        ):
            raise UnsupportedSlideError(
                file.path, "its pixels are one huge compressed strip", "convert it to a tiled TIFF first"
            )
        self.jpeg = self._jpeg_tiles()

    def fetch(self, row: int, col: int) -> np.ndarray | None:
        """Tile (height, width, samples); the last strip is shorter. None where the file stores no tile.

        Raises:
            UnreadableSlideError: the tile is damaged or lies beyond the end of the file.
        """
        if self.jpeg is not None:
            return self.jpeg.decode(row, col)
        if self._plain_rows:
            return self._fetch_plain(row)
        data, index = self.raw(row, col), self._index(row, col)
        if data is None:
            return None
        if int(self._key.compression) == JPEG and self._header is None:
            self._check_jpeg(data, row, col)
        try:
            tile, _, shape = (
                self._decode(data, index, jpegtables=self._tables, jpegheader=self._header)
                if int(self._key.compression) in (6, JPEG)
                else self._decode(data, index)
            )
        except Exception as error:  # each codec raises its own kinds
            raise self._damage(row, col, f"does not decode ({type(error).__name__})") from error
        if tile is None or tile.shape[1:3] != tuple(shape[1:3]):
            raise self._damage(row, col, "has a wrong size")
        shown = self._shown(tile[0])
        if shown.shape[2] != self.n_samples:
            raise self._damage(row, col, "has a wrong number of channels")
        return shown

    def raw(self, row: int, col: int) -> bytes | None:
        """The tile's bytes as stored; None where the file stores no tile.

        Raises:
            UnreadableSlideError: the bytes lie beyond the end of the file, or have a hole of zeros.
        """
        index = self._index(row, col)
        if index >= min(len(self._offsets), len(self._bytecounts)):
            raise self._damage(row, col, "is not in the file")
        offset, count = int(self._offsets[index]), int(self._bytecounts[index])
        if count == 0 or offset == 0:
            return None
        data = self._file.pread(count, offset)
        if len(data) != count:
            raise self._damage(row, col, "lies beyond the end of the file or cannot be read")
        if int(self._key.compression) in JPEG2000 and HOLE in data:
            raise self._damage(row, col, f"has a hole of {len(HOLE):,} zero bytes")
        return data

    def check_area(self, y_px: int, x_px: int, height_px: int, width_px: int) -> None:
        """Look at the stored bytes of all tiles of an area, for readers that decode by other means.

        Raises:
            UnreadableSlideError: see `raw`.
        """
        for row in range(y_px // self.tile_height_px, -(-(y_px + height_px) // self.tile_height_px)):
            for col in range(x_px // self.tile_width_px, -(-(x_px + width_px) // self.tile_width_px)):
                self.raw(row, col)

    def _index(self, row: int, col: int) -> int:
        return (self._plane * self.rows + row) * self.cols + col

    def _is_one_plain_block(self) -> bool:
        """Uncompressed strips that follow one another: the page is one array in the file."""
        key = self._key
        if key.is_tiled or int(key.compression) != 1 or int(key.predictor) != 1 or self.n_planes != 1:
            return False
        if key.bitspersample != self.dtype.itemsize * 8 or int(key.fillorder) != 1 or not len(self._offsets):
            return False
        size = self.height_px * self.width_px * int(key.samplesperpixel) * self.dtype.itemsize
        follows = np.array_equal(self._offsets[:-1] + self._bytecounts[:-1], self._offsets[1:])
        return follows and int(self._bytecounts.sum()) == size

    def _fetch_plain(self, row: int) -> np.ndarray:
        top = row * self.tile_height_px
        shape = (
            min(self.tile_height_px, self.height_px - top),
            self.width_px,
            int(self._key.samplesperpixel),
        )
        row_bytes = self.width_px * shape[2] * self.dtype.itemsize
        data = self._file.pread(shape[0] * row_bytes, int(self._offsets[0]) + top * row_bytes)
        if len(data) != shape[0] * row_bytes:
            raise self._damage(row, 0, "lies beyond the end of the file or cannot be read")
        stored = self.dtype.newbyteorder(self._key.parent.byteorder)
        return self._shown(np.frombuffer(data, stored).reshape(shape).astype(self.dtype))

    def _shown(self, tile: np.ndarray) -> np.ndarray:
        """Samples as a viewer shows them: palette looked up, white-is-zero inverted."""
        photometric = self._key.photometric
        if self._colours is not None:
            looked_up = self._colours[:, tile[..., 0]].transpose(1, 2, 0)
            return (looked_up >> 8).astype(np.uint8) if self.dtype == np.uint8 else looked_up
        if photometric == MINISWHITE and self.dtype.kind == "u":
            return np.asarray(np.iinfo(self.dtype).max - tile, self.dtype)
        return tile

    def _jpeg_tiles(self) -> JpegTiles | None:
        key = self._key
        colour = _JPEG_COLOUR.get(int(key.photometric))
        samples = 1 if colour == "gray" else 3
        if not (key.is_tiled and int(key.compression) == JPEG and self.dtype == np.uint8 and colour):
            return None
        if self._header is not None or self.n_planes != 1 or int(key.samplesperpixel) != samples:
            return None
        if len(self._offsets) != self.rows * self.cols or len(self._bytecounts) != len(self._offsets):
            return None
        return JpegTiles(
            self._file.path,
            self.height_px,
            self.width_px,
            self.tile_height_px,
            self.tile_width_px,
            self._offsets,
            self._bytecounts,
            colour,
            self._tables,
        )

    def _check_jpeg(self, data: bytes, row: int, col: int) -> None:
        """A JPEG strip must decode without a warning; libjpeg fills what is missing with gray."""
        if self.dtype != np.uint8:
            return
        tables = self._tables[2:-2] if self._tables else b""
        try:
            simplejpeg.decode_jpeg(data[:2] + tables + data[2:], "GRAY")
        except ValueError as error:
            raise self._damage(row, col, f"does not decode ({error})") from error

    def _damage(self, row: int, col: int, what: str) -> UnreadableSlideError:
        kind = "tile" if self._key.is_tiled else "strip"
        return UnreadableSlideError(
            self._file.path,
            f"{kind} (row {row}, column {col}) {what}",
            "copy the file again or rescan the slide",
        )


def check_page(path: Path, page: Any) -> None:
    """Refuse pages whose pixels we would show wrongly.

    Raises:
        UnsupportedSlideError: CMYK, CIELab, uncompressed YCbCr, an unknown compression or sample type.
    """
    remedy = "convert it, e.g. with `vips tiffsave IN OUT.tif --tile --pyramid`"
    if page.dtype is None or np.dtype(page.dtype).kind not in "uif":
        raise UnsupportedSlideError(
            path, f"{page.bitspersample}-bit samples of this kind are not read", remedy
        )
    photometric = int(page.photometric)
    jpeg_coded = int(page.compression) in (6, JPEG, 33003, 33005, 34712)
    if photometric not in _SHOWABLE and not (photometric == YCBCR and jpeg_coded):
        raise UnsupportedSlideError(path, f"photometric interpretation {photometric} is not read", remedy)
    if int(page.compression) not in (1, 6, JPEG) and int(page.compression) not in tifffile.TIFF.DECOMPRESSORS:
        raise UnsupportedSlideError(path, f"TIFF compression {int(page.compression)} is not read", remedy)
