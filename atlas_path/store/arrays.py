"""Pixels of one level, straight from the coded chunks: as windows, as the model reads, or as a region.

zarr-python takes 2 ms for a 256 px window of a sharded array; this takes a tenth of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from atlas_path.geometry import WINDOW_PX
from atlas_path.slides.jpeg_tiles import Coded
from atlas_path.store.chunks import Chunks
from atlas_path.store.jpeg import Jpeg
from atlas_path.store.tile_cache import tile_cache

GROUP_WINDOWS = 64  # windows whose tiles are fetched together, in order of the file


class LevelPixels(Protocol):
    """The pixels of one level."""

    def read_windows(self, row_col: np.ndarray, out: np.ndarray) -> None:
        """Read windows (n, 2) of row, col into `out` (n, c, 256, 256); background where none is stored."""

    def read_region(self, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        """Pixels (c, height, width) at (y, x); background outside the level."""


class WindowArray:
    """A level whose chunks are its windows (lossless stores)."""

    def __init__(self, chunks: Chunks) -> None:
        self.chunks, self.layout = chunks, chunks.layout

    def read_windows(self, row_col: np.ndarray, out: np.ndarray) -> None:
        """See `LevelPixels`."""
        wanted = [(row, col) for row, col in row_col.tolist()]
        parts, decode = out.reshape(len(out), -1, *self.layout.chunk), self.layout.codec.decode_into
        for i, part, payload in self.chunks.payloads(wanted):
            if payload is None:
                parts[i, part] = self.layout.fill
                continue
            try:
                decode(payload, parts[i, part])
            except ValueError as error:
                raise self.chunks.damage(*wanted[i], error) from error

    def read_region(self, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        """See `LevelPixels`."""
        n_c, level_h, level_w = self.layout.shape
        chunk_c, side_y, side_x = self.layout.chunk
        region = np.full((n_c, height_px, width_px), self.layout.fill, self.layout.dtype)
        y0, y1 = max(y_px, 0), min(y_px + height_px, level_h)
        x0, x1 = max(x_px, 0), min(x_px + width_px, level_w)
        if y1 <= y0 or x1 <= x0:
            return region
        rows, cols = range(y0 // side_y, -(-y1 // side_y)), range(x0 // side_x, -(-x1 // side_x))
        wanted = [(row, col) for row in rows for col in cols]
        buffer = np.empty(self.layout.chunk, self.layout.dtype)
        for i, part, payload in self.chunks.payloads(wanted):
            if payload is None:
                continue
            self._decode(payload, buffer, wanted[i])
            at_y, at_x = wanted[i][0] * side_y, wanted[i][1] * side_x
            top, left = max(at_y, y0), max(at_x, x0)
            low, right = min(at_y + side_y, y1), min(at_x + side_x, x1)
            target = region[part * chunk_c : (part + 1) * chunk_c]
            target[:, top - y_px : low - y_px, left - x_px : right - x_px] = buffer[
                :, top - at_y : low - at_y, left - at_x : right - at_x
            ]
        return region

    def _decode(self, payload: Coded, out: np.ndarray, chunk: tuple[int, int]) -> None:
        try:
            self.layout.codec.decode_into(payload, out)
        except ValueError as error:
            raise self.chunks.damage(*chunk, error) from error


class JpegArray:
    """A level that is JPEG tiles, or that is answered from the tiles of a finer level at a reduced scale.

    Args:
        chunks: the stored array.
        codec: its codec.
        height_px: height of the level that is read (not of the array, when `scale` > 1).
        width_px: its width.
        scale: 1, 2, 4 or 8 pixels of the array to one of the level.
    """

    def __init__(self, chunks: Chunks, codec: Jpeg, height_px: int, width_px: int, scale: int) -> None:
        self.chunks, self.codec = chunks, codec
        self.height_px, self.width_px, self.scale = height_px, width_px, scale
        self.tile_h, self.tile_w = chunks.layout.chunk[1] // scale, chunks.layout.chunk[2] // scale

    def read_windows(self, row_col: np.ndarray, out: np.ndarray) -> None:
        """See `LevelPixels`."""
        window = np.empty((WINDOW_PX, WINDOW_PX, self.codec.channels), np.uint8)
        for start in range(0, len(row_col), GROUP_WINDOWS):
            group = row_col[start : start + GROUP_WINDOWS]
            boxes = [(int(r) * WINDOW_PX, int(c) * WINDOW_PX, WINDOW_PX, WINDOW_PX) for r, c in group]
            tiles = self._tiles(boxes)
            for i, box in enumerate(boxes):
                self._paste(tiles, box, window)
                _to_planes(window, out[start + i])

    def read_region(self, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        """See `LevelPixels`."""
        box = (y_px, x_px, height_px, width_px)
        pixels = np.empty((height_px, width_px, self.codec.channels), np.uint8)
        self._paste(self._tiles([box]), box, pixels)
        region = np.empty((self.codec.channels, height_px, width_px), np.uint8)
        _to_planes(pixels, region)
        return region

    def _tiles(self, boxes: list[tuple[int, int, int, int]]) -> dict[tuple[int, int], np.ndarray | None]:
        """The decoded tiles under the boxes (y, x, height, width); None where none is stored."""
        needed = dict.fromkeys(tile for box in boxes for tile in self._under(box))
        found: dict[tuple[int, int], np.ndarray | None] = {}
        token = self.chunks.token
        for tile in needed:
            cached = tile_cache.get((token, self.scale, *tile))
            if cached is not None:
                found[tile] = cached
        missing = [tile for tile in needed if tile not in found]
        _, height, width = self.chunks.layout.chunk
        for i, _, payload in self.chunks.payloads(missing):
            tile = missing[i]
            found[tile] = None
            if payload is not None:
                try:
                    pixels = self.codec.decode(payload, height, width, self.scale)
                except ValueError as error:
                    raise self.chunks.damage(*tile, error) from error
                tile_cache.put((token, self.scale, *tile), pixels)
                found[tile] = pixels
        return found

    def _under(self, box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
        y, x, height, width = box
        y1, x1 = min(y + height, self.height_px), min(x + width, self.width_px)
        rows = range(max(y, 0) // self.tile_h, -(-y1 // self.tile_h))
        cols = range(max(x, 0) // self.tile_w, -(-x1 // self.tile_w))
        return [(row, col) for row in rows for col in cols]

    def _paste(
        self,
        tiles: dict[tuple[int, int], np.ndarray | None],
        box: tuple[int, int, int, int],
        out: np.ndarray,
    ) -> None:
        """Compose a box (y, x, height, width) from tiles; what they do not cover is background."""
        y, x, height, width = box
        y1, x1 = min(y + height, self.height_px), min(x + width, self.width_px)
        covered = 0
        parts = []
        for row, col in self._under(box):
            tile = tiles[row, col]
            if tile is None:
                continue
            at_y, at_x = row * self.tile_h, col * self.tile_w
            top, left = max(at_y, y), max(at_x, x)
            low, right = min(at_y + self.tile_h, y1), min(at_x + self.tile_w, x1)
            covered += (low - top) * (right - left)
            parts.append((tile, at_y, at_x, top, left, low, right))
        if covered < height * width:
            out[...] = self.chunks.layout.fill
        for tile, at_y, at_x, top, left, low, right in parts:
            out[top - y : low - y, left - x : right - x] = tile[
                top - at_y : low - at_y, left - at_x : right - at_x
            ]


def open_level(root: Path, level: int, sizes: list[tuple[int, int, str | None]]) -> LevelPixels:
    """The pixels of a level of a store (complete or being written).

    Args:
        root: the store's folder.
        level: which level.
        sizes: (height, width, path or None) of all levels; None for those that are not stored and are
            answered from the next finer one.
    """
    stored = level
    while sizes[stored][2] is None:
        stored -= 1
    height, width, _ = sizes[level]
    chunks = Chunks(root / str(sizes[stored][2]))
    codec = chunks.layout.codec
    if isinstance(codec, Jpeg):
        return JpegArray(chunks, codec, height, width, 1 << (level - stored))
    return WindowArray(chunks)


def _to_planes(pixels: np.ndarray, out: np.ndarray) -> None:
    """(y, x, c) into (c, y, x)."""
    if pixels.shape[2] == 1:
        out[0] = pixels[:, :, 0]
    else:
        cv2.split(pixels, list(out))
