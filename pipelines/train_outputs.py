"""What a run leaves: `model.safetensors` and `model.json` with calibration, thresholds and statistics."""

from __future__ import annotations

import hashlib
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
from pipelines.data_cases import CaseRef, ImageRef
from pipelines.train_tune import TuneResult

STATISTICS_WINDOWS = 32


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
        "image_kinds": {"columns": list(config.data.image_kinds), "names": list(kinds)},
        "calibration": calibration,
        "operating_points": points,
        "tuning": None
        if tuned is None
        else {"n": int(np.count_nonzero(tuned.known)), "loss": tuned.loss, "score": tuned.score},
        "training_statistics": training_statistics(train_cases, reader, config.runtime.seed),
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


def image_statistics(image: ImageRef, reader: WindowReader, seed: int) -> dict[str, float]:
    """Simple facts about an image's kept windows, for the drift guard.

    Returns:
        `mpp`, `n_windows`, `tissue_mm2` (area of kept windows), per channel c `mean_c` and `std_c` (0..1),
        and `sharpness` (mean absolute difference of horizontal neighbours, 0..1). Pixels come from up to 32
        windows, drawn by seed and image id.
    """
    digest = hashlib.blake2b(image.image_id.encode(), digest_size=8).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest, "little")])
    index = np.sort(rng.permutation(image.n_windows)[:STATISTICS_WINDOWS])
    return window_statistics(reader.read(image, index), image.n_windows, image.mpp)


def window_statistics(
    pixels_NCHW: np.ndarray, n_windows: int, mpp_yx: tuple[float, float]
) -> dict[str, float]:
    """The numbers of `image_statistics` from pixels in hand; scoring uses the same function."""
    top = float(np.iinfo(pixels_NCHW.dtype).max) if np.issubdtype(pixels_NCHW.dtype, np.integer) else 1.0
    sample = pixels_NCHW[:, :, ::2, :].astype(np.float32) / top
    side = pixels_NCHW.shape[-1]
    facts = {
        "mpp": float((mpp_yx[0] * mpp_yx[1]) ** 0.5),
        "n_windows": float(n_windows),
        "tissue_mm2": n_windows * side * side * mpp_yx[0] * mpp_yx[1] / 1e6,
        "sharpness": float(np.abs(np.diff(sample, axis=-1)).mean()),
    }
    for c in range(sample.shape[1]):
        facts[f"mean_{c}"] = float(sample[:, c].mean())
        facts[f"std_{c}"] = float(sample[:, c].std())
    return facts


def training_statistics(cases: Sequence[CaseRef], reader: WindowReader, seed: int) -> dict[str, Any]:
    """Distribution of `image_statistics` over the training images.

    Returns:
        `{"n_images": n, "features": {name: {"mean", "std", "min", "max", "p01", "p50", "p99"}}}`.
    """
    rows = [image_statistics(image, reader, seed) for case in cases for image in case.images]
    features = {}
    for name in rows[0]:
        values = np.asarray([row[name] for row in rows])
        low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
        features[name] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
            "p01": float(low),
            "p50": float(middle),
            "p99": float(high),
        }
    return {"n_images": len(rows), "features": features}
