"""The optional trackers keep a run on this disk, without a network; a resumed run goes on in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from atlas_path.config import TrainConfig
from atlas_path.errors import UsageError
from pipelines.train_log import RunLog


def _config(tmp_path: Path, tracker: str) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tracked",
            "cohort": tmp_path / "cohort.csv",
            "out": tmp_path,
            "task": {"kind": "binary", "label": "y"},
            "track": {tracker: True},
        }
    )


def _log_twice(run_dir: Path, config: TrainConfig) -> None:
    run_dir.mkdir()
    log = RunLog(run_dir, config)
    for step in (1, 2):
        log.write("step", step, {"loss": 1.0 / step, "epoch": 1})
    log.close()
    resumed = RunLog(run_dir, config, resume_step=2)
    resumed.write("epoch", 3, {"loss": 0.25})
    resumed.close()


def test_mlflow_keeps_the_numbers_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs atlas-path[trackers]")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    _log_twice(tmp_path / "run", _config(tmp_path, "mlflow"))
    kept = {
        path.name: path.read_text().split()[1]
        for path in (tmp_path / "run" / "mlruns").rglob("metrics/*")
        if path.is_file()
    }
    assert float(kept["step.loss"]) == 1.0
    assert float(kept["epoch.loss"]) == 0.25


def test_wandb_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs atlas-path[trackers]")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    _log_twice(tmp_path / "run", _config(tmp_path, "wandb"))
    runs = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(runs) == 2  # a resumed run is a second one
    assert all(list(run.glob("run-*.wandb")) for run in runs)


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match=f"{tracker} is not installed"):
        RunLog(tmp_path / "run", _config(tmp_path, tracker))
