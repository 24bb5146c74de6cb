"""A whole small run, and what it leaves."""

from __future__ import annotations

import json

import pytest
import torch

from atlas_path.cohort import read_lock
from atlas_path.config import TrainConfig


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def config_for(table, **sections) -> TrainConfig:
    values = {
        "name": "r",
        "cohort": table,
        "out": table.parent / "runs",
        "data": {"stores": table.parent / "stores", "mpp": 1.0},
        "optim": {"epochs": 2, "cases_per_step": 4, "cases_per_pass": 2, "lr": 1e-3},
        "runtime": {"device": "cpu", "threads": 1, "memory": "plain"},
    }
    for section, content in sections.items():
        values[section] = {**values.get(section, {}), **content} if isinstance(content, dict) else content
    return TrainConfig.model_validate(values)


def test_run_leaves_the_contract(memory_cohort):
    from atlas import load_model
    from pipelines.train import train

    table = memory_cohort(n=16)
    run_dir = train(config_for(table))
    model, info = load_model(run_dir)
    assert not model.training
    assert info["task"] == {"kind": "binary", "name": "task", "classes": ["0", "1"], "label_column": "label"}
    assert info["mpp"] == 1.0
    assert info["training_statistics"]["features"]["mean_0"]["p50"] > 0.5
    lock = read_lock(run_dir / "cohort.lock.csv")
    assert {row["split"] for row in lock} == {"train", "tune", "test"}
    trained = {row["case_id"] for row in lock if row["split"] == "train"}
    assert set(info["training_cases"]["case_ids"]) == trained
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2]
    assert list((run_dir / "tensorboard").glob("events*"))
    assert list((run_dir / "checkpoints").glob("step_*/progress.json"))
