"""Predictions on the tuning split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from atlas import Atlas
from atlas.losses import probabilities
from pipelines.data_loader import PassLoader, plan_tuning
from pipelines.distributed import World
from pipelines.train_metrics import accuracy, score_of
from pipelines.train_pass import case_losses
from pipelines.train_setup import uses_bfloat16


@dataclass
class TuneResult:
    """Predictions on the tuning split, in the order of `case_ids`."""

    case_ids: list[str]
    logits_BO: np.ndarray
    probability_BK: np.ndarray
    target: np.ndarray
    known: np.ndarray
    loss: float
    score: float | None
    accuracy: float | None


@torch.no_grad()
def predict(
    model: Atlas, loader: PassLoader, case_ids: Sequence[str], world: World, device: torch.device
) -> TuneResult:
    """Predict cases without augmentation; every process does its share and gets the whole result."""
    config, targets, cases = loader.dataset.config, loader.dataset.targets, loader.dataset.cases
    model.eval()
    plan = plan_tuning(case_ids, [cases[c].n_windows for c in case_ids], config)
    mine: dict[str, tuple[np.ndarray, np.ndarray, float]] = {}
    for loaded in loader.run(plan[world.rank :: world.size]):
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config.runtime, device)):
            logits_BO = model(loaded.batch.to(device)).logits_BO.float().cpu()
        losses = case_losses(targets.kind, logits_BO, loaded.target, loaded.known).tolist()
        chances = probabilities(targets.kind, logits_BO).numpy()
        for i, case_id in enumerate(loaded.spec.case_ids):
            mine[case_id] = (logits_BO[i].numpy(), chances[i], losses[i])
    found = {k: v for part in world.gather(mine) for k, v in part.items()}
    logits = np.stack([found[c][0] for c in case_ids])
    chance_BK = np.stack([found[c][1] for c in case_ids])
    target = np.stack([targets.value[c] for c in case_ids])
    known = np.stack([targets.known[c] for c in case_ids])
    labelled = [found[c][2] for c in case_ids if targets.is_labelled(c)]
    loss = float(np.mean(labelled)) if labelled else 0.0
    score = score_of(targets.kind, logits, chance_BK, target, known)
    right = accuracy(targets.kind, chance_BK, target, known)
    return TuneResult(list(case_ids), logits, chance_BK, target, known, loss, score, right)
