"""Intervals of proportions and the patient bootstrap, against statsmodels, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.proportion import proportion_confint

from atlas_path.stats import bootstrap, delong, intervals, ranking
from atlas_path.stats.discrimination import auroc_estimate


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (45, 61), (1, 200)])
def test_wilson_equals_statsmodels(hits: int, n: int) -> None:
    assert intervals.wilson(hits, n) == pytest.approx(proportion_confint(hits, n, method="wilson"), abs=1e-9)


def test_proportion_of_single_rows_is_wilson_and_repeats_widen_it() -> None:
    hits = np.array([True] * 40 + [False] * 20)
    single = intervals.proportion(hits, np.arange(60))
    assert (single.low, single.high) == pytest.approx(proportion_confint(40, 60, method="wilson"))
    doubled = intervals.proportion(np.repeat(hits, 5), np.repeat(np.arange(60), 5))
    assert doubled.high - doubled.low >= single.high - single.low  # five copies of a row are no new patients
    assert doubled.high - doubled.low < 1.1 * (single.high - single.low)


def test_proportion_when_all_agree_counts_patients() -> None:
    found = intervals.proportion([True] * 30, np.repeat(np.arange(6), 5))
    assert found.high == 1.0
    assert found.low < intervals.wilson(6, 6)[0] + 0.05


def test_newcombe_bounds_solve_their_equation() -> None:
    low, high = intervals.newcombe_auroc(0.8, 20, 30)
    z = intervals.z_value()
    for theta in (low, high):
        half = (20 + 30) / 2 - 1
        variance = (
            theta * (1 - theta) * (1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)) / 600
        )
        assert abs(0.8 - theta) == pytest.approx(z * np.sqrt(variance), rel=1e-6)
    assert intervals.newcombe_auroc(1.0, 3, 3)[0] < 0.6


def test_resamples_draw_whole_patients() -> None:
    patient = np.array([0, 0, 1, 2, 2, 2])
    (weight,) = bootstrap.resamples(patient, 500, seed=1)
    assert (weight[:, 0] == weight[:, 1]).all()
    assert (weight[:, [0, 2, 3]].sum(1) == 3).all()
    assert weight[:, 2].mean() == pytest.approx(1, abs=0.1)


def test_bca_equals_scipy() -> None:
    random = np.random.default_rng(3)
    data = random.exponential(size=40)

    def mean(weight: np.ndarray) -> np.ndarray:
        return weight @ data / weight.sum(1)

    ours = bootstrap.estimate(mean, np.arange(40), 20000, seed=5, scale="bca")
    theirs = scipy.stats.bootstrap(
        (data,), np.mean, n_resamples=20000, method="BCa", rng=np.random.default_rng(6), vectorized=True
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_same_seed_same_interval() -> None:
    random = np.random.default_rng(0)
    label, score, patient = random.random(60) < 0.5, random.random(60), np.arange(60) // 2
    first, second = (auroc_estimate(label, score, patient, 200, seed=7) for _ in range(2))
    assert first == second


def test_few_patients_are_said() -> None:
    found = auroc_estimate(
        [0, 0, 1, 1, 0, 1, 1, 0], [0.1, 0.5, 0.4, 0.9, 0.3, 0.2, 0.8, 0.6], [0, 0, 1, 1, 2, 3, 3, 4], 200
    )
    assert "only 5 patients" in found.note


def simulated(
    random: np.random.Generator, n_patients: int, rows: int, correlation: float, gap: float, share: float
):
    """Rows of patients whose scores share a patient effect; the AUROC of two random rows is known."""
    patient = np.repeat(np.arange(n_patients), rows)
    label = np.repeat(random.random(n_patients) < share, rows)
    shared = np.sqrt(correlation) * np.repeat(random.normal(size=n_patients), rows)
    own = np.sqrt(1 - correlation) * random.normal(size=patient.size)
    return patient, label, gap * label + shared + own


@pytest.mark.parametrize(("n_patients", "rows", "auroc", "share"), [(60, 4, 0.80, 0.3), (100, 3, 0.90, 0.25)])
def test_clustered_auroc_intervals_cover(n_patients: int, rows: int, auroc: float, share: float) -> None:
    """Of 500 studies 93-97 % of the intervals hold the truth; the naive interval does not."""
    random = np.random.default_rng(20)
    gap = np.sqrt(2) * scipy.stats.norm.ppf(auroc)
    inside = naive = 0
    for study in range(500):
        patient, label, score = simulated(random, n_patients, rows, 0.5, gap, share)
        found = auroc_estimate(label, score, patient, n_resamples=150, seed=study)
        inside += found.low <= auroc <= found.high
        variance = delong.covariance(delong.placements(label, score))[0, 0]
        low, high, _ = delong.interval(found.value, variance, int(label.sum()), int((~label).sum()))
        naive += low <= auroc <= high
    assert 0.93 <= inside / 500 <= 0.97
    assert naive / 500 < 0.90


def test_delong_intervals_cover_with_one_row_a_patient() -> None:
    random = np.random.default_rng(8)
    gap = np.sqrt(2) * scipy.stats.norm.ppf(0.85)
    inside = 0
    for _ in range(1000):
        patient, label, score = simulated(random, 100, 1, 0.0, gap, 0.3)
        found = auroc_estimate(label, score, patient)
        inside += found.low <= 0.85 <= found.high
    assert 0.93 <= inside / 1000 <= 0.97


def test_clustered_proportion_intervals_cover() -> None:
    random = np.random.default_rng(9)
    inside = naive = 0
    for _ in range(2000):
        rate = random.beta(4, 2, size=50)  # mean 2/3, rows of a patient alike
        hits = (random.random((50, 4)) < rate[:, None]).ravel()
        found = intervals.proportion(hits, np.repeat(np.arange(50), 4))
        inside += found.low <= 2 / 3 <= found.high
        low, high = intervals.wilson(hits.sum(), 200)
        naive += low <= 2 / 3 <= high
    assert 0.93 <= inside / 2000 <= 0.97
    assert naive / 2000 < 0.92


def test_percentiles_ignore_lost_resamples_up_to_half() -> None:
    values = np.array([np.nan] * 40 + list(np.linspace(0, 1, 60)))
    assert intervals.percentile_bounds(values) == pytest.approx((0.025, 0.975))
    assert np.isnan(intervals.percentile_bounds([np.nan] * 60 + [0.5] * 40)[0])


def test_resample_without_a_class_is_not_a_number() -> None:
    ranked = ranking.Ranked.of([0, 1], [0.2, 0.4])
    assert np.isnan(ranked.auroc(np.array([[2.0, 0.0]]))[0])
