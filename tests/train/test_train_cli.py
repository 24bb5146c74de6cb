"""`init`, `train`, `pretrain` as commands: what they print, their exit codes, and Ctrl-C."""

from __future__ import annotations

import os
import signal

import pytest
from typer.testing import CliRunner

from atlas_path.cli.main import app
from atlas_path.config import dump_yaml, load_train_config
from atlas_path.errors import CohortError, ConfigError, UsageError

runner = CliRunner()


@pytest.fixture
def study(memory_cohort, config_for):
    """A run file over a cohort in memory."""

    def make(n=8, **sections):
        table = memory_cohort(n=n, rows=1, cols=1)
        path = table.parent / "study.yaml"
        path.write_text(dump_yaml(config_for(table, optim={"epochs": 1}, **sections)))
        return path

    return make


def test_train_prints_the_run_folder(study):
    done = runner.invoke(app, ["train", str(study())], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.strip().endswith("runs/r")


def test_missing_image_ends_with_code_3(study):
    path = study(n=10)
    table = path.parent / "cohort.csv"
    table.write_text(table.read_text() + "c99,p99,s99_0,slides/s99_0.tif,1\n")
    assert runner.invoke(app, ["train", str(path)], catch_exceptions=False).exit_code == 3


def test_dry_run_trains_nothing(study):
    path = study()
    done = runner.invoke(
        app, ["train", str(path), "--dry-run", "--set", "optim.lr=0.5"], catch_exceptions=False
    )
    assert "lr: 0.5" in done.stdout
    assert "# estimate" in done.stdout
    assert not (path.parent / "runs").exists()


def test_faults_are_raised_for_the_one_place_that_prints_them(study):
    with pytest.raises(ConfigError, match=r"--set: optim.lrr: unknown key; did you mean 'lr'"):
        runner.invoke(app, ["train", str(study()), "--set", "optim.lrr=1"], catch_exceptions=False)


def test_ctrl_c_saves_and_goes_on_later(study, monkeypatch, capsys):
    import pipelines.train_loop as loop
    from pipelines.train import train

    config = load_train_config(study())
    original = loop.backward_pass

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(loop, "backward_pass", original)
        return original(*arguments)

    monkeypatch.setattr(loop, "backward_pass", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert list((config.run_dir / "checkpoints").glob("step_*/progress.json"))
    assert not (config.run_dir / "model.json").exists()
    train(config)
    assert "resuming r" in capsys.readouterr().err
    assert (config.run_dir / "model.json").exists()


def test_init_writes_a_file_that_loads(tmp_path, monkeypatch):
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,patient_id,path,grade,split\na,p,a.svs,low,train\nb,q,b.svs,high,test\n")
    out = tmp_path / "study.yaml"
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["init", str(table), "-o", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    config = load_train_config(out)
    assert (config.task.kind, config.task.label, config.cohort) == ("binary", "grade", table)
    assert "the table has: test, train" in out.read_text()
    with pytest.raises(UsageError, match="exists"):
        runner.invoke(app, ["init", str(table), "-o", str(out)], catch_exceptions=False)


def test_init_asks_when_it_cannot_tell_the_label(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text("path,er,pr\na.svs,0,1\nb.svs,1,0\n")
    with pytest.raises(CohortError, match=r"candidates: er, pr.*--label"):
        runner.invoke(app, ["init", str(table), "-o", str(tmp_path / "s.yaml")], catch_exceptions=False)
