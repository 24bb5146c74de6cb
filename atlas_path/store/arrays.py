"""Pixels of one level, straight from the coded chunks: as windows, as the model reads, or as a region.

zarr-python takes 2 ms for a 256 px window of a sharded array; this takes a tenth of it.
"""

from __future__ import annotations

from collections import Counter
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
SELDOM = 0.1  # of the tiles asked for: asked for twice
At = tuple[int, int]  # row and column of a tile
Box = tuple[int, int, int, int]  # y, x, height, width in pixels


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
        parts = out.reshape(len(out), -1, *self.layout.chunk)
        for i, part, payload in self.chunks.payloads(wanted):
            if payload is None:
                parts[i, part] = self.layout.fill
            else:
                self._decode(payload, parts[i, part], wanted[i])

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
        self._asked_before: frozenset[At] = frozenset()

    def read_windows(self, row_col: np.ndarray, out: np.ndarray) -> None:
        """See `LevelPixels`."""
        window = np.empty((WINDOW_PX, WINDOW_PX, self.codec.channels), np.uint8)
        for start in range(0, len(row_col), GROUP_WINDOWS):
            group = row_col[start : start + GROUP_WINDOWS].tolist()
            boxes = [(row * WINDOW_PX, col * WINDOW_PX, WINDOW_PX, WINDOW_PX) for row, col in group]
            under = [self._under(box) for box in boxes]
            tiles = None if self._scattered(under) else self._tiles(under)
            for i, box in enumerate(boxes):
                if tiles is None:
                    self._read_alone(under[i], box, window)
                else:
                    self._paste({at: tiles[at] for at in under[i]}, box, window)
                _to_planes(window, out[start + i])

    def read_region(self, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        """See `LevelPixels`."""
        box = (y_px, x_px, height_px, width_px)
        pixels = np.empty((height_px, width_px, self.codec.channels), np.uint8)
        self._paste(self._tiles([self._under(box)]), box, pixels)
        region = np.empty((self.codec.channels, height_px, width_px), np.uint8)
        _to_planes(pixels, region)
        return region

    def _scattered(self, under: list[list[At]]) -> bool:
        """Hardly any tile serves two of these windows, or was asked for just before: keeping them is no use.

        A cache of tiles costs memory traffic, an eighth of the time of windows read at random.
        """
        asked = Counter(at for tiles in under for at in tiles)
        again = asked.total() - len(asked) + len(asked.keys() & self._asked_before)
        self._asked_before = frozenset(asked)
        return again < SELDOM * asked.total()

    def _read_alone(self, tiles: list[At], box: Box, out: np.ndarray) -> None:
        """Compose a window from tiles that nobody else needs: each is decoded into the same small buffer."""
        missing = []
        self._fill_outside(box, out)
        for at in tiles:
            cached = tile_cache.get(self._key(at))
            if cached is None:
                missing.append(at)
            else:
                self._paste_tile(cached, at, box, out)
        buffer = np.empty(self.tile_h * self.tile_w * self.codec.channels, np.uint8)
        for i, _, payload in self.chunks.payloads(missing):
            at = missing[i]
            self._paste_tile(None if payload is None else self._decode(payload, at, buffer), at, box, out)

    def _tiles(self, under: list[list[At]]) -> dict[At, np.ndarray | None]:
        """The decoded tiles, kept for whoever comes next; None where none is stored."""
        needed = dict.fromkeys(at for tiles in under for at in tiles)
        found: dict[At, np.ndarray | None] = {}
        for at in needed:
            cached = tile_cache.get(self._key(at))
            if cached is not None:
                found[at] = cached
        missing = [at for at in needed if at not in found]
        for i, _, payload in self.chunks.payloads(missing):
            at = missing[i]
            found[at] = None
            if payload is not None:
                pixels = self._decode(payload, at)
                tile_cache.put(self._key(at), pixels)
                found[at] = pixels
        return found

    def _key(self, at: At) -> tuple[int, ...]:
        return (self.chunks.token, self.scale, *at)

    def _decode(self, payload: Coded, at: At, buffer: np.ndarray | None = None) -> np.ndarray:
        _, height, width = self.chunks.layout.chunk
        try:
            return self.codec.decode(payload, height, width, self.scale, buffer)
        except ValueError as error:
            raise self.chunks.damage(*at, error) from error

    def _under(self, box: Box) -> list[At]:
        y, x, height, width = box
        y1, x1 = min(y + height, self.height_px), min(x + width, self.width_px)
        rows = range(max(y, 0) // self.tile_h, -(-y1 // self.tile_h))
        cols = range(max(x, 0) // self.tile_w, -(-x1 // self.tile_w))
        return [(row, col) for row in rows for col in cols]

    def _paste(self, tiles: dict[At, np.ndarray | None], box: Box, out: np.ndarray) -> None:
        """Compose a box from tiles."""
        self._fill_outside(box, out)
        for at, tile in tiles.items():
            self._paste_tile(tile, at, box, out)

    def _fill_outside(self, box: Box, out: np.ndarray) -> None:
        """Background, where the box is not wholly within the level."""
        y, x, height, width = box
        if y < 0 or x < 0 or y + height > self.height_px or x + width > self.width_px:
            out[...] = self.chunks.layout.fill

    def _paste_tile(self, tile: np.ndarray | None, at: At, box: Box, out: np.ndarray) -> None:
        """The part of a box that a tile covers; background where none is stored."""
        y, x, height, width = box
        at_y, at_x = at[0] * self.tile_h, at[1] * self.tile_w
        top, left = max(at_y, y), max(at_x, x)
        low = min(at_y + self.tile_h, y + height, self.height_px)
        right = min(at_x + self.tile_w, x + width, self.width_px)
        target = out[top - y : low - y, left - x : right - x]
        if tile is None:
            target[...] = self.chunks.layout.fill
        else:
            target[...] = tile[top - at_y : low - at_y, left - at_x : right - at_x]


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
