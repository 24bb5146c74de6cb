"""The main job: a scores folder or a plain table in, one page and one file of numbers out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from atlas_path.cli.main import app
from atlas_path.errors import UsageError
from atlas_path.report import words
from atlas_path.report.schema import Metrics
from pipelines.evaluate import EvaluateOptions, compute

FAST = EvaluateOptions(resamples=200)


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory, module_scores: tuple[Path, pd.DataFrame]
) -> tuple[Path, Metrics, pd.DataFrame]:
    """One whole report, written by the command line: its page, its numbers, its cases."""
    scores, table = module_scores
    out = tmp_path_factory.mktemp("report")
    cohort = str(scores.parent / "cohort.csv")
    arguments = ["evaluate", str(scores), "--cohort", cohort, "-o", str(out), "--resamples", "200"]
    result = CliRunner().invoke(app, [*arguments, "--subgroup", "site", "--subgroup", "age"])
    assert result.exit_code == 0, result.output
    page = out / "report.html"
    return page, Metrics.model_validate_json(page.with_name("metrics.json").read_text()), table


def test_scores_folder_with_cohort(report: tuple[Path, Metrics, pd.DataFrame]) -> None:
    _, metrics, table = report
    test = table[table["split"] == "test"]
    (found,) = metrics.binary
    assert metrics.split == "test"
    assert found.n == len(test)
    assert found.auroc.value == pytest.approx(roc_auc_score(test["label"], test["prob"]))
    assert found.auroc.low is not None
    assert found.auroc.high is not None
    assert found.auroc.low < found.auroc.value < found.auroc.high
    (point,) = found.operating_points
    called = test["prob"] >= 0.5
    assert point.confusion.true_positive == int((called & (test["label"] == 1)).sum())
    assert point.confusion.false_positive == int((called & (test["label"] == 0)).sum())
    assert point.hash_matches is True
    assert point.tuning == {"sensitivity": 0.8, "specificity": 0.9}
    assert metrics.primary.number.value == found.auroc.value


def test_page_is_self_contained(report: tuple[Path, Metrics, pd.DataFrame]) -> None:
    path, metrics, _ = report
    page = path.read_text()
    assert [table.column for table in metrics.binary[0].subgroups] == ["site", "age"]
    assert "Research use only" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page
    for name in ("curves", "reliability", "decision", "flow", "forest", "histogram"):
        for suffix in ("svg", "png"):
            assert (path.parent / "plots" / f"{name}.{suffix}").stat().st_size > 1000
    schema = json.loads((path.parent / "metrics.schema.json").read_text())
    assert schema["properties"]["binary"]["type"] == "array"


def test_plain_table_without_cohort(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "predictions.csv"
    table.drop(columns="split").to_csv(path, index=False)
    metrics = compute(path, None, tmp_path / "report", FAST)
    assert metrics.split == "all"
    assert metrics.binary[0].auroc.value == pytest.approx(roc_auc_score(table["label"], table["prob"]))
    assert metrics.binary[0].operating_points == []
    assert "patient bootstrap" in metrics.binary[0].auroc.method


def test_threshold_may_not_be_chosen_on_the_evaluated_rows(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "predictions.csv"
    table.to_csv(path, index=False)
    options = FAST.model_copy(update={"choose": ["youden"], "choose_on": "test"})
    with pytest.raises(UsageError, match="would choose their own threshold"):
        compute(path, None, tmp_path / "report", options)
    everything = FAST.model_copy(update={"choose": ["youden"], "split": "all"})
    with pytest.raises(UsageError, match="would choose their own threshold"):
        compute(path, None, tmp_path / "report", everything)


def test_threshold_chosen_on_tuning_rows_only(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "predictions.csv"
    table.to_csv(path, index=False)
    options = FAST.model_copy(update={"choose": ["sens:0.9"], "prevalences": [0.01]})
    (point,) = compute(path, None, tmp_path / "report", options).binary[0].operating_points
    tune = table[table["split"] == "tune"]
    assert (tune["prob"][tune["label"] == 1] >= point.threshold).mean() >= 0.9
    changed = table.copy()
    changed.loc[changed["split"] == "test", "label"] = 1 - changed["label"]
    changed.to_csv(path, index=False)
    (again,) = compute(path, None, tmp_path / "report", options).binary[0].operating_points
    assert again.threshold == point.threshold
    assert point.adjusted[0].prevalence == 0.01
    se, sp = point.sensitivity.value, point.specificity.value
    assert se is not None
    assert sp is not None
    assert point.adjusted[0].ppv.value == pytest.approx(se * 0.01 / (se * 0.01 + (1 - sp) * 0.99))


def test_edited_operating_point_is_noticed(tmp_path: Path, scores: Path) -> None:
    path = scores / "scores.json"
    info = json.loads(path.read_text())
    info["operating_points"][0]["threshold"] = 0.3
    path.write_text(json.dumps(info))
    metrics = compute(scores, tmp_path / "cohort.csv", tmp_path / "report", FAST)
    (point,) = metrics.binary[0].operating_points
    assert point.hash_matches is False
    assert "does NOT match" in words.hash_sentence(point)
