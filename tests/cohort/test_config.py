"""Run files: faults with line numbers, overrides, defaults, and every shipped example."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from atlas_path.config import TrainConfig, dump_yaml, load_train_config
from atlas_path.errors import ConfigError

BAD = """\
name: x
cohort: a.csv
data:
  mmp: 1.0
  stores: s
optim:
  lr: 1e-4
  epochs: zero
lr: 3
task:
  kind: survival
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_all_faults_at_once_with_lines_and_nearest_keys(tmp_path):
    path = written(tmp_path, BAD)
    with pytest.raises(ConfigError) as error:
        load_train_config(path, ["optim.clipp=3"])
    assert str(error.value).splitlines() == [
        f"{path}:4: data.mmp: unknown key; did you mean 'mpp'?",
        f"{path}:8: optim.epochs: input should be a valid integer, unable to parse string as an integer "
        "(got 'zero')",
        f"{path}:9: lr: unknown key; did you mean 'optim.lr'?",
        f"{path}:10: task: a survival task needs the columns 'time' and 'event'",
        "--set: optim.clipp: unknown key; did you mean 'clip'?",
        "correct these and run again; configs/ has commented examples",
    ]


def test_scientific_numbers_overrides_and_paths(tmp_path, monkeypatch):
    path = written(tmp_path, "cohort: t/a.csv\noptim: {lr: 1e-4}\ntask: {classes: [0, 1]}\n")
    monkeypatch.chdir(tmp_path)
    config = load_train_config(path, ["optim.epochs=3", "data.stores=here", "runtime.seed=7"])
    assert (config.optim.lr, config.optim.epochs, config.runtime.seed) == (1e-4, 3, 7)
    assert config.cohort == tmp_path / "t" / "a.csv"
    assert config.data.stores == tmp_path / "here"
    assert config.task.classes == ["0", "1"]
    assert config.where("optim.lr") == f"{path}:2: optim.lr"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cohort: a\ncohort: b\n", "run.yaml:2: cohort: given twice (first in line 1)"),
        ("cohort: [a\n", "run.yaml:2: "),
        ("- a\n", "run.yaml: not a list of 'key: value' lines"),
        ("name: x\n", "run.yaml: cohort: required but not given"),
        ("cohort: a\naugment: {keep_windows: [0.9, 0.2]}\n", "run.yaml:2: augment: keep_windows must be"),
    ],
)
def test_yaml_that_cannot_be_used(tmp_path, text, line):
    with pytest.raises(ConfigError) as error:
        load_train_config(written(tmp_path, text))
    assert line in str(error.value)


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_train_config(tmp_path / "no.yaml")


def test_resolved_settings_load_again(tmp_path):
    config = load_train_config(written(tmp_path, "cohort: a.csv\n"))
    again = TrainConfig.model_validate(yaml.safe_load(dump_yaml(config)))
    assert again.model_dump() == config.model_dump()


def test_every_shipped_example_loads_and_is_commented(repository):
    examples = sorted((repository / "configs").glob("*.yaml"))
    assert examples
    for path in examples:
        config = load_train_config(path)
        assert config.name == path.stem
        comments = sum("#" in line for line in path.read_text().splitlines())
        assert comments >= 6, f"{path.name} explains too little"
