"""Small cohorts for training tests."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from atlas_path.errors import ResolutionError
from atlas_path.geometry import Mpp


@dataclass
class MemoryStore:
    """The part of `Store` that training uses, over an array (rows * 256, cols * 256) held in memory."""

    path: Path
    image: np.ndarray
    mpp: float
    kept: np.ndarray

    @property
    def levels(self):
        _, h, w = self.image.shape
        return (SimpleNamespace(height_px=h, width_px=w, mpp=Mpp.square(self.mpp)),)

    @property
    def meta(self):
        return SimpleNamespace(
            source=SimpleNamespace(
                fingerprint={"sha256": f"f{self.image.sum()}"}, vendor="memory", compression=None
            )
        )

    n_channels = 3
    dtype = np.dtype("uint8")

    def level_for(self, mpp, tolerance=0.1):
        if abs(self.mpp / mpp - 1) > tolerance:
            raise ResolutionError(self.path.name, f"has no level at {mpp} um/px", "choose another mpp")
        return 0

    def kept_windows(self, level, min_tissue=0.01):
        return self.kept

    def thumbnail(self, max_px):
        return np.moveaxis(self.image[:, ::8, ::8], 0, -1)

    def read_windows(self, level, row_col):
        c, h, w = self.image.shape
        padded = np.full((c, -(-h // 256) * 256, -(-w // 256) * 256), 255, np.uint8)
        padded[:, :h, :w] = self.image
        return np.stack([padded[:, r * 256 : r * 256 + 256, k * 256 : k * 256 + 256] for r, k in row_col])


def speckled(rng, positive: bool, rows=2, cols=2) -> np.ndarray:
    """Pink texture; a positive image hides dark squares."""
    image = rng.normal(190, 12, (3, rows * 256, cols * 256))
    image += np.asarray([20, -30, 10])[:, None, None]
    if positive:
        for _ in range(6):
            y, x = rng.integers(0, rows * 256 - 48), rng.integers(0, cols * 256 - 48)
            image[:, y : y + 48, x : x + 48] -= 110
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def memory_cohort(tmp_path, monkeypatch):
    """Writes cohort.csv of n cases and serves their stores from memory; returns the table's path."""

    def make(n=12, rows=2, cols=2, seed=0, images_per_case=1, label=None) -> Path:
        rng = np.random.default_rng(seed)
        stores = {}
        with (tmp_path / "cohort.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case_id", "patient_id", "slide_id", "path", "label"])
            for i in range(n):
                for k in range(images_per_case):
                    name = f"s{i:02d}_{k}"
                    image = speckled(rng, i % 2 == 1, rows, cols)
                    kept = np.argwhere(np.ones((rows, cols))).astype(np.int64)
                    path = tmp_path / "stores" / f"{name}.ome.zarr"
                    stores[path] = MemoryStore(path, image, 1.0, kept)
                    writer.writerow(
                        [
                            f"c{i:02d}",
                            f"p{i:02d}",
                            name,
                            f"slides/{name}.tif",
                            (label or (lambda j: j % 2))(i),
                        ]
                    )
        try:
            import atlas_path.store as module
        except ImportError:
            import sys
            import types

            module = types.ModuleType("atlas_path.store")
            sys.modules["atlas_path.store"] = module

        monkeypatch.setattr(module, "find_stores", lambda folders: list(stores), raising=False)
        monkeypatch.setattr(module, "open_store", lambda path: stores[Path(path)], raising=False)
        return tmp_path / "cohort.csv"

    return make
