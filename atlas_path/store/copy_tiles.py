"""Copies the scanner's JPEG tiles into the shards of a level, byte for byte.

A tile that is damaged is not copied; its windows are marked as unreadable.
"""

from __future__ import annotations

import numpy as np

from atlas_path.errors import SlideError
from atlas_path.geometry import WINDOW_PX
from atlas_path.slides.jpeg_tiles import JpegTiles
from atlas_path.store.job import Job, Written
from atlas_path.store.jpeg import Jpeg
from atlas_path.store.pyramid import OpenShards, run_threads, too_damaged
from atlas_path.store.tile_check import odd_looking, sampled

CHECK_SCALE = 8


def copy_level(job: Job, level: int, tiles: JpegTiles, threads: int) -> Written:
    """Copy the tiles that a kept window touches.

    Raises:
        DamagedSlideError: more windows have unreadable tiles than the job allows.
    """
    plan = job.levels[level]
    layout = plan.layout
    assert layout is not None
    codec = layout.codec
    assert isinstance(codec, Jpeg)
    _, per_y, per_x = layout.chunks_per_shard
    keep = tiles_of_windows(plan.keep, tiles)
    bad_px = np.zeros(plan.keep.shape, np.int64)
    check = TileCheck(tiles, codec, job.check_tiles)

    def one(shard: tuple[int, int]) -> None:
        row0, col0 = shard[0] * per_y, shard[1] * per_x
        at = [
            (row0 + int(y), col0 + int(x))
            for y, x in np.argwhere(keep[row0 : row0 + per_y, col0 : col0 + per_x])
            if tiles.bytecounts[row0 + y, col0 + x]
        ]
        for (row, col), payload in zip(at, check.whole(at), strict=True):
            if payload is None:
                _add_bad(bad_px, plan.keep, tiles, row, col)
            else:
                shards.put_payloads(level, row, col, [payload])
        shards.passed(level, shard)
        n_bad = int(np.count_nonzero(bad_px))
        if n_bad > job.max_bad * plan.keep.sum():
            raise too_damaged(job, n_bad)

    rows, cols = layout.shard_grid
    every = [(r, c) for r in range(rows) for c in range(cols)]
    with OpenShards(job) as shards:
        for shard in every:
            shards.expect(level, shard)
        run_threads(one, every, threads)
    return Written(shards.files(), {level: bad_px})


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

    def whole(self, at: list[tuple[int, int]]) -> list[bytes | None]:
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

    def _decodes(self, payload: bytes) -> bool:
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
