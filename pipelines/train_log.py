"""What a run says: `metrics.jsonl` and TensorBoard always, W&B and MLflow when asked for (offline)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_path.config import TrainConfig
from atlas_path.errors import UsageError

METRICS = "metrics.jsonl"


class RunLog:
    """Writes the numbers of a run; only the main process owns one.

    Args:
        run_dir: the run's folder.
        config: for the run's name and the optional trackers.
        resume_step: lines and events after this step are dropped, as they will be written again.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, resume_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / METRICS
        _truncate(self.path, resume_step)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(run_dir / "tensorboard"), purge_step=resume_step + 1 if resume_step else None
        )
        self._trackers = _trackers(run_dir, config)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line in `metrics.jsonl`; numbers also go to the trackers as `kind/name`."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        numbers = {f"{kind}/{k}": float(v) for k, v in values.items() if isinstance(v, int | float)}
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        for tracker in self._trackers:
            tracker.log(numbers, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()
        for tracker in self._trackers:
            tracker.close()


def _truncate(path: Path, step: int) -> None:
    """Keep the lines of steps that a resumed run will not repeat; a line cut by a crash is dropped."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _trackers(run_dir: Path, config: TrainConfig) -> list[_Wandb | _Mlflow]:
    trackers: list[_Wandb | _Mlflow] = []
    if config.track.wandb:
        trackers.append(_Wandb(run_dir, config))
    if config.track.mlflow:
        trackers.append(_Mlflow(run_dir, config))
    return trackers


class _Wandb:
    def __init__(self, run_dir: Path, config: TrainConfig) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError(
                "track.wandb", "wandb is not installed", "pip install wandb, or switch it off"
            ) from error
        os.environ.setdefault("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=config.track.project,
            name=config.name,
            dir=str(run_dir),
            config=config.model_dump(mode="json"),
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, run_dir: Path, config: TrainConfig) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise UsageError(
                "track.mlflow", "mlflow is not installed", "pip install mlflow, or switch it off"
            ) from error
        self._mlflow = mlflow
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # refused by default since 3.7
            mlflow.set_tracking_uri((run_dir / "mlruns").absolute().as_uri())
        mlflow.set_experiment(config.track.project)
        mlflow.start_run(run_name=config.name)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics({k.replace("/", "."): v for k, v in numbers.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()
