"""The page's parts: escaping, wording, checklist, flow, pictures without metadata."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from atlas_path.errors import UsageError
from atlas_path.report import html, words
from atlas_path.report.checklist import ITEMS, checklist
from atlas_path.report.flow import flow_plot
from atlas_path.report.gallery import shrink
from atlas_path.report.page import render
from atlas_path.report.schema import FlowStep, Metrics
from atlas_path.report.schema_base import Number
from atlas_path.stats import bootstrap
from atlas_path.stats.discrimination import auroc_estimate
from pipelines.evaluate import EvaluateOptions, compute
from pipelines.evaluate_inputs import read_any_cohort, read_any_predictions

FAST = EvaluateOptions(resamples=100)


def test_everything_from_the_input_is_escaped(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    label = random.random(60) < 0.5
    table = pd.DataFrame(
        {"case_id": [f"<script>alert({i})</script>" for i in range(60)],
         "site": np.where(label, "<b>A", "B&B"),
         "label": np.where(label, "<i>bad", "good"), "prob": random.random(60)}
    )  # fmt: skip
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    options = FAST.model_copy(update={"positive": "<i>bad", "thresholds": [0.5], "title": "A <b>title"})
    page, _ = render(compute(path, None, tmp_path, options), tmp_path)
    for raw in ("<script>", "<i>bad", "<b>A", "A <b>title"):
        assert raw not in page
    assert "&lt;script&gt;alert(" in page
    assert "A &lt;b&gt;title" in page


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [(Number(value=0.8765, low=0.8, high=0.9), False, "0.88 (0.80 to 0.90)"),
     (Number(value=0.8765, low=0.8, high=0.9), True, "88 % (80 to 90)"),
     (Number(value=0.5), False, "0.50 (no interval)"),
     (Number(value=None, note="one class"), False, "not computed: one class"),
     (None, False, "not computed")],
)  # fmt: skip
def test_numbers_in_words(value: Number | None, percent: bool, text: str) -> None:
    assert html.number(value, 2, percent) == text


def test_p_values_in_words() -> None:
    assert [html.p_value(p) for p in (None, 0.0002, 0.0341, 0.5)] == [
        "no test",
        "p < 0.001",
        "p = 0.034",
        "p = 0.50",
    ]


def test_checklist_has_every_item_of_tripod_ai_and_admits_what_is_missing(
    tmp_path: Path, scores: Path, table: pd.DataFrame
) -> None:
    assert sorted({int("".join(c for c in item[0] if c.isdigit())) for item in ITEMS}) == list(range(1, 28))
    assert len(ITEMS) == len({item[0] for item in ITEMS}) == 52
    metrics = compute(scores, tmp_path / "cohort.csv", tmp_path, FAST)
    answered = {c.item: c for c in checklist(metrics)}
    assert answered["12d"].answered == "here"
    assert answered["18a"].answered == "you"
    path = tmp_path / "bare.csv"
    table[["case_id", "label", "prob"]].to_csv(path, index=False)
    bare = {c.item: c for c in compute(path, None, tmp_path, FAST).checklist}
    assert bare["12d"].answered == bare["15"].answered == bare["12f"].answered == "you"
    assert bare["15"].where == "no threshold was frozen"


def test_flow_names_every_exclusion() -> None:
    steps = [
        FlowStep(label="Images given", excluded={"no_mpp": 2, "unreadable": 1}, excluded_unit="images"),
        FlowStep(label="In the cohort", images=9, cases=1, patients=1, excluded={"not scored": 1}),
        FlowStep(label="Evaluated", images=8, cases=8, patients=7),
    ]
    plot = flow_plot(steps)
    assert plot is not None
    drawn = plot.svg.decode()
    for text in (
        "2 images: no_mpp",
        "1 image: unreadable",
        "1 case: not scored",
        "9 images, 1 case, 1 patient",
    ):
        assert text in drawn
    assert flow_plot([]) is None


def test_gallery_pictures_carry_no_metadata(tmp_path: Path) -> None:
    source = tmp_path / "overlay.jpg"
    picture = Image.new("RGB", (900, 300), "purple")
    exif = picture.getexif()
    exif[0x010E] = "SMITH JOHN"
    picture.save(source, exif=exif)
    shrink([source] * 3, tmp_path / "small.jpg")
    written = (tmp_path / "small.jpg").read_bytes()
    assert b"SMITH" in source.read_bytes()
    assert b"SMITH" not in written
    assert Image.open(tmp_path / "small.jpg").size == (720, 240)  # two rows of two


def test_reversed_model_and_small_study_are_said_at_the_top(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "table.csv"
    small = table[table["split"] == "test"].groupby("patient_id").head(1).head(24).drop(columns="split")
    small.assign(prob=1 - small["prob"]).to_csv(path, index=False)
    page, _ = render(compute(path, None, tmp_path, FAST), tmp_path)
    top = page[: page.index("Who was studied")]
    assert "ranks the wrong way round" in top
    assert "A small study: 24 patients" in top


def test_few_patients_get_no_bootstrap_interval() -> None:
    found = bootstrap.estimate(lambda w: w.sum(1), np.arange(9), 100)
    assert np.isnan(found.low)
    assert "9 patients are too few" in found.note
    area = auroc_estimate([0, 1] * 3, [0.1, 0.9, 0.2, 0.3, 0.6, 0.5], [0, 0, 1, 1, 2, 2])
    assert area.method.startswith("Newcombe")
    assert area.high - area.low > 0.4


def test_wide_interval_is_called_wide(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "table.csv"
    table.head(24).drop(columns="split").to_csv(path, index=False)
    (found,) = compute(path, None, tmp_path, FAST).binary
    assert "The interval is wide" in words.ranking_sentence(found)


def test_scanner_of_the_images_and_intended_use_of_the_model(
    tmp_path: Path, scores: Path, table: pd.DataFrame
) -> None:
    images = pd.DataFrame(
        {"image_id": table["case_id"], "case_id": table["case_id"], "scanner": "s", "compression": "jpeg"}
    )
    images.loc[::2, "compression"] = "lzw"
    images.to_csv(scores / "images.csv", index=False)
    (scores.parent / "demo").mkdir()
    (scores.parent / "demo" / "model.json").write_text(
        json.dumps({"intended_use": "Colon biopsies, research."})
    )
    info = json.loads((scores / "scores.json").read_text())
    (scores / "scores.json").write_text(json.dumps(info | {"model_path": "../demo"}))
    metrics = compute(scores, tmp_path / "cohort.csv", tmp_path, FAST)
    assert metrics.intended_use == "Colon biopsies, research."
    assert {t.column for t in metrics.binary[0].subgroups} == {"site", "scanner", "age", "compression"}
    scanner = next(t for t in metrics.binary[0].subgroups if t.column == "scanner")
    assert {row.value for row in scanner.rows} == {"GT450", "S360"}  # the cohort's own column wins


def test_training_yaml_leads_to_the_lock_of_its_run(tmp_path: Path, table: pd.DataFrame) -> None:
    cohort = table.drop(columns=["prob", "split"]).rename(
        columns={"case_id": "slide_id", "label": "diagnosis"}
    )
    cohort.to_csv(tmp_path / "cohort.csv", index=False)
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: demo\ncohort: cohort.csv\nout: runs\ntask: {kind: binary, label: diagnosis, "
        "name: malignancy}\n"
    )
    before = read_any_cohort(study)
    assert "split" not in before.table.columns
    assert list(before.table["case_id"]) == list(table["case_id"])
    assert (before.task.name, before.task.label_columns) == ("malignancy", ["diagnosis"])
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    locked = table.drop(columns="prob").rename(columns={"label": "diagnosis"})
    locked.to_csv(run / "cohort.lock.csv", index=False)
    for path in (study, run, run / "cohort.lock.csv"):
        assert (read_any_cohort(path).table["split"] == table["split"]).all()


def test_parquet_and_tab_separated_tables(tmp_path: Path, table: pd.DataFrame) -> None:
    table.to_parquet(tmp_path / "table.parquet")
    table.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    first, second = (
        read_any_predictions(tmp_path / f"table.{suffix}").table for suffix in ("parquet", "tsv")
    )
    assert (first["case_id"] == second["case_id"]).all()
    assert (first["prob"].astype(float) - second["prob"].astype(float)).abs().max() < 1e-12
    (tmp_path / "table.xlsx").write_text("no")
    with pytest.raises(UsageError, match=r"'\.xlsx' is not a table"):
        read_any_predictions(tmp_path / "table.xlsx")


def test_missing_numbers_are_null_in_json(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "table.csv"
    table.assign(label=1).to_csv(path, index=False)
    text = compute(path, None, tmp_path, FAST).model_dump_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert Metrics.model_validate_json(text).binary[0].auroc.value is None


def test_tiny_study_passes_no_verdict_on_calibration(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "table.csv"
    table[table["patient_id"].isin(table["patient_id"].unique()[:8])].drop(columns="split").to_csv(
        path, index=False
    )
    (found,) = compute(path, None, tmp_path, FAST.model_copy(update={"thresholds": [0.5, 0.5]})).binary
    assert found.calibration is not None
    assert all(words.UNJUDGED in text for text in words.calibration_sentences(found.calibration)[:2])
    assert all(point.low is None for point in found.decision)


def test_wide_slope_interval_is_no_praise(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "table.csv"
    table.drop(columns="split").to_csv(path, index=False)
    (found,) = compute(path, None, tmp_path, FAST.model_copy(update={"thresholds": [0.5]})).binary
    assert found.calibration is not None
    wide = found.calibration.model_copy(update={"slope": Number(value=-2.8, low=-14.7, high=14.9)})
    assert "cannot tell" in words.calibration_sentences(wide)[1]
    narrow = found.calibration.model_copy(update={"slope": Number(value=0.9, low=0.6, high=1.2)})
    assert "no sign" in words.calibration_sentences(narrow)[1]
