"""Calibration and thresholds from the tuning split."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.calibrate import apply_calibration, fit_calibration, operating_points, point_hash


def overconfident(n=600, seed=0, scale=3.0, shift=0.0):
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, n)
    return (
        (true * scale + shift)[:, None],
        (rng.random(n) < 1 / (1 + np.exp(-true))).astype(int),
        np.ones(n, bool),
    )


def test_temperature_undoes_overconfidence():
    logits, target, known = overconfident()
    fitted = fit_calibration("binary", "temperature", logits, target, known)
    assert fitted["parameters"]["scale"] == pytest.approx(1 / 3, rel=0.25)
    assert fitted["parameters"]["shift"] == 0


def test_platt_undoes_scale_and_shift():
    logits, target, known = overconfident(shift=2.0)
    fitted = fit_calibration("binary", "auto", logits, target, known)
    assert fitted["method"] == "platt"
    calibrated = apply_calibration(logits, fitted)[:, 0]
    assert (1 / (1 + np.exp(-calibrated))).mean() == pytest.approx(target.mean(), abs=0.02)


def test_perfect_separation_stays_finite_and_small_cohorts_are_left_alone():
    logits = np.linspace(-4, 4, 10)[:, None]
    target, known = (logits[:, 0] > 0).astype(int), np.ones(10, bool)
    fitted = fit_calibration("binary", "auto", logits, target, known)
    assert 0 < fitted["parameters"]["scale"] < 10
    assert fit_calibration("binary", "auto", logits[:4], target[:4], known[:4])["method"] == "none"
    assert fit_calibration("survival", "auto", logits, target, known)["method"] == "none"


def test_multiclass_temperature():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, (500, 3))
    chance = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    target = np.asarray([rng.choice(3, p=p) for p in chance])
    fitted = fit_calibration("multiclass", "auto", true * 4, target, np.ones(500, bool))
    assert fitted["parameters"]["scale"] == pytest.approx(0.25, rel=0.25)


def test_thresholds_keep_what_their_rule_promises():
    rng = np.random.default_rng(1)
    hit = np.arange(400) % 2
    chance = np.clip(rng.normal(0.35 + 0.3 * hit, 0.15), 0, 1)
    both = np.stack([1 - chance, chance], 1)
    names = ["youden", "sens95", "spec95"]
    points = operating_points("binary", ["no", "yes"], both, hit, np.ones(400, bool), names)
    assert [p["name"] for p in points] == names
    assert {p["class"] for p in points} == {"yes"}
    by_name = {p["name"]: p for p in points}
    assert 0.95 <= by_name["sens95"]["sensitivity"] < 0.97
    assert 0.95 <= by_name["spec95"]["specificity"] < 0.97
    best = max(
        ((chance[hit == 1] >= t).mean() + (chance[hit == 0] < t).mean()) for t in np.linspace(0, 1, 2001)
    )
    assert by_name["youden"]["sensitivity"] + by_name["youden"]["specificity"] == pytest.approx(
        best, abs=0.006
    )
    for point in points:
        assert point["sha256"] == point_hash(point)
        assert point["sha256"] != point_hash(point | {"threshold": point["threshold"] + 1e-6})


def test_one_class_in_tuning_gives_the_default():
    both = np.full((5, 2), 0.5)
    (point,) = operating_points("binary", ["no", "yes"], both, np.zeros(5, int), np.ones(5, bool), ["youden"])
    assert (point["threshold"], point["fitted_on"], point["sensitivity"]) == (0.5, "nothing", None)
