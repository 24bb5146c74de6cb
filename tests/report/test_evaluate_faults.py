"""Bad input: every fault is named and counted, and what is still meaningful is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from atlas_path.cli.main import app
from atlas_path.errors import CohortError, UsageError
from atlas_path.report.schema import Metrics
from pipelines.evaluate import EvaluateOptions, compute

FAST = EvaluateOptions(resamples=200)


def computed(
    tmp_path: Path, table: pd.DataFrame, cohort: pd.DataFrame | None = None, **options: object
) -> Metrics:
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    reference = None
    if cohort is not None:
        reference = tmp_path / "labels.csv"
        cohort.to_csv(reference, index=False)
    return compute(path, reference, tmp_path / "report", EvaluateOptions(resamples=200, **options))


def fault(metrics: Metrics, code: str) -> tuple[int, list[str]]:
    found = [f for f in metrics.faults if f.code == code]
    assert found, f"{code} not in {[f.code for f in metrics.faults]}"
    return found[0].n, found[0].examples


def test_one_class_only(tmp_path: Path, table: pd.DataFrame) -> None:
    metrics = computed(tmp_path, table.assign(label=1), thresholds=[0.5])
    (found,) = metrics.binary
    assert found.auroc.value is None
    assert "only positives" in found.auroc.note
    (point,) = found.operating_points
    test = table[table["split"] == "test"]
    assert point.sensitivity.value == pytest.approx((test["prob"] >= 0.5).mean())
    assert point.specificity.value is None
    assert found.calibration is not None
    assert found.calibration.slope.value is None
    assert found.calibration.brier.value is not None
    assert fault(metrics, "one_class")[0] == len(test)


def test_missing_probabilities_and_labels(tmp_path: Path, table: pd.DataFrame) -> None:
    table = table.drop(columns="split").astype({"label": object, "prob": object})
    table.loc[[0, 1], "prob"] = [np.nan, "n/a"]
    table.loc[5, "label"] = np.nan
    table.loc[6, "label"] = "7"
    metrics = computed(tmp_path, table, positive="1")
    assert fault(metrics, "prob_missing") == (2, sorted(table["case_id"][:2]))
    assert fault(metrics, "label_missing") == (1, [table["case_id"][5]])
    assert fault(metrics, "label_unknown") == (1, [table["case_id"][6]])
    assert metrics.binary[0].n == len(table) - 4
    left = {reason: n for step in metrics.flow for reason, n in step.excluded.items()}
    assert left == {"no probability": 2, "no label": 1, "unknown label": 1}
    kept = table.drop(index=[0, 1, 5, 6])
    assert metrics.binary[0].auroc.value == pytest.approx(
        roc_auc_score(kept["label"].astype(int), kept["prob"].astype(float))
    )


def test_scores_that_are_no_probabilities_are_ranked_only(tmp_path: Path, table: pd.DataFrame) -> None:
    scored = table.assign(prob=10 * table["prob"] - 3)
    metrics = computed(tmp_path, scored)
    (found,) = metrics.binary
    assert found.auroc.value is not None
    assert found.calibration is None
    assert found.decision == []
    assert fault(metrics, "prob_outside")[0] == int(
        ((scored["prob"] < 0) | (scored["prob"] > 1))[scored["split"] == "test"].sum()
    )


def test_ties_are_counted_as_halves(tmp_path: Path, table: pd.DataFrame) -> None:
    rounded = table.assign(prob=(table["prob"] * 3).round() / 3)
    metrics = computed(tmp_path, rounded, thresholds=[1 / 3])
    test = rounded[rounded["split"] == "test"]
    assert metrics.binary[0].auroc.value == pytest.approx(roc_auc_score(test["label"], test["prob"]))
    assert metrics.binary[0].calibration is not None
    assert len(metrics.binary[0].calibration.bins) <= 4
    constant = computed(tmp_path, table.assign(prob=0.3))
    assert constant.binary[0].auroc.value == 0.5


def test_duplicates(tmp_path: Path, table: pd.DataFrame) -> None:
    table = table.drop(columns="split")
    changed = table.iloc[[3]].assign(prob=0.123)
    metrics = computed(tmp_path, pd.concat([table, table.iloc[[0, 1]], changed]))
    assert fault(metrics, "duplicate_same")[0] == 2
    assert fault(metrics, "duplicate_conflict") == (1, [table["case_id"][3]])
    assert metrics.binary[0].n == len(table) - 1


def test_cohort_that_matches_in_part(tmp_path: Path, table: pd.DataFrame) -> None:
    predicted = table[["case_id", "prob"]]
    cohort = table.drop(columns="prob").iloc[10:]
    metrics = computed(tmp_path, predicted.iloc[:-5], cohort.drop(columns="split"))
    assert fault(metrics, "not_in_cohort")[0] == 10
    assert fault(metrics, "not_scored")[0] == 5
    assert metrics.binary[0].n == len(table) - 15
    assert metrics.binary[0].n_patients == table.iloc[10:-5]["patient_id"].nunique()


def test_cohort_that_does_not_match_at_all(tmp_path: Path, table: pd.DataFrame) -> None:
    cohort = table.drop(columns="prob").assign(case_id=[f"x{k}" for k in range(len(table))])
    with pytest.raises(CohortError, match=r"none of the \d+ predicted cases .*first predicted: 'case000_0'"):
        computed(tmp_path, table[["case_id", "prob"]], cohort)


def test_labels_that_disagree_are_named_and_the_cohort_wins(tmp_path: Path, table: pd.DataFrame) -> None:
    table = table.drop(columns="split")
    cohort = table.drop(columns="prob").copy()
    cohort.loc[cohort.index[:4], "label"] = 1 - cohort["label"][:4]
    metrics = computed(tmp_path, table, cohort)
    assert fault(metrics, "label_differs")[0] == 4
    assert metrics.binary[0].n_positive == int(cohort["label"].sum())


def test_labels_0_and_1_for_a_model_with_named_classes(
    tmp_path: Path, scores: Path, table: pd.DataFrame
) -> None:
    numbered = table.drop(columns="prob").rename(columns={"label": "diagnosis"})
    numbered.to_csv(tmp_path / "numbered.csv", index=False)
    metrics = compute(scores, tmp_path / "numbered.csv", tmp_path / "report", FAST)
    assert metrics.binary[0].outcome == "malignant"
    assert metrics.binary[0].n_positive == int(table["label"][table["split"] == "test"].sum())
    assert fault(metrics, "label_by_position")[0] == metrics.binary[0].n
    numbered.assign(diagnosis="stroma").to_csv(tmp_path / "numbered.csv", index=False)
    with pytest.raises(CohortError, match=r"neither 'benign' nor 'malignant' \(\d+\)"):
        compute(scores, tmp_path / "numbered.csv", tmp_path / "report", FAST)


def test_scorer_that_was_not_told_the_patients_is_no_fault(tmp_path: Path, table: pd.DataFrame) -> None:
    predicted = table.drop(columns=["split", "label"]).assign(patient_id=table["case_id"])
    metrics = computed(tmp_path, predicted, table.drop(columns=["split", "prob"]))
    assert not [f for f in metrics.faults if f.code == "patient_id_differs"]
    assert metrics.binary[0].n_patients == table["patient_id"].nunique()
    mixed = predicted.assign(patient_id="patient000")
    wrong = fault(computed(tmp_path, mixed, table.drop(columns=["split", "prob"])), "patient_id_differs")
    assert wrong[0] == int((table["patient_id"] != "patient000").sum())


def test_label_column_that_does_not_exist(tmp_path: Path, table: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="no column diagnosis; use --label"):
        computed(tmp_path, table, label="diagnosis")
    with pytest.raises(UsageError, match=r"--positive VALUE"):
        computed(tmp_path, table.assign(label=np.where(table["label"] == 1, "cancer", "none")))
    words = table.assign(label=np.where(table["label"] == 1, "cancer", "benign"))
    assert computed(tmp_path, words, positive="cancer").binary[0].outcome == "cancer"


def test_patient_in_two_splits_is_said(tmp_path: Path, table: pd.DataFrame) -> None:
    leaking = table.copy()
    leaking.loc[leaking["patient_id"] == "patient000", "patient_id"] = "patient119"
    assert fault(computed(tmp_path, leaking), "patient_in_two_splits") == (1, ["patient119"])


def test_tuning_cases_among_the_evaluated_are_said(tmp_path: Path, table: pd.DataFrame) -> None:
    metrics = computed(tmp_path, table, split="all")
    assert metrics.binary[0].n == len(table)
    assert fault(metrics, "tuning_evaluated")[0] == int((table["split"] == "tune").sum())


def test_training_cases_are_taken_out(tmp_path: Path, scores: Path, table: pd.DataFrame) -> None:
    test = table[table["split"] == "test"]
    info = json.loads((scores / "scores.json").read_text())
    info["leaked_training_cases"] = test["case_id"].head(3).tolist()
    (scores / "scores.json").write_text(json.dumps(info))
    metrics = compute(scores, tmp_path / "cohort.csv", tmp_path / "report", FAST)
    assert fault(metrics, "training_case")[0] == 3
    assert metrics.binary[0].n == len(test) - 3


def test_failed_cases_and_images_reach_the_flow(tmp_path: Path, scores: Path, table: pd.DataFrame) -> None:
    predictions = pd.read_csv(scores / "predictions.csv", dtype=str)
    last = predictions.index[-2:]
    predictions.loc[last, ["prob_benign", "prob_malignant"]] = ""
    predictions.loc[last, ["status", "reason"]] = ["abstained", "out_of_distribution"]
    predictions.to_csv(scores / "predictions.csv", index=False)
    manifest = pd.DataFrame(
        {"image_id": list("abcd"), "status": ["done", "failed", "failed", "failed"],
         "reason": ["written", "no_mpp", "no_mpp", "unreadable"]}
    )  # fmt: skip
    manifest.to_csv(tmp_path / "manifest.csv", index=False)
    options = EvaluateOptions(resamples=200, failures=[tmp_path / "manifest.csv"])
    metrics = compute(scores, tmp_path / "cohort.csv", tmp_path / "report", options)
    first, second, third, last_step = metrics.flow
    assert first.excluded == {"no_mpp": 2, "unreadable": 1}
    assert second.label == "In the cohort"
    assert second.images == len(table)
    assert third.excluded == {"abstained: out_of_distribution": 2}
    assert last_step.cases == metrics.binary[0].n == third.cases - 2


def test_small_groups_are_not_shown(tmp_path: Path, table: pd.DataFrame) -> None:
    metrics = computed(tmp_path, table, min_group=40)
    (site,) = [t for t in metrics.binary[0].subgroups if t.column == "site"]
    for row in site.rows:
        assert (row.n < 40) == row.suppressed.startswith("fewer than 40")
        assert (row.auroc is None) == bool(row.suppressed)
    with pytest.raises(UsageError, match="no such column"):
        computed(tmp_path, table, subgroups=["ethnic_group"])


def test_label_told_by_the_site_is_a_warning(tmp_path: Path, table: pd.DataFrame) -> None:
    told = table.assign(site=np.where(table["label"] == 1, "Aachen", "Bergen"))
    metrics = computed(tmp_path, told)
    (found,) = [s for s in metrics.binary[0].shortcuts if s.column == "site"]
    assert found.auroc.value == 1.0
    assert "can be told from 'site' alone" in found.warning


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "cannot be read as a table"), ("case_id,label\n", "no rows"),
     ("name,prob\na,0.2\n", "no column case_id"),
     ("case_id,label\na,1\n", "no column of probabilities")],
)  # fmt: skip
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        compute(path, None, tmp_path / "report", FAST)


def test_command_line_says_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "nothing"), "-o", str(tmp_path / "out")])
    assert result.exit_code != 0
    assert isinstance(result.exception, UsageError)
    assert "no such file or folder" in str(result.exception)
    assert not (tmp_path / "out" / "report.html").exists()


def test_options_out_of_range(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    result = CliRunner().invoke(
        app, ["evaluate", str(path), "--prevalence", "1.5", "-o", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, UsageError)
    assert "prevalences" in str(result.exception)


def test_numbers_do_not_change_between_runs(
    tmp_path: Path, scores: Path, new_table: Callable[..., pd.DataFrame]
) -> None:
    first = compute(scores, tmp_path / "cohort.csv", tmp_path / "report", FAST)
    second = compute(scores, tmp_path / "cohort.csv", tmp_path / "report", FAST)
    assert first.binary == second.binary
    assert first.provenance.inputs == second.provenance.inputs
    assert set(first.provenance.inputs) == {"predictions.csv", "scores.json", "cohort.csv"}
    assert str(tmp_path) not in first.model_dump_json()
    assert len(new_table(40)) >= 40
