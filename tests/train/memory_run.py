"""Stores held in memory, and a run on them: imported by the fixtures, and started by tests as a process.

    memory_run.py FOLDER [--kill-at-pass N] [section.key=value ...]

makes the same cohort every time. With --kill-at-pass the process kills itself (SIGKILL) in the middle of a
step.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import yaml

from atlas_path.errors import ResolutionError
from atlas_path.geometry import Mpp


@dataclass
class MemoryStore:
    """The part of `Store` that training uses, over an array (c, rows * 256, cols * 256) held in memory."""

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
        fingerprint = {"sha256": f"f{self.image.sum()}"}
        return SimpleNamespace(
            source=SimpleNamespace(fingerprint=fingerprint, vendor="memory", compression=None),
            mpp_requested="native",
        )

    n_channels = 3
    shown_as = None
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


def write_cohort(folder: Path, n=12, rows=2, cols=2, seed=0, images_per_case=1, columns=None) -> dict:
    """Write `cohort.csv` of n cases and return their stores by path.

    `columns` maps further column names to functions of the case number; `label` is its parity by default.
    """
    rng = np.random.default_rng(seed)
    columns = {"label": lambda i: i % 2} | (columns or {})
    stores = {}
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "patient_id", "slide_id", "path", *columns])
        for i in range(n):
            for k in range(images_per_case):
                name = f"s{i:02d}_{k}"
                image = speckled(rng, i % 2 == 1, rows, cols)
                path = folder / "stores" / f"{name}.ome.zarr"
                stores[path] = MemoryStore(path, image, 1.0, np.argwhere(np.ones((rows, cols))))
                cells = [make(i) for make in columns.values()]
                writer.writerow([f"c{i:02d}", f"p{i:02d}", name, f"slides/{name}.tif", *cells])
    return stores


def serve(stores: dict) -> dict:
    """Attributes of `atlas_path.store` that make it answer from memory."""
    return {
        "find_stores": lambda folders: list(stores),
        "open_store": lambda path, voi=None: stores[Path(path)],
    }


def config_for(table: Path, **sections):
    """A quick run on `table`; sections are merged into it."""
    from atlas_path.config import TrainConfig

    values = {
        "name": "r",
        "cohort": table,
        "out": table.parent / "runs",
        "data": {"stores": table.parent / "stores", "mpp": 1.0},
        "model": {"options": {"dim": 32, "evidence_hidden": 16, "stem_width": 8, "drop_path": 0.2}},
        "optim": {"epochs": 2, "cases_per_step": 4, "cases_per_pass": 2, "lr": 1e-3},
        "runtime": {"device": "cpu", "threads": 1, "memory": "plain"},
    }
    for section, content in sections.items():
        values[section] = {**values.get(section, {}), **content} if isinstance(content, dict) else content
    return TrainConfig.model_validate(values)


def main() -> None:
    import atlas_path.store

    arguments = sys.argv[1:]
    folder = Path(arguments.pop(0))
    stores = write_cohort(folder)
    for name, value in serve(stores).items():
        setattr(atlas_path.store, name, value)
    import pipelines.train_loop as loop
    from pipelines.train import train

    if arguments and arguments[0] == "--kill-at-pass":
        left, original = int(arguments[1]), loop.backward_pass
        arguments = arguments[2:]

        def dying(*args):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        loop.backward_pass = dying
    sections: dict = {}
    for item in arguments:
        key, _, value = item.partition("=")
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = yaml.safe_load(value)
    train(config_for(folder / "cohort.csv", **sections))


if __name__ == "__main__":
    main()
