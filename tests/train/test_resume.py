"""Killed and resumed, or run on other numbers of processes: the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EVERY_STEP = "runtime.checkpoint_minutes=0.000001"


def losses(folder: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (folder / "runs/r/metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines if line["kind"] == "step"]


def tuning(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "runs/r/metrics.jsonl").read_text().splitlines()]
    return [line["tune_loss"] for line in lines if line["kind"] == "epoch"]


def start(script: Path, folder: Path, *arguments: str, processes: int = 1) -> int:
    """Run the script as one process, or as several under torchrun; its output goes to log.txt."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [*command, str(script), str(folder), *arguments],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    return done.returncode


@pytest.fixture
def here(memory_script, monkeypatch):
    """Runs the same thing in this process, which spares starting another."""
    import importlib

    import atlas_path.store

    memory_run = importlib.import_module("memory_run")

    def run(folder: Path, **sections) -> None:
        from pipelines.train import train

        folder.mkdir(exist_ok=True)
        for name, value in memory_run.serve(memory_run.write_cohort(folder)).items():
            monkeypatch.setattr(atlas_path.store, name, value)
        train(memory_run.config_for(folder / "cohort.csv", **sections))

    return run


def assert_close(folder: Path, reference: Path) -> None:
    """Equal but for the order of additions."""
    assert [step for step, *_ in losses(folder)] == [step for step, *_ in losses(reference)]
    for (_, loss, norm), (_, loss_1, norm_1) in zip(losses(folder), losses(reference), strict=True):
        assert loss == pytest.approx(loss_1, rel=1e-4)
        assert norm == pytest.approx(norm_1, rel=1e-3)
    assert tuning(folder) == pytest.approx(tuning(reference), rel=1e-4)


def test_kill_9_in_mid_epoch_and_resume_is_exact(tmp_path, memory_script, here, capsys):
    here(tmp_path / "whole", optim={"ema": 0.9})
    killed = start(memory_script, tmp_path / "cut", "--kill-at-pass", "4", EVERY_STEP, "optim.ema=0.9")
    assert killed == -9
    assert 0 < len(losses(tmp_path / "cut")) < len(losses(tmp_path / "whole"))
    assert not (tmp_path / "cut/runs/r/model.json").exists()
    here(tmp_path / "cut", optim={"ema": 0.9})
    assert "resuming r at epoch 1, step 1/2" in capsys.readouterr().err
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert tuning(tmp_path / "cut") == tuning(tmp_path / "whole")
    weights = [(tmp_path / name / "runs/r/model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]


def test_weights_not_used_before_the_checkpoint_resume_exactly(tmp_path, memory_script, here):
    optim = {"epochs": 3, "window_epochs": 2}
    here(tmp_path / "whole", optim=optim)
    options = ("optim.epochs=3", "optim.window_epochs=2", EVERY_STEP)
    assert start(memory_script, tmp_path / "cut", "--kill-at-pass", "6", *options) == -9
    here(tmp_path / "cut", optim=optim)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_equal_one_and_resume_at_other_counts(tmp_path, memory_script, here, capsys):
    here(tmp_path / "one")
    assert start(memory_script, tmp_path / "two", "--kill-at-pass", "2", EVERY_STEP, processes=2) != 0
    assert len(losses(tmp_path / "two")) == 1
    shutil.copytree(tmp_path / "two", tmp_path / "two_to_one")
    assert start(memory_script, tmp_path / "two", processes=2) == 0
    assert "resuming r at epoch 1, step 1/2" in (tmp_path / "two/log.txt").read_text()
    assert_close(tmp_path / "two", tmp_path / "one")
    here(tmp_path / "two_to_one")
    assert "resuming r at epoch 1, step 1/2" in capsys.readouterr().err
    assert_close(tmp_path / "two_to_one", tmp_path / "one")


@pytest.mark.slow
def test_sharded_weights_train_like_replicated_ones_and_resume_whole(tmp_path, memory_script, here, capsys):
    here(tmp_path / "one", optim={"ema": 0.5})
    options = (EVERY_STEP, "runtime.shard=fsdp", "optim.ema=0.5")
    assert start(memory_script, tmp_path / "two", "--kill-at-pass", "4", *options, processes=2) != 0
    assert len(losses(tmp_path / "two")) == 3
    here(tmp_path / "two", optim={"ema": 0.5})
    assert "resuming r at epoch 2, step 1/2" in capsys.readouterr().err
    assert_close(tmp_path / "two", tmp_path / "one")
