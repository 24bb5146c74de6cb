"""What a run leaves: `model.safetensors` and `model.json` with calibration, thresholds and statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atlas import Atlas, save_model
from atlas.losses import probabilities
from atlas_path import RESEARCH_USE_ONLY, __version__
from atlas_path.cohort import Targets
from atlas_path.config import TrainConfig
from pipelines.calibrate import apply_calibration, fit_calibration, operating_points
from pipelines.data import WindowReader
from pipelines.data_cases import CaseRef
from pipelines.guard import sample_rows, source_categories, training_statistics, window_statistics
from pipelines.train_folds import PREDICTIONS, write_tune_predictions
from pipelines.train_tune import TuneResult

STATISTICS_IMAGES = 1000


def write_model(
    run_dir: Path,
    config: TrainConfig,
    model: Atlas,
    targets: Targets,
    tuned: TuneResult | None,
    train_cases: Sequence[CaseRef],
    facts: Mapping[str, Mapping[str, str]],
    reader: WindowReader,
    kinds: Sequence[str],
) -> dict[str, Any]:
    """Save the model with everything scoring needs, and return what was added to `model.json`."""
    kind = targets.kind
    calibration: dict[str, Any] = {"method": "none", "parameters": {}, "fitted_on": "nothing", "n": 0}
    points: list[dict[str, Any]] = []
    if tuned:
        method = config.output.calibration
        calibration = fit_calibration(kind, method, tuned.logits_BO, tuned.target, tuned.known)
        logits = apply_calibration(tuned.logits_BO, calibration)
        chance = probabilities(kind, torch.from_numpy(logits).float()).numpy()
        points = operating_points(
            kind, targets.classes, chance, tuned.target, tuned.known, config.output.operating_points
        )
        if kind == "regression":
            chance = chance * targets.scale[1] + targets.scale[0]
        write_tune_predictions(run_dir / PREDICTIONS, tuned, targets, chance)
    task: dict[str, Any] = {
        "kind": kind,
        "name": config.task.name,
        "classes": targets.classes,
        "label_column": config.task.label if kind != "survival" else config.task.label_columns,
    }
    if kind == "survival":
        task["bin_edges"] = targets.bin_edges
    if kind == "regression":
        task["scale"] = {"mean": targets.scale[0], "std": targets.scale[1]}
    extra: dict[str, Any] = {
        "task": task,
        "mpp": config.data.mpp,
        "min_tissue": config.data.min_tissue,
        "normalisation": {
            "pixel_max": model.cfg.pixel_max,
            "mean": list(model.cfg.pixel_mean),
            "std": list(model.cfg.pixel_std),
        },
        "voi": config.data.voi,
        "image_kinds": {"columns": list(config.data.image_kinds), "names": list(kinds)},
        "calibration": calibration,
        "operating_points": points,
        "tuning": None
        if tuned is None
        else {"n": int(np.count_nonzero(tuned.known)), "loss": tuned.loss, "score": tuned.score},
        "training_statistics": statistics_of(train_cases, reader),
        "training_cases": {
            "case_ids": [case.case_id for case in train_cases],
            "image_fingerprints": sorted(
                {facts[i.image_id].get("fingerprint", "") for c in train_cases for i in c.images} - {""}
            ),
        },
        "intended_use": f"{config.output.intended_use} {RESEARCH_USE_ONLY}",
        "licence": config.output.licence,
        "atlas_path_version": __version__,
    }
    save_model(run_dir, model, extra)
    return extra


def statistics_of(cases: Sequence[CaseRef], reader: WindowReader) -> dict[str, Any]:
    """What the drift guard of `score` compares with, from a sample of windows of every training image."""
    images: list[dict[str, float | str]] = []
    every = [image for case in cases for image in case.images]
    for i in sample_rows(len(every), STATISTICS_IMAGES):
        image = every[i]
        pixels = reader.read(image, sample_rows(image.n_windows))
        measures = window_statistics(pixels, image.n_windows, image.mpp)
        images.append({**measures, **source_categories(image.vendor, image.compression)})
    return training_statistics(images)
