"""Every kind of task, two models, galleries; and the page drawn again from `metrics.json` alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score, r2_score, roc_auc_score

from atlas_path.report.gallery import gallery_html
from atlas_path.report.page import render
from atlas_path.report.schema import Metrics
from atlas_path.stats import delong
from pipelines.evaluate import EvaluateOptions, compute

FAST = EvaluateOptions(resamples=200)


def ids(n: int, rows: int = 1) -> dict[str, list[str]]:
    return {"case_id": [f"c{i}" for i in range(n)], "patient_id": [f"p{i // rows}" for i in range(n)]}


def grades_table(n: int = 120) -> pd.DataFrame:
    random = np.random.default_rng(1)
    grade = random.integers(0, 4, n)
    weight = np.exp(-((np.arange(4)[None] - grade[:, None] - 0.8 * random.normal(size=(n, 1))) ** 2))
    prob = weight / weight.sum(1, keepdims=True)
    return pd.DataFrame({**ids(n), "label": grade, **{f"prob_{k}": prob[:, k] for k in range(4)}})


def survival_table(n: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(2)
    risk = random.normal(size=n)
    event_at, censored_at = random.exponential(5 * np.exp(-0.8 * risk)), random.uniform(1, 9, n)
    table = pd.DataFrame(
        {
            **ids(n, 2),
            "time": np.minimum(event_at, censored_at),
            "event": (event_at <= censored_at).astype(int),
            "risk": risk,
        }
    )
    for low, high in ((0, 1), (1, 3), (3, 5)):
        table[f"survival_{low}-{high}"] = np.exp(-np.exp(0.8 * risk) * high / 5)
    table["survival_5-inf"] = 0.0
    return table


def computed(tmp_path: Path, table: pd.DataFrame, **options: object) -> Metrics:
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    return compute(path, None, tmp_path / "report", EvaluateOptions(resamples=200, **options))


def page_of(metrics: Metrics, tmp_path: Path) -> str:
    """The page, from what a reader of the JSON file has."""
    page, plots = render(Metrics.model_validate_json(metrics.model_dump_json()), tmp_path)
    assert all(len(plot.svg) > 500 and len(plot.png) > 500 for plot in plots)
    return page


def test_ordered_grades(tmp_path: Path) -> None:
    table = grades_table()
    metrics = computed(tmp_path, table, kind="ordinal")
    prob = table[[f"prob_{k}" for k in range(4)]].to_numpy()
    median = (prob.cumsum(1) >= 0.5).argmax(1)
    assert metrics.classes is not None
    assert metrics.classes.kappa.value == pytest.approx(
        cohen_kappa_score(table["label"], median, weights="quadratic")
    )
    assert sum(map(sum, metrics.classes.confusion)) == len(table)
    assert metrics.primary.name == "quadratic kappa"
    assert "a miss by two grades counts four times" in page_of(metrics, tmp_path)


def test_exclusive_classes(tmp_path: Path) -> None:
    table = grades_table()
    metrics = computed(tmp_path, table)
    assert metrics.kind == "multiclass"
    assert metrics.classes is not None
    prob = table[[f"prob_{k}" for k in range(4)]].to_numpy()
    assert metrics.classes.macro_auroc.value == pytest.approx(
        roc_auc_score(table["label"], prob, multi_class="ovr")
    )
    assert metrics.classes.accuracy.value == pytest.approx((prob.argmax(1) == table["label"]).mean())


def test_several_labels(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    table = pd.DataFrame(ids(150))
    for name in ("calcification", "mass"):
        table[name] = random.integers(0, 2, 150)
        table[f"prob_{name}"] = 1 / (1 + np.exp(-(random.normal(size=150) + table[name])))
    table.loc[:9, "mass"] = np.nan
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    options = EvaluateOptions(resamples=200, kind="multilabel")
    metrics = compute(path, None, tmp_path / "report", options)
    assert [(b.outcome, b.n) for b in metrics.binary] == [("calcification", 150), ("mass", 140)]
    known = table.dropna()
    assert metrics.binary[1].auroc.value == pytest.approx(roc_auc_score(known["mass"], known["prob_mass"]))


def test_continuous_outcome(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    truth = random.normal(size=90)
    table = pd.DataFrame({**ids(90, 3), "label": truth, "value": truth + 0.5 * random.normal(size=90)})
    metrics = computed(tmp_path, table, kind="regression")
    found = metrics.regression
    assert found is not None
    assert found.r2.value == pytest.approx(r2_score(table["label"], table["value"]))
    assert found.pearson.value == pytest.approx(table["label"].corr(table["value"]))
    assert found.spearman.value == pytest.approx(table["label"].corr(table["value"], method="spearman"))
    assert found.slope.value == pytest.approx(np.polyfit(table["value"], table["label"], 1)[0])
    assert found.mean_absolute_error.value == pytest.approx((table["label"] - table["value"]).abs().mean())
    assert "On the dashed line" in page_of(metrics, tmp_path)


def test_time_to_event(tmp_path: Path) -> None:
    metrics = computed(tmp_path, survival_table(), time_unit="years")
    found = metrics.survival
    assert found is not None
    assert metrics.kind == "survival"
    assert 0.6 < (found.uno_c.value or 0) < 0.85
    assert [h.time for h in found.horizons] == [1.0, 3.0, 5.0]
    for horizon in found.horizons:
        assert horizon.auc.low is not None
        assert horizon.observed_risk is not None
        assert (
            horizon.observed_risk.low <= horizon.predicted_risk <= horizon.observed_risk.high
        )  # calibrated by design
    assert found.integrated_brier is not None
    assert len(found.groups) == 3
    page = page_of(metrics, tmp_path)
    assert "Uno&#x27;s C" in page
    assert "time (years)" not in page  # axis labels live inside the embedded pictures
    assert "by (years)" in page


def test_multi_year_risk_columns(tmp_path: Path) -> None:
    table = survival_table().rename(columns={"survival_0-1": "a", "survival_1-3": "b"})
    table["risk_1"], table["risk_3"] = 1 - table["a"], 1 - table["b"]
    table = table.drop(columns=["a", "b", "survival_3-5", "survival_5-inf", "risk"])
    metrics = computed(tmp_path, table, kind="survival", horizons=[2.0])
    assert metrics.survival is not None
    (horizon,) = metrics.survival.horizons
    expected = ((table["risk_1"] + table["risk_3"]) / 2).mean()
    assert horizon.predicted_risk == pytest.approx(expected)


def test_two_models(tmp_path: Path, table: pd.DataFrame, new_scores: Callable[..., Path]) -> None:
    first = new_scores(tmp_path / "first", table)
    noisy = table.assign(
        prob=np.clip(table["prob"] + np.random.default_rng(5).normal(0, 0.25, len(table)), 0, 1)
    )
    second = new_scores(
        tmp_path / "other" / "second", noisy.drop(index=noisy.index[noisy["split"] == "test"][:3])
    )
    options = EvaluateOptions(resamples=200, compare=second)
    metrics = compute(first, tmp_path / "cohort.csv", tmp_path / "report", options)
    (found,) = metrics.comparisons
    common = (table["split"] == "test") & ~table.index.isin(table.index[table["split"] == "test"][:3])
    test = delong.paired_test(
        table["label"][common], table["prob"][common], noisy["prob"][common], table["patient_id"][common]
    )
    assert found.n == int(common.sum())
    assert found.difference.value == pytest.approx(test.difference)
    assert found.p == pytest.approx(test.p)
    right = (table["prob"][common] >= 0.5) == table["label"][common]
    other = (noisy["prob"][common] >= 0.5) == table["label"][common]
    everyone = next(m for m in found.mcnemar if m.among == "all")
    assert everyone.only_first_right == int((right & ~other).sum())
    assert everyone.only_second_right == int((~right & other).sum())
    assert any(f.code == "not_compared" and f.n == 3 for f in metrics.faults)
    assert "Two models" in page_of(metrics, tmp_path / "report")


def test_galleries_show_the_worst_errors_with_their_overlays(
    tmp_path: Path, table: pd.DataFrame, scores: Path
) -> None:
    test = table[table["split"] == "test"]
    wrong = test[(test["prob"] >= 0.5) & (test["label"] == 0)].sort_values("prob", ascending=False)
    missed = test[(test["prob"] < 0.5) & (test["label"] == 1)].sort_values("prob")
    overlays = scores / "heatmaps"
    overlays.mkdir()
    for name in ("left", "right"):
        Image.new("RGB", (1600, 900), (200, 150, 180)).save(overlays / f"{name}.png")
    shown_case = wrong["case_id"].iloc[0]
    images = pd.DataFrame({"image_id": ["left", "right"], "case_id": [shown_case, shown_case]})
    images.to_csv(scores / "images.csv", index=False)
    (overlays / f"{wrong['case_id'].iloc[1]}.png").write_bytes(b"not a picture")
    metrics = compute(scores, tmp_path / "cohort.csv", tmp_path / "report", FAST)
    positives, negatives = metrics.galleries
    assert [item.case_id for item in positives.items] == wrong["case_id"].head(6).tolist()
    assert [item.case_id for item in negatives.items] == missed["case_id"].head(6).tolist()
    shown = tmp_path / "report" / "gallery" / str(positives.items[0].image)
    assert Image.open(shown).size == (720, 203)  # two images of one case side by side
    assert positives.items[1].image is None
    assert "unreadable" in positives.items[1].note
    assert "data:image/jpeg;base64," in gallery_html(positives, tmp_path / "report")
