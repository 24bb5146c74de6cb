"""Decoded tiles that were used last, at most so many bytes of them in the whole process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

TILE_CACHE_BYTES = 64 << 20


class TileCache:
    """A thread-safe cache that forgets what was not used for longest.

    Args:
        max_bytes: of the arrays it holds.
    """

    def __init__(self, max_bytes: int = TILE_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._tiles: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self.n_bytes = 0

    def get(self, key: Hashable) -> np.ndarray | None:
        """The array stored under `key`, if it is still there."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Hashable, tile: np.ndarray) -> None:
        """Keep an array; it must not be changed afterwards."""
        with self._lock:
            old = self._tiles.pop(key, None)
            self.n_bytes += tile.nbytes - (0 if old is None else old.nbytes)
            self._tiles[key] = tile
            while self.n_bytes > self._max_bytes:
                self.n_bytes -= self._tiles.popitem(last=False)[1].nbytes


tile_cache = TileCache()
