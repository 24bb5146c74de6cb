"""From stores to batches: read and cache windows, pack the windows of several cases into a `WindowBatch`.

A reader opens stores only when it needs them, keeps a few open and, within a memory budget, decoded windows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atlas import WindowBatch
from atlas_path.cohort import Targets
from pipelines.data_cases import CaseRef, ImageRef
from pipelines.data_files import file_windows

OPEN_STORES = 16


class WindowReader:
    """Reads windows of images, keeping decoded ones up to a budget. Thread safe.

    Args:
        budget_bytes: memory for decoded windows; an image that does not fit is read from its store each time.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._cache: dict[str, np.ndarray] = {}
        self._stores: OrderedDict[Path, Any] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, image: ImageRef, index: np.ndarray | None = None) -> np.ndarray:
        """Pixels (n, c, 256, 256) of the image's kept windows `index` (all when None)."""
        cached = self._cache.get(image.image_id)
        if cached is None and self._reserve(image.n_bytes):
            cached = self._decode(image, image.row_col)
            self._cache[image.image_id] = cached
        if cached is not None:
            return cached if index is None else cached[index]
        return self._decode(image, image.row_col if index is None else image.row_col[index])

    def _reserve(self, n_bytes: int) -> bool:
        with self._lock:
            fits = self.used_bytes + n_bytes <= self.budget_bytes
            self.used_bytes += n_bytes if fits else 0
        return fits

    def _decode(self, image: ImageRef, row_col: np.ndarray) -> np.ndarray:
        if image.is_file:
            return file_windows(image, row_col)
        return np.asarray(self._store(image).read_windows(image.level, row_col.astype(np.int64)))

    def _store(self, image: ImageRef) -> Any:
        from atlas_path.store import open_store

        path = image.store
        with self._lock:
            store = self._stores.get(path)
            if store is None:
                store = self._stores[path] = open_store(path, image.voi)
                if len(self._stores) > OPEN_STORES:
                    self._stores.popitem(last=False)
            self._stores.move_to_end(path)
        return store


@dataclass
class CasePixels:
    """Windows of one case in memory, before packing; augmentations change it in place.

    Per window: pixels_NCHW, row_N, col_N, image_N (index into the case's images).
    Per image: size_I2 (height, width) px, mpp_I2 um/px (y, x), kind_I.
    """

    pixels_NCHW: np.ndarray
    row_N: np.ndarray
    col_N: np.ndarray
    image_N: np.ndarray
    size_I2: np.ndarray
    mpp_I2: np.ndarray
    kind_I: np.ndarray


def read_case(
    reader: WindowReader, case: CaseRef, keep: Sequence[np.ndarray | None] | None = None
) -> CasePixels:
    """Read a case; `keep` holds, for every image, the indices of the windows wanted (None = all).

    Images of which no window is wanted are absent from the result.
    """
    wanted = keep if keep is not None else [None] * len(case.images)
    chosen = [(im, i) for im, i in zip(case.images, wanted, strict=True) if i is None or len(i)]
    images = [image for image, _ in chosen]
    pixels = [reader.read(image, index) for image, index in chosen]
    places = [image.row_col if index is None else image.row_col[index] for image, index in chosen]
    row_col = np.concatenate(places).astype(np.int64)
    return CasePixels(
        pixels_NCHW=pixels[0] if len(pixels) == 1 else np.concatenate(pixels),
        row_N=row_col[:, 0].copy(),
        col_N=row_col[:, 1].copy(),
        image_N=np.repeat(np.arange(len(places)), [len(p) for p in places]),
        size_I2=np.asarray([image.size_px for image in images], np.int64),
        mpp_I2=np.asarray([image.mpp for image in images], np.float32),
        kind_I=np.asarray([image.kind for image in images], np.int64),
    )


def pack(cases: Sequence[CasePixels], with_kinds: bool = False) -> WindowBatch:
    """Pack cases into one batch, case i of the sequence becoming case i of the batch."""
    first_image = np.cumsum([0, *(len(case.size_I2) for case in cases)])

    def joined(name: str) -> torch.Tensor:
        arrays = [getattr(case, name) for case in cases]
        return torch.from_numpy(
            np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        )

    image_N = np.concatenate(
        [case.image_N + start for case, start in zip(cases, first_image[:-1], strict=True)]
    )
    case_I = np.repeat(np.arange(len(cases)), [len(case.size_I2) for case in cases])
    return WindowBatch(
        pixels_NCHW=joined("pixels_NCHW"),
        row_N=joined("row_N"),
        col_N=joined("col_N"),
        image_N=torch.from_numpy(image_N.astype(np.int64)),
        size_I2=joined("size_I2"),
        mpp_I2=joined("mpp_I2"),
        case_I=torch.from_numpy(case_I.astype(np.int64)),
        embed_I=joined("kind_I") if with_kinds else None,
    )


def stack_targets(targets: Targets, case_ids: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets and masks of cases, stacked on the first axis."""
    value = torch.from_numpy(np.stack([targets.value[c] for c in case_ids]))
    known = torch.from_numpy(np.stack([targets.known[c] for c in case_ids]))
    return value, known
