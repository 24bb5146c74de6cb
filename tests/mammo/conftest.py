"""Small DICOM mammograms made on the spot, with every fault the reader must answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from pipelines.demo_mammo_dicom import ExamHeader, mammogram_dataset, write
from pipelines.demo_mammo_paint import BITS, paint_view

HEIGHT_PX, WIDTH_PX, SPACING_MM = 576, 448, 0.4


@pytest.fixture(autouse=True)
def _salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_PATH_ID_SALT", "salt of the tests")


@pytest.fixture(scope="session")
def painted() -> dict[tuple[str, str], np.ndarray]:
    """(laterality, view) -> (height, width) uint16 of 12 bits, tissue bright."""
    rng = np.random.default_rng(7)
    return {
        (side, view): paint_view(
            rng, side, view, 0.3, "malignant" if side == "L" else None, HEIGHT_PX, WIDTH_PX
        ).pixels
        for side in ("L", "R")
        for view in ("CC", "MLO")
    }


@pytest.fixture
def exam() -> ExamHeader:
    return ExamHeader("PID-1", "TEST^ONE", "1.2.826.0.1.3680043.8.498.1", "20240131", "ACC-1")


@pytest.fixture
def dataset(painted: dict[tuple[str, str], np.ndarray], exam: ExamHeader) -> Dataset:
    """A left CC mammogram, uncompressed, MONOCHROME2."""
    return mammogram_dataset(painted["L", "CC"], "L", "CC", exam, SPACING_MM, BITS)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Dataset], Path]:
    """Write a data set to a new file."""
    count = iter(range(1000))
    return lambda made: write(made, tmp_path / f"image{next(count)}.dcm")
