"""Regions from tiles: which tiles a region touches, and a bounded cache of the last decoded ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

CACHE_BYTES = 32 * 2**20

FetchTile = Callable[[int, int], "np.ndarray | None"]


class TileCache:
    """Least recently used decoded tiles within `max_bytes` (a single larger one is kept too); thread safe."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._tiles: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray | None]) -> np.ndarray | None:
        """The tile of `key`, decoded when it is not here; errors of `decode` pass through."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
                return tile
        tile = decode()
        if tile is not None:
            with self._lock:
                if key not in self._tiles:
                    self._tiles[key] = tile
                    self._bytes += tile.nbytes
                while self._bytes > self._max_bytes and len(self._tiles) > 1:
                    self._bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile

    def clear(self) -> None:
        """Forget all tiles."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0


def fill_from_tiles(
    region: np.ndarray, y_px: int, x_px: int, tile_height_px: int, tile_width_px: int, fetch: FetchTile
) -> None:
    """Copy into `region` (h, w, c), whose corner is (y, x) of the level, what `fetch(row, col)` gives.

    A tile may be smaller than its cell (the last strip); where `fetch` gives None the region stays as it is.
    """
    height, width = region.shape[:2]
    for row in range(y_px // tile_height_px, -(-(y_px + height) // tile_height_px)):
        for col in range(x_px // tile_width_px, -(-(x_px + width) // tile_width_px)):
            tile = fetch(row, col)
            if tile is None:
                continue
            top, left = row * tile_height_px, col * tile_width_px
            y0, x0 = max(top, y_px), max(left, x_px)
            y1, x1 = min(top + tile.shape[0], y_px + height), min(left + tile.shape[1], x_px + width)
            if y1 > y0 and x1 > x0:
                region[y0 - y_px : y1 - y_px, x0 - x_px : x1 - x_px] = tile[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
