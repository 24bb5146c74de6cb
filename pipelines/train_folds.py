"""Folds: predictions of the cases a model was tuned on, and thresholds from all of them together."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlas_path.cohort import Targets
from pipelines.calibrate import operating_points
from pipelines.train_tune import TuneResult

PREDICTIONS = "tune_predictions.csv"


def write_tune_predictions(
    path: Path, tuned: TuneResult, targets: Targets, probability_BK: np.ndarray
) -> None:
    """One row a tuning case: its targets (empty where unknown) and calibrated probabilities or values.

    Columns: case_id, target_<name>..., and prob_<class> (or value_<name> for regression, survival).
    """
    kind = targets.kind
    many = kind == "multilabel"
    names = [f"target_{c}" for c in targets.classes] if many else ["target"]
    names = ["target_bin", "target_event"] if kind == "survival" else names
    values = "value" if kind in ("regression", "survival") else "prob"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", *names, *(f"{values}_{c}" for c in targets.classes)])
        for i, case_id in enumerate(tuned.case_ids):
            target = np.atleast_1d(tuned.target[i]).tolist()
            known = np.broadcast_to(tuned.known[i], len(target))
            cells = [value if ok else "" for value, ok in zip(target, known, strict=True)]
            writer.writerow([case_id, *cells, *(f"{p:.8g}" for p in np.atleast_1d(probability_BK[i]))])


def pool_operating_points(
    run_dir: Path, members: Sequence[str], names: Sequence[str], targets: Targets
) -> None:
    """Replace the thresholds of every fold by ones fitted on the tuning cases of all folds.

    Each case counts once, with the probability of the one model that was not trained on it. The ensemble's
    decision and a single fold's then rest on the same thresholds.
    """
    if targets.kind not in ("binary", "multiclass", "multilabel"):
        return
    rows = [row for member in members for row in _read(run_dir / member / PREDICTIONS)]
    if not rows:
        return
    chance_BK = np.asarray([[float(row[f"prob_{c}"]) for c in targets.classes] for row in rows])
    columns = [f"target_{c}" for c in targets.classes] if targets.kind == "multilabel" else ["target"]
    cells = [[row[column] for column in columns] for row in rows]
    known = np.asarray([[cell != "" for cell in row] for row in cells])
    target = np.asarray([[float(cell or 0) for cell in row] for row in cells])
    if targets.kind != "multilabel":
        known, target = known[:, 0], target[:, 0].astype(np.int64)
    points = operating_points(targets.kind, targets.classes, chance_BK, target, known, names)
    for member in members:
        path = run_dir / member / "model.json"
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        part = path.with_name(".model.json.part")
        part.write_text(json.dumps(info | {"operating_points": points}, indent=2) + "\n", encoding="utf-8")
        part.replace(path)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
