"""`atlas-path train`: a cohort file to a model one can trust.

cohort -> splits by patient -> stores and windows -> training -> calibration and thresholds on the tuning
split -> `runs/<name>/`. Running the same command again resumes where it stopped; a finished run stays.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from atlas import Atlas
from atlas_path.cohort import (
    encode_targets,
    fold_view,
)
from atlas_path.cohort.lock import write_lock
from atlas_path.config import TrainConfig, dump_yaml
from atlas_path.errors import UsageError
from atlas_path.progress import say
from pipelines.data import WindowReader
from pipelines.data_cases import CaseRef
from pipelines.distributed import World, joined_world
from pipelines.train_card import write_model_card
from pipelines.train_folds import pool_operating_points
from pipelines.train_loop import Trainer
from pipelines.train_metrics import SCORE_NAMES
from pipelines.train_outputs import write_model
from pipelines.train_prepare import Prepared, prepare
from pipelines.train_setup import build_model, choose_device
from pipelines.train_tune import predict
from pipelines.train_weights import load_best

NOT_IN_IDENTITY: dict[str, Any] = {
    "out": True,
    "cohort": True,
    "track": True,
    "pretrain": True,
    "runtime": {"device", "threads", "memory", "shard", "checkpoint_minutes", "keep_checkpoints"},
    "data": {"stores", "workers", "prefetch", "cache_gb"},
}
"""Settings that may differ when a run goes on: they do not change its numbers. Of the cohort the content is
compared, not the place."""


def train(config: TrainConfig, force: bool = False) -> Path:
    """Train (or go on training) and return the run's folder.

    Args:
        config: the settings; `load_train_config` reads them from YAML.
        force: throw away what the run's folder holds and start again.

    Raises:
        AtlasPathError: anything a user can mend, before or while training.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    with joined_world(choose_device(config.runtime)) as world:
        device = choose_device(config.runtime, world.local_rank)
        run_dir = config.run_dir
        if world.is_main:
            _claim(run_dir, config, force)
        world.barrier()
        if (run_dir / "model.json").exists() or (run_dir / "ensemble.json").exists():
            if world.is_main:
                say(f"{run_dir.name} is finished; --force starts it again")
            return run_dir
        prepared = prepare(config, quiet=not world.is_main)
        if world.is_main:
            _write_inputs(run_dir, prepared)
        if config.split.folds:
            members = []
            for fold in range(config.split.folds):
                view = prepared.cohort.with_cases(fold_view(prepared.cohort, fold).cases)
                targets = encode_targets(view, config.task)
                one = Prepared(view, targets, prepared.found, prepared.warnings)
                _train_one(config, one, run_dir / f"fold_{fold}", world, device)
                members.append(f"fold_{fold}")
            if world.is_main:
                pool_operating_points(run_dir, members, config.output.operating_points, prepared.targets)
                text = json.dumps(
                    {"format": "atlas-path-ensemble/1", "members": members, "combine": "mean"}, indent=1
                )
                (run_dir / "ensemble.json").write_text(text + "\n", encoding="utf-8")
        else:
            _train_one(config, prepared, run_dir, world, device)
    return run_dir


def _claim(run_dir: Path, config: TrainConfig, force: bool) -> None:
    """Make the run folder ours, or refuse one that was started with other settings."""
    settings = run_dir / "config.yaml"
    if force and run_dir.exists():
        if any(run_dir.iterdir()) and not settings.exists():
            raise UsageError(run_dir, "not a run folder, so it is not removed", "give another name or out")
        shutil.rmtree(run_dir)
    if settings.exists():
        try:
            old = TrainConfig.model_validate(_load_yaml(settings))
        except ValidationError as error:
            fault = "its config.yaml was written by another version"
            raise UsageError(run_dir, fault, "change name, or use --force") from error
        changed = _differences(old, config)
        if changed:
            raise UsageError(
                run_dir,
                f"was started with other settings ({', '.join(changed)})",
                "change name, or use --force",
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    settings.write_text(dump_yaml(config), encoding="utf-8")


def _load_yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Dotted keys that shape the result and differ."""

    def flat(config: TrainConfig) -> dict[str, Any]:
        values = config.model_dump(mode="json", exclude=NOT_IN_IDENTITY)
        return {
            f"{section}.{key}" if isinstance(content, dict) else section: value
            for section, content in values.items()
            for key, value in (content.items() if isinstance(content, dict) else [("", content)])
        }

    a, b = flat(old), flat(new)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _write_inputs(run_dir: Path, prepared: Prepared) -> None:
    lock = run_dir / "cohort.lock.csv"
    before = lock.read_bytes() if lock.exists() else None
    write_lock(lock, prepared.cohort, prepared.found.facts)
    if before is not None and before != lock.read_bytes():
        lock.write_bytes(before)
        raise UsageError(
            run_dir, "was started on other images, labels or splits", "change name, or use --force"
        )
    if prepared.found.left_out:
        with (run_dir / "left_out.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(prepared.found.left_out[0]))
            writer.writeheader()
            writer.writerows(prepared.found.left_out)
    if prepared.warnings:
        (run_dir / "warnings.txt").write_text("\n".join(prepared.warnings) + "\n", encoding="utf-8")


def _train_one(
    config: TrainConfig, prepared: Prepared, run_dir: Path, world: World, device: torch.device
) -> None:
    if (run_dir / "model.json").exists():
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    train_ids, tune_ids = prepared.ids("train"), prepared.ids("tune")
    train_cases: list[CaseRef] = [prepared.found.cases[c] for c in train_ids]
    reader = WindowReader(0)
    n_kinds = len(prepared.found.kinds)
    model = build_model(config, prepared.targets, train_cases, reader, n_kinds)
    trainer = Trainer(
        config, model, prepared.found.cases, prepared.targets, train_ids, tune_ids, run_dir, world, device
    )
    trainer.fit()
    if world.is_main:
        best = Atlas(model.cfg)
        load_best(trainer.checkpoints, best)
        best.to(device)
        tuned = predict(best, trainer.loader, tune_ids, World(), device) if tune_ids else None
        extra = write_model(
            run_dir, config, best, prepared.targets, tuned, train_cases, prepared.found.facts, reader,
            prepared.found.kinds,
        )  # fmt: skip
        write_model_card(run_dir, config, prepared, extra)
        if tuned:
            score = "-" if tuned.score is None else f"{tuned.score:.3f}"
            name = SCORE_NAMES[prepared.targets.kind]
            method = extra["calibration"]["method"]
            say(f"best epoch {trainer.progress.best_epoch + 1}: tune {name} {score}, calibration {method}")
    world.barrier()
