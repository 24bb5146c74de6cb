"""Copies the scanner's JPEG tiles into the shards of a level, byte for byte.

A tile that is damaged is not copied; its windows are marked as unreadable.
"""

from __future__ import annotations

import numpy as np

from atlas_path.errors import SlideError
from atlas_path.geometry import WINDOW_PX
from atlas_path.slides.jpeg_tiles import Coded, JpegTiles
from atlas_path.store.job import Job, Written
from atlas_path.store.jpeg import Jpeg
from atlas_path.store.pyramid import OpenShards, run_threads, too_damaged
from atlas_path.store.tile_check import odd_looking, sampled

CHECK_SCALE = 8


def copy_tiles(job: Job, tiles_of: dict[int, JpegTiles], threads: int) -> Written:
    """Copy the tiles that a kept window touches, of all levels in `tiles_of`.

    Raises:
        DamagedSlideError: more windows of a level have unreadable tiles than the job allows.
    """
    with OpenShards(job, aside=False) as shards:
        levels = [LevelCopy(job, level, tiles, shards) for level, tiles in tiles_of.items()]
        parts = [(level, shard) for level in levels for shard in level.every]
        run_threads(lambda part: part[0].copy(part[1]), parts, threads + 1)  # one of them waits for the disk
    return Written(shards.files(), {level.level: level.bad_px for level in levels})


class LevelCopy:
    """The copy of one level, a shard at a time.

    Args:
        job: the conversion.
        level: the level to write.
        tiles: where its tiles come from.
        shards: where they go.
    """

    def __init__(self, job: Job, level: int, tiles: JpegTiles, shards: OpenShards) -> None:
        self.level, self._tiles, self._shards, self._job = level, tiles, shards, job
        plan = job.levels[level]
        layout = plan.layout
        assert layout is not None
        assert isinstance(layout.codec, Jpeg)
        self._windows, self._keep = plan.keep, tiles_of_windows(plan.keep, tiles)
        self._per_shard = layout.chunks_per_shard[1:]
        self._check = TileCheck(tiles, layout.codec, job.check_tiles)
        self.bad_px = np.zeros(plan.keep.shape, np.int64)
        rows, cols = layout.shard_grid
        self.every = [(row, col) for row in range(rows) for col in range(cols)]
        for shard in self.every:
            shards.expect(level, shard)

    def copy(self, shard: tuple[int, int]) -> None:
        """Copy the tiles of one shard."""
        (per_y, per_x), tiles, job = self._per_shard, self._tiles, self._job
        row0, col0 = shard[0] * per_y, shard[1] * per_x
        at = [
            (row0 + int(y), col0 + int(x))
            for y, x in np.argwhere(self._keep[row0 : row0 + per_y, col0 : col0 + per_x])
            if tiles.bytecounts[row0 + y, col0 + x]
        ]
        for (row, col), payload in zip(at, self._check.whole(at), strict=True):
            if payload is None:
                _add_bad(self.bad_px, self._windows, tiles, row, col)
            else:
                self._shards.put_payloads(self.level, row, col, [payload])
        self._shards.passed(self.level, shard)
        n_bad = int(np.count_nonzero(self.bad_px))
        if n_bad > job.max_bad * self._windows.sum():
            raise too_damaged(job, n_bad)


class TileCheck:
    """Reads tiles and says which are whole.

    Args:
        tiles: the slide's level.
        codec: decodes them.
        how: 'signs' looks at all and decodes some (see `tile_check`); 'decode' decodes all, at 1/8, which
            still reads all of their entropy-coded data.
    """

    def __init__(self, tiles: JpegTiles, codec: Jpeg, how: str) -> None:
        self._tiles, self._codec = tiles, codec
        self._decode_all = how == "decode"

    def whole(self, at: list[tuple[int, int]]) -> list[Coded | None]:
        """The bytes of the tiles at (row, col); None for those that are damaged."""
        found = self._tiles.raw_many(at)
        payloads = [None if isinstance(one, SlideError) else one for one in found]
        present = [i for i, payload in enumerate(payloads) if payload is not None]
        odd = odd_looking([payloads[i] or b"" for i in present])
        for i, looks_odd in zip(present, odd, strict=True):
            is_sampled = sampled(*at[i])
            if (self._decode_all or looks_odd or is_sampled) and not self._decodes(payloads[i] or b""):
                payloads[i] = None
                self._decode_all |= is_sampled and not looks_odd
        return payloads

    def _decodes(self, payload: Coded) -> bool:
        try:
            self._codec.decode(payload, self._tiles.tile_height_px, self._tiles.tile_width_px, CHECK_SCALE)
        except ValueError:
            return False
        return True


def tiles_of_windows(keep: np.ndarray, tiles: JpegTiles) -> np.ndarray:
    """(rows, cols) bool of the tiles that a kept window touches."""
    first_y, last_y = _windows_of(tiles.rows, tiles.tile_height_px, tiles.height_px)
    first_x, last_x = _windows_of(tiles.cols, tiles.tile_width_px, tiles.width_px)
    counts = np.zeros((keep.shape[0] + 1, keep.shape[1] + 1), np.int64)
    counts[1:, 1:] = keep.cumsum(axis=0).cumsum(axis=1)
    inside = (
        counts[np.ix_(last_y + 1, last_x + 1)]
        - counts[np.ix_(first_y, last_x + 1)]
        - counts[np.ix_(last_y + 1, first_x)]
        + counts[np.ix_(first_y, first_x)]
    )
    return np.asarray(inside > 0)


def _windows_of(n_tiles: int, tile_px: int, level_px: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last window that each tile of a row touches."""
    start = np.arange(n_tiles) * tile_px
    stop = np.minimum(start + tile_px, level_px)
    return start // WINDOW_PX, (stop - 1) // WINDOW_PX


def _add_bad(bad_px: np.ndarray, keep: np.ndarray, tiles: JpegTiles, row: int, col: int) -> None:
    """Count a tile's pixels as bad in the kept windows it touches."""
    y0, x0 = row * tiles.tile_height_px, col * tiles.tile_width_px
    y1, x1 = min(y0 + tiles.tile_height_px, tiles.height_px), min(x0 + tiles.tile_width_px, tiles.width_px)
    for r in range(y0 // WINDOW_PX, (y1 - 1) // WINDOW_PX + 1):
        for c in range(x0 // WINDOW_PX, (x1 - 1) // WINDOW_PX + 1):
            if keep[r, c]:
                height = min(y1, (r + 1) * WINDOW_PX) - max(y0, r * WINDOW_PX)
                width = min(x1, (c + 1) * WINDOW_PX) - max(x0, c * WINDOW_PX)
                bad_px[r, c] += height * width
