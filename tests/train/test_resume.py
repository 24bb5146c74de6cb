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


def losses(folder: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (folder / "runs/r/metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines if line["kind"] == "step"]


def tuning(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "runs/r/metrics.jsonl").read_text().splitlines()]
    return [line["tune_loss"] for line in lines if line["kind"] == "epoch"]


def start(script: Path, folder: Path, *arguments: str, processes: int = 1) -> int:
    folder.mkdir(exist_ok=True)
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(processes),
            "--master-port",
            str(port),
        ]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {
        "OMP_NUM_THREADS": "1"
    }
    done = subprocess.run(
        [*command, str(script), str(folder), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    return done.returncode


EVERY_STEP = "runtime.checkpoint_minutes=0.000001"


def test_kill_9_in_mid_epoch_and_resume_is_exact(tmp_path, memory_script):
    assert start(memory_script, tmp_path / "whole", "optim.ema=0.9") == 0
    killed = start(memory_script, tmp_path / "cut", "--kill-at-pass", "4", EVERY_STEP, "optim.ema=0.9")
    assert killed == -9
    assert 0 < len(losses(tmp_path / "cut")) < len(losses(tmp_path / "whole"))
    assert not (tmp_path / "cut/runs/r/model.json").exists()
    assert start(memory_script, tmp_path / "cut", "optim.ema=0.9") == 0
    assert "resuming r at epoch 1, step 1/2" in (tmp_path / "cut/log.txt").read_text()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert tuning(tmp_path / "cut") == tuning(tmp_path / "whole")
    weights = [(tmp_path / name / "runs/r/model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_two_processes_equal_one_and_resume_at_other_counts(tmp_path, memory_script):
    assert start(memory_script, tmp_path / "one") == 0
    assert start(memory_script, tmp_path / "two", "--kill-at-pass", "2", EVERY_STEP, processes=2) != 0
    assert len(losses(tmp_path / "two")) == 1
    shutil.copytree(tmp_path / "two", tmp_path / "two_to_one")
    assert start(memory_script, tmp_path / "two", processes=2) == 0
    assert start(memory_script, tmp_path / "two_to_one") == 0
    for name in ("two", "two_to_one"):
        assert "resuming r at epoch 1, step 1/2" in (tmp_path / name / "log.txt").read_text()
        assert [s for s, *_ in losses(tmp_path / name)] == [s for s, *_ in losses(tmp_path / "one")]
        for (_, loss, norm), (_, loss_1, norm_1) in zip(
            losses(tmp_path / name), losses(tmp_path / "one"), strict=True
        ):
            assert loss == pytest.approx(loss_1, rel=1e-4)
            assert norm == pytest.approx(norm_1, rel=1e-3)
        assert tuning(tmp_path / name) == pytest.approx(tuning(tmp_path / "one"), rel=1e-4)


@pytest.mark.slow
def test_sharded_weights_train_like_replicated_ones(tmp_path, memory_script):
    assert start(memory_script, tmp_path / "one", "optim.ema=0.5") == 0
    options = (EVERY_STEP, "runtime.shard=fsdp", "optim.ema=0.5")
    assert start(memory_script, tmp_path / "two", "--kill-at-pass", "2", *options, processes=2) != 0
    assert start(memory_script, tmp_path / "two", *options, processes=2) == 0
    for (_, loss, norm), (_, loss_1, norm_1) in zip(
        losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True
    ):
        assert loss == pytest.approx(loss_1, rel=1e-4)
        assert norm == pytest.approx(norm_1, rel=1e-3)
    assert tuning(tmp_path / "two") == pytest.approx(tuning(tmp_path / "one"), rel=1e-4)
