"""Made-up studies: predictions tables, scores folders in the layout of `score`, cohorts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atlas_path.stats.operating import point_hash


def make_table(n_patients: int = 120, most_rows: int = 2, seed: int = 0) -> pd.DataFrame:
    """Cases of patients at three sites; a moderately good, well-calibrated score; tune and test splits."""
    random = np.random.default_rng(seed)
    rows = []
    for p in range(n_patients):
        site = random.choice(["Aachen", "Bergen", "Cork"], p=[0.5, 0.3, 0.2])
        positive = random.random() < 0.4
        shift = random.normal() * 0.6
        for k in range(random.integers(1, most_rows + 1)):
            odds = -1.0 + 2.2 * positive + shift + random.normal() * 0.8
            rows.append(
                {
                    "case_id": f"case{p:03d}_{k}", "patient_id": f"patient{p:03d}", "site": site,
                    "scanner": "GT450" if site == "Aachen" else "S360", "age": int(random.normal(58, 11)),
                    "split": "tune" if p < n_patients // 4 else "test", "label": int(positive),
                    "prob": 1 / (1 + np.exp(-1.4 * odds)),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def write_scores(
    folder: Path, table: pd.DataFrame, classes: tuple[str, str] = ("benign", "malignant")
) -> Path:
    """A scores folder as `score` writes it, and `cohort.csv` beside it."""
    folder.mkdir(parents=True)
    negative, positive = classes
    point = {
        "name": "youden", "class": positive, "threshold": 0.5, "rule": "largest sum", "fitted_on": "tune",
        "sensitivity": 0.8, "specificity": 0.9, "n": 40,
    }  # fmt: skip
    point["sha256"] = point_hash(point)
    pd.DataFrame(
        {
            "case_id": table["case_id"], "patient_id": table["patient_id"], "task": "malignancy",
            "pred_label": np.where(table["prob"] >= 0.5, positive, negative),
            f"prob_{negative}": 1 - table["prob"], f"prob_{positive}": table["prob"],
            "threshold": 0.5, "calibrated": True, "n_images": 1, "n_windows": 9, "in_distribution": True,
            "model_sha256": "ab" * 32, "status": "done", "reason": "",
        }
    ).to_csv(folder / "predictions.csv", index=False)  # fmt: skip
    info = {
        "format": "atlas-path-scores/1", "created_utc": "2026-01-01T00:00:00Z", "model_path": "demo",
        "intended_use": "Research on made-up cases.", "model_sha256": "ab" * 32,
        "members": [{"name": "demo", "sha256": "ab" * 32, "calibration": {"method": "platt"}}],
        "task": {"kind": "binary", "name": "malignancy", "classes": list(classes),
                 "label_column": "diagnosis"},
        "operating_points": [point], "operating_point": None, "mpp": 1.0, "min_tissue": 0.01, "options": {},
        "n_cases": len(table), "n_failed": 0, "n_abstained": 0, "leaked_training_cases": [], "seconds": {},
    }  # fmt: skip
    (folder / "scores.json").write_text(json.dumps(info))
    cohort = table.drop(columns=["prob", "label"]).assign(
        diagnosis=np.where(table["label"] == 1, positive, negative),
        path=[f"{c}.tif" for c in table["case_id"]],
    )
    cohort.to_csv(folder.parent / "cohort.csv", index=False)
    return folder


@pytest.fixture
def table() -> pd.DataFrame:
    return make_table()


@pytest.fixture
def scores(tmp_path: Path, table: pd.DataFrame) -> Path:
    return write_scores(tmp_path / "scores", table)


@pytest.fixture
def new_table() -> Callable[..., pd.DataFrame]:
    """Makes further tables."""
    return make_table


@pytest.fixture
def new_scores() -> Callable[..., Path]:
    """Writes further scores folders."""
    return write_scores


@pytest.fixture(scope="module")
def module_scores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A scores folder for tests that only read, and its cases."""
    table = make_table()
    return write_scores(tmp_path_factory.mktemp("study") / "scores", table), table
