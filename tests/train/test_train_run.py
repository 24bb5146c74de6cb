"""A whole small run: what it leaves, when it stops, and that its tasks and options work."""

from __future__ import annotations

import json

import numpy as np
import pytest

from atlas_path.cohort import read_lock
from atlas_path.errors import CohortError, UsageError


def lines_of(run_dir, kind):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_run_leaves_the_contract(memory_cohort, config_for):
    from atlas import load_model
    from pipelines.train import train

    run_dir = train(config_for(memory_cohort(n=16)))
    model, info = load_model(run_dir)
    assert not model.training
    assert info["task"] == {"kind": "binary", "name": "task", "classes": ["0", "1"], "label_column": "label"}
    assert info["mpp"] == 1.0
    assert info["training_statistics"]["features"]["mean_0"]["p50"] > 0.5
    assert info["normalisation"]["mean"][0] == pytest.approx(0.65, abs=0.1)  # between dark squares and tissue
    lock = read_lock(run_dir / "cohort.lock.csv")
    assert {row["split"] for row in lock} == {"train", "tune", "test"}
    trained = {row["case_id"] for row in lock if row["split"] == "train"}
    assert set(info["training_cases"]["case_ids"]) == trained
    assert set(info["training_cases"]["image_fingerprints"]) == {
        row["fingerprint"] for row in lock if row["split"] == "train"
    }
    assert [line["epoch"] for line in lines_of(run_dir, "epoch")] == [1, 2]
    assert list((run_dir / "tensorboard").glob("events*"))
    card = (run_dir / "model_card.md").read_text()
    assert "Research use only" in card
    assert "| train | 10 | 10 | 10 | 0: 5, 1: 5 | 0 |" in card
    assert len((run_dir / "tune_predictions.csv").read_text().splitlines()) == 1 + info["tuning"]["n"]
    assert list((run_dir / "checkpoints").glob("step_*/progress.json"))


def test_finished_run_stays_and_other_settings_are_refused(memory_cohort, config_for, capsys):
    from pipelines.train import train

    table = memory_cohort(n=8)
    run_dir = train(config_for(table, optim={"epochs": 1}))
    weights = (run_dir / "model.safetensors").read_bytes()
    assert train(config_for(table, optim={"epochs": 1})) == run_dir
    assert "is finished" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"other settings \(optim.lr\)"):
        train(config_for(table, optim={"epochs": 1, "lr": 0.5}))
    train(config_for(table, optim={"epochs": 1, "lr": 5e-3}), force=True)
    assert (run_dir / "model.safetensors").read_bytes() != weights


def test_force_does_not_remove_a_folder_that_is_no_run(memory_cohort, config_for):
    from pipelines.train import train

    config = config_for(memory_cohort(n=8))
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="not a run folder"):
        train(config, force=True)
    assert (config.run_dir / "thesis.txt").exists()


TASKS = {
    "multiclass": ({"kind": "multiclass"}, {"label": lambda i: "abc"[i % 3]}),
    "ordinal": ({"kind": "ordinal", "classes": [0, 1, 2]}, {"label": lambda i: i % 3}),
    "regression": ({"kind": "regression"}, {"label": lambda i: i * 1.5}),
    "multilabel": (
        {"kind": "multilabel", "label": ["er", "pr"]},
        {"er": lambda i: i % 2, "pr": lambda i: "" if i == 3 else i // 2 % 2},
    ),
    "survival": (
        {"kind": "survival", "time": "months", "event": "dead", "n_bins": 3},
        {"months": lambda i: i + 1, "dead": lambda i: i % 4 != 0},
    ),
}


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_trains(memory_cohort, config_for, kind):
    from atlas import load_model
    from pipelines.train import train

    task, columns = TASKS[kind]
    table = memory_cohort(n=12, rows=1, cols=1, columns=columns)
    run_dir = train(config_for(table, task=task, optim={"epochs": 1}, split={"test": 0.0}))
    model, info = load_model(run_dir)
    assert info["task"]["kind"] == kind
    assert np.isfinite(lines_of(run_dir, "epoch")[0]["tune_loss"])
    assert (
        model.cfg.n_outputs
        == {"multiclass": 3, "ordinal": 2, "regression": 1, "multilabel": 2, "survival": 3}[kind]
    )
    if kind == "regression":
        assert info["task"]["scale"]["std"] > 1
    if kind == "survival":
        assert len(info["task"]["bin_edges"]) == 2


def test_folds_leave_an_ensemble(memory_cohort, config_for):
    from pipelines.train import train

    run_dir = train(
        config_for(memory_cohort(n=8, rows=1, cols=1), split={"folds": 2, "test": 0}, optim={"epochs": 1})
    )
    assert json.loads((run_dir / "ensemble.json").read_text())["members"] == ["fold_0", "fold_1"]
    cases = [
        set(json.loads((run_dir / f"fold_{k}" / "model.json").read_text())["training_cases"]["case_ids"])
        for k in range(2)
    ]
    points = [
        json.loads((run_dir / f"fold_{k}" / "model.json").read_text())["operating_points"] for k in range(2)
    ]
    assert points[0] == points[1]
    assert points[0][0]["n"] == 8
    assert not cases[0] & cases[1]
    assert len(cases[0] | cases[1]) == 8


def test_it_learns_something_easy(memory_cohort, config_for):
    from pipelines.train import train

    table = memory_cohort(n=24, rows=1, cols=1)
    config = config_for(
        table, optim={"epochs": 14, "lr": 4e-3, "cases_per_step": 4, "ema": 0.8}, augment={"contrast": 0}
    )
    run_dir = train(config)
    epochs = lines_of(run_dir, "epoch")
    assert min(line["loss"] for line in epochs) < 0.35
    assert max(line["tune_auroc"] for line in epochs) == 1.0


def test_early_stopping(memory_cohort, config_for):
    from pipelines.train import train

    optim = {"epochs": 30, "lr": 1e-9, "patience": 2, "min_lr": 0, "monitor": "score", "warmup_epochs": 0}
    run_dir = train(config_for(memory_cohort(n=10, rows=1, cols=1), optim=optim))
    assert len(lines_of(run_dir, "epoch")) <= 5


def test_not_a_number_names_the_case(memory_cohort, config_for, monkeypatch):
    import pipelines.augment as loader
    from pipelines.train import train
    from pipelines.train_pass import NonFiniteLossError

    table = memory_cohort(n=8, rows=1, cols=1)
    original = loader.augment_case

    def poisoned(case, config, rng):
        case = original(case, config, rng)
        case.pixels_NCHW = case.pixels_NCHW.astype(np.float32)
        case.pixels_NCHW[:] = np.nan
        return case

    monkeypatch.setattr(loader, "augment_case", poisoned)
    with pytest.raises(
        NonFiniteLossError, match=r"case c0\d.*loss is not a finite number in epoch 1, step 1"
    ):
        train(config_for(table))


def test_missing_store_is_left_out_and_recorded(memory_cohort, config_for, capsys):
    from pipelines.train import train

    table = memory_cohort(n=10, rows=1, cols=1)
    table.write_text(table.read_text() + "c99,p99,s99_0,slides/s99_0.tif,1\n")
    run_dir = train(config_for(table, optim={"epochs": 1}))
    assert "row 12: no such file slides/s99_0.tif" in (run_dir / "left_out.csv").read_text()
    assert "left out" in capsys.readouterr().err
    with pytest.raises(CohortError, match=r"1 of 11 images cannot be used.*raise data.max_missing"):
        train(config_for(table, name="strict", data={"max_missing": 0.05}))


def test_wrong_resolution_says_so(memory_cohort, config_for):
    from pipelines.train import train

    with pytest.raises(CohortError, match=r"has no level at 0.5 um/px"):
        train(config_for(memory_cohort(n=4, rows=1, cols=1), data={"mpp": 0.5}))


def test_dry_run_writes_nothing_and_estimates(memory_cohort, config_for, capsys):
    from pipelines.train_estimate import dry_run_report

    table = memory_cohort(n=8)
    text = dry_run_report(config_for(table))
    assert "epochs: 2" in text
    assert "memory:" in text
    assert "min an epoch" in text
    assert "train: " in capsys.readouterr().err
    assert not (table.parent / "runs").exists()
