"""Open a store and read it as the model does: windows of 256 px of a level, row and column on one grid."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pydantic import ValidationError

from atlas_path.errors import ResolutionError, StoreError
from atlas_path.geometry import WINDOW_PX, Grid, Mpp
from atlas_path.store.arrays import LevelPixels, open_level
from atlas_path.store.commit import STORE_SUFFIX, read_completion
from atlas_path.store.layout import read_json
from atlas_path.store.meta import StoreMeta
from atlas_path.store.shard import damaged
from atlas_path.store.small import TISSUE_FRACTION, VALID_FRACTION, read_array

MIN_VALID = 0.5  # a window of which less was readable is not used
LEAST_PER_THREAD = 8  # fewer windows are not worth a thread


@dataclass(frozen=True)
class StoreLevel:
    """One level of a store: its size in pixels and its resolution."""

    height_px: int
    width_px: int
    mpp: Mpp


class Store:
    """A complete store. Cheap to open, picklable, safe in threads and in forkserver workers.

    Args:
        path: the `.ome.zarr` folder.

    Raises:
        IncompleteStoreError: the store was never completed.
        StoreError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        read_completion(self.path)
        self.meta = _read_meta(self.path)
        self.image_id = self.meta.image_id
        base = self.meta.mpp.value
        self.levels = tuple(
            StoreLevel(level.height_px, level.width_px, base.scaled(2.0**k))
            for k, level in enumerate(self.meta.levels)
        )
        self.n_channels = len(self.meta.channel_names)
        self.dtype = np.dtype(self.meta.dtype)
        self._arrays: dict[int, LevelPixels] = {}
        self._brightness: np.ndarray | None = None
        self.shown_as = ""

    def __repr__(self) -> str:
        return f"Store({self.image_id!r}, {len(self.levels)} levels, {self.levels[0].mpp.mean:.4g} um/px)"

    def level_for(self, mpp: float, tolerance: float = 0.10) -> int:
        """The level whose resolution is `mpp` (um/px) within `tolerance`.

        Raises:
            ResolutionError: there is none.
        """
        ratios = [level.mpp.mean / mpp for level in self.levels]
        best = min(range(len(ratios)), key=lambda k: abs(np.log(ratios[k])))
        if abs(ratios[best] - 1) > tolerance:
            have = ", ".join(f"{level.mpp.mean:.4g}" for level in self.levels)
            raise ResolutionError(
                self.path,
                f"has no level of {mpp:g} um/px (it has {have})",
                f"use one of these, or run preprocess again with --mpp {mpp:g}",
            )
        return best

    def grid(self, level: int) -> Grid:
        """The grid of windows of a level."""
        return Grid(self.levels[level].height_px, self.levels[level].width_px)

    def tissue_fraction(self, level: int) -> np.ndarray:
        """(rows, cols) float32: how much of each window is tissue."""
        return self._window_map(TISSUE_FRACTION, level)

    def valid_fraction(self, level: int) -> np.ndarray:
        """(rows, cols) float32: how much of each window could be read, 1 where all of it."""
        return self._window_map(VALID_FRACTION, level)

    def kept_windows(self, level: int, min_tissue: float = 0.01) -> np.ndarray:
        """(n, 2) int64 of row, col, row-major: readable windows with at least `min_tissue` tissue."""
        keep = (self.tissue_fraction(level) >= min_tissue) & (self.valid_fraction(level) >= MIN_VALID)
        return np.argwhere(keep).astype(np.int64)

    def show_as(self, table: np.ndarray, name: str) -> None:
        """From now on `read_windows` gives `table[value]`; `table` (65536,) uint16, `name` for people."""
        self._brightness, self.shown_as = table, name

    def tissue_mask(self) -> tuple[np.ndarray, Mpp]:
        """The tissue mask (height, width) bool of the whole image, and its resolution."""
        return read_array(self.path / "labels/tissue/0").astype(bool), self.meta.tissue.mpp.value

    def read_windows(
        self, level: int, row_col: np.ndarray, out: np.ndarray | None = None, threads: int = 1
    ) -> np.ndarray:
        """Windows (n, c, 256, 256) at the rows and columns (n, 2) of a level.

        Edge windows are padded with background; windows that are not stored are background.

        Args:
            level: which level.
            row_col: rows and columns; neighbours one after the other are read together.
            out: array of that shape and the store's dtype to read into; a new one without it.
            threads: that read and decode, each a part of the windows. One is right in a loader's workers.

        Raises:
            StoreError: a chunk is damaged.
        """
        row_col = np.asarray(row_col, np.int64).reshape(-1, 2)
        shape = (len(row_col), self.n_channels, WINDOW_PX, WINDOW_PX)
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.shape} {out.dtype}, not a contiguous {shape} {self.dtype}")
        _in_parts(self._array(level), row_col, out, min(threads, len(row_col) // LEAST_PER_THREAD))
        if self._brightness is not None:
            out[...] = self._brightness[out]
        return out

    def read_region(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        """Pixels (c, height, width) at (y, x) of a level; background outside.

        Raises:
            StoreError: a chunk is damaged.
        """
        return self._array(level).read_region(y_px, x_px, height_px, width_px)

    def thumbnail(self, max_px: int = 1024) -> np.ndarray:
        """The whole image (height, width, channels), its longer side at most `max_px`."""
        fitting = [k for k, level in enumerate(self.levels) if max(level.height_px, level.width_px) >= max_px]
        level = fitting[-1] if fitting else 0
        frame = self.levels[level]
        pixels = self.read_region(level, 0, 0, frame.height_px, frame.width_px).transpose(1, 2, 0)
        scale = min(1.0, max_px / max(frame.height_px, frame.width_px))
        size = max(1, round(frame.width_px * scale)), max(1, round(frame.height_px * scale))
        small = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
        return np.asarray(small).reshape(size[1], size[0], self.n_channels)

    def to_slide_px(self, level: int, y_px: float, x_px: float) -> tuple[float, float]:
        """(y, x) in pixels of the slide's level 0, full frame (bounds included), of a point of a level."""
        base = self.meta.base
        return y_px * base.downsample_y * 2.0**level, x_px * base.downsample_x * 2.0**level

    def icc_profile(self) -> bytes | None:
        """The colour profile of the slide, unapplied unless the store was made with `--icc srgb`."""
        path = self.path / "icc_profile.icc"
        return path.read_bytes() if path.is_file() else None

    def _array(self, level: int) -> LevelPixels:
        if level not in self._arrays:
            if not 0 <= level < len(self.levels):
                raise IndexError(f"{self.image_id} has levels 0..{len(self.levels) - 1}, not {level}")
            sizes = [(record.height_px, record.width_px, record.path) for record in self.meta.levels]
            self._arrays[level] = open_level(self.path, level, sizes)
        return self._arrays[level]

    def _window_map(self, name: str, level: int) -> np.ndarray:
        if not 0 <= level < len(self.levels):
            raise IndexError(f"{self.image_id} has levels 0..{len(self.levels) - 1}, not {level}")
        return read_array(self.path / name / str(level))


def _in_parts(array: LevelPixels, row_col: np.ndarray, out: np.ndarray, threads: int) -> None:
    """Read windows on several threads, this one among them."""
    if threads <= 1:
        array.read_windows(row_col, out)
        return
    cuts = np.linspace(0, len(row_col), threads + 1).astype(int).tolist()
    first, *others = [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
    pool = _pool_of(os.getpid(), threads - 1)
    started = [pool.submit(array.read_windows, row_col[part], out[part]) for part in others]
    try:
        array.read_windows(row_col[first], out[first])
    finally:
        wait(started)  # nobody writes into `out` after this call, even where it fails
    for done in started:
        done.result()


@functools.cache
def _pool_of(pid: int, threads: int) -> ThreadPoolExecutor:  # noqa: ARG001
    """Threads that are kept, because starting them takes as long as reading; a fork starts its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="read")


def open_store(path: Path, voi: str | None = None) -> Store:
    """Open one store.

    Args:
        path: the store.
        voi: how `read_windows` turns the stored grey values of a mammogram into brightness (`header[i]`,
            `lut[i]`, `minmax`, `none`); None gives stored values. Means nothing to other images.

    Raises:
        IncompleteStoreError: there is no complete store.
        StoreError: it cannot be read.
        ConfigError: `voi` is not a rule.
    """
    store = Store(path)
    if voi is not None and "voi" in store.meta.facts:
        from atlas_path.slides.mammo.voi import voi_table

        table, applied = voi_table(store.meta.facts, voi)
        doubt = f" ({applied.fallback})" if applied.fallback else ""
        store.show_as(table, applied.applied + doubt)
    return store


def find_stores(inputs: Path | Iterable[Path]) -> list[Path]:
    """All complete stores in a folder (to any depth) or among several folders and stores, sorted.

    Stores that are being written are hidden and not listed.
    """
    roots = [inputs] if isinstance(inputs, Path | str) else list(inputs)
    found: set[Path] = set()
    for root in map(Path, roots):
        if root.name.endswith(STORE_SUFFIX):
            found.add(root)
            continue
        for parent, folders, _ in os.walk(root, followlinks=True):
            found.update(Path(parent, name) for name in folders if _is_store_name(name))
            folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".zarr")]
    return sorted(path for path in found if (path / "complete.json").is_file())


def _is_store_name(name: str) -> bool:
    return name.endswith(STORE_SUFFIX) and not name.startswith(".")


def _read_meta(path: Path) -> StoreMeta:
    try:
        return StoreMeta.model_validate(read_json(path / "zarr.json")["attributes"]["atlas_path"])
    except (OSError, KeyError, TypeError) as error:
        raise damaged(path, f"has no metadata ({error})") from error
    except (ValidationError, ValueError) as error:
        raise StoreError(
            path, "was written by another version of atlas-path", "run preprocess again with --force"
        ) from error
