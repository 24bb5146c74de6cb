"""A small random model, small slides of coloured tissue, their stores, and one scored folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from atlas import Atlas, preset, save_model
from atlas_path.store import PreprocessOptions
from pipelines.preprocess import preprocess
from pipelines.score import ScoreOptions, score

MPP = 1.0
MakeRun = Callable[..., Path]


def tissue(height_px: int, width_px: int, seed: int = 0) -> np.ndarray:
    """(h, w, 3) uint8: pink textured tissue on the left, glass on the right."""
    rng = np.random.default_rng(seed)
    image = np.full((height_px, width_px, 3), 243, np.int16)
    cut = round(width_px * 0.6)
    y, x = np.mgrid[0:height_px, 0:cut]
    waves = (18 * np.sin(y / 7.0 + seed) * np.cos(x / 11.0))[..., None]
    image[:, :cut] = np.array([196, 118, 168]) + waves + rng.integers(-12, 13, (height_px, cut, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def write_slide(path: Path, pixels: np.ndarray, mpp_yx: tuple[float, float] = (MPP, MPP)) -> Path:
    """A tiled lossless TIFF with its resolution in the tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
        resolution=(1e4 / mpp_yx[1], 1e4 / mpp_yx[0]),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path


@pytest.fixture
def paint() -> Callable[[Path, int, int], Path]:
    """Write a slide of tissue of the size given: `paint(path, height_px, width_px)`."""
    return lambda path, height_px, width_px: write_slide(path, tissue(height_px, width_px))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The tests share their machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Write a run folder with a small random model; `extra` goes into model.json."""

    def make(
        seed: int = 0,
        kind: str = "binary",
        classes: tuple[str, ...] = ("benign", "tumour"),
        folder: Path | None = None,
        architecture: dict[str, Any] | None = None,
        **extra: Any,
    ) -> Path:
        outputs = {"binary": 1, "ordinal": len(classes) - 1}.get(kind, len(classes))
        torch.manual_seed(seed)
        cfg = preset("tiny", task=kind, n_outputs=outputs, **(architecture or {}))
        model = Atlas(cfg)
        with torch.no_grad():  # random weights say almost nothing; louder evidence makes differences visible
            for parameter in model.head.parameters():
                parameter.mul_(3.0)
        info: dict[str, Any] = {
            "task": {"kind": kind, "name": "finding", "classes": list(classes), "label_column": "label"},
            "mpp": MPP,
            "min_tissue": 0.01,
            "calibration": {"method": "temperature", "parameters": {"scale": 0.7, "shift": 0.0}},
            "operating_points": [
                {"name": name, "class": c, "threshold": t, "fitted_on": "tune"}
                for name, t in (("youden", 0.5), ("sens95", 0.2))
                for c in (classes[1:] if kind == "binary" else classes)
            ],
            "training_statistics": {},
            "training_cases": {"case_ids": [], "image_fingerprints": []},
        }
        return save_model(folder or tmp_path_factory.mktemp("run"), model, info | extra)

    return make


@pytest.fixture(scope="session")
def run(make_run: MakeRun) -> Path:
    """A binary model."""
    return make_run()


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides of different size, the last in a subfolder."""
    folder = tmp_path_factory.mktemp("slides")
    for i, (name, height, width) in enumerate((("a", 700, 1100), ("b", 520, 900), ("sub/c", 1030, 600))):
        write_slide(folder / f"{name}.tif", tissue(height, width, i))
    return folder


@pytest.fixture(scope="session")
def stores(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their stores."""
    out = tmp_path_factory.mktemp("made") / "stores"
    result = preprocess([slides], out, PreprocessOptions(mpp=MPP, workers=0))
    assert result.exit_code == 0
    return out


@pytest.fixture(scope="session")
def scored(stores: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scores folder; read only."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("scored") / "scores"
    assert score([stores], run, out, options()).exit_code == 0
    return out


def options(**changes: Any) -> ScoreOptions:
    """Options that suit a busy machine."""
    return ScoreOptions(**{"workers": 0, "threads": 1, "mpp": MPP, "device": "cpu", **changes})
