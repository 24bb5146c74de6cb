"""Kappa, subgroups, shortcuts and two models against scikit-learn, statsmodels and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, confusion_matrix
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.inter_rater import cohens_kappa

from atlas_path.stats import agreement, comparison, delong, subgroups


def grades(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 5, n)
    return truth, np.clip(truth + random.integers(-1, 3, n) * (random.random(n) < 0.5), 0, 4)


@pytest.mark.parametrize("weights", ["none", "quadratic"])
def test_kappa_equals_scikit_learn_and_statsmodels(weights: str) -> None:
    truth, predicted = grades()
    found = agreement.kappa_estimate(truth, predicted, np.arange(200), 5, weights, n_resamples=300)
    assert found.value == pytest.approx(
        cohen_kappa_score(truth, predicted, weights=None if weights == "none" else weights)
    )
    table = agreement.confusion(truth, predicted, 5)
    np.testing.assert_array_equal(table, confusion_matrix(truth, predicted))
    theirs = cohens_kappa(table, wt=None if weights == "none" else "quadratic")
    assert found.value == pytest.approx(theirs.kappa)
    assert (found.low, found.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=0.03)


def test_kappa_of_cohens_example() -> None:
    """The 3 x 3 table of Cohen 1960 (proportions .25 .13 .12 / .12 .02 .16 / .03 .15 .02): kappa -0.09."""
    table = np.array([[[25, 13, 12], [12, 2, 16], [3, 15, 2]]], dtype=float)
    expected = (0.29 - (0.5 * 0.4 + 0.3 * 0.3 + 0.2 * 0.3)) / (1 - (0.5 * 0.4 + 0.3 * 0.3 + 0.2 * 0.3))
    assert agreement.kappa_of(table, "none")[0] == pytest.approx(expected)
    assert round(expected, 2) == -0.09


def test_balanced_accuracy_equals_scikit_learn() -> None:
    truth, predicted = grades()
    accuracy, balanced = agreement.accuracy_estimates(truth, predicted, np.arange(200), 5, n_resamples=200)
    assert accuracy.value == pytest.approx((truth == predicted).mean())
    assert balanced.value == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_one_class_has_no_kappa() -> None:
    assert not agreement.kappa_estimate([1, 1], [1, 1], [0, 1], 3).known
    with pytest.raises(ValueError, match="class indices"):
        agreement.confusion([0, 3], [0, 1], 3)


def test_bands() -> None:
    assert subgroups.bands(["a", "", "b"], "site") == ["a", "unknown", "b"]
    assert subgroups.bands(["39", "40", "69.5", "70", ""], "age") == [
        "< 40", "40 to < 50", "60 to < 70", ">= 70", "unknown",
    ]  # fmt: skip
    many = subgroups.bands([str(v) for v in range(90)], "area")
    assert [many.count(name) for name in dict.fromkeys(many)] == [30, 30, 30]
    assert subgroups.bands(["1", "2", "1"], "birads") == ["1", "2", "1"]


def scored(gap_b: float, seed: int = 1, n: int = 400) -> tuple[np.ndarray, np.ndarray, list[str]]:
    random = np.random.default_rng(seed)
    group = np.where(random.random(n) < 0.5, "A", "B")
    label = random.random(n) < 0.5
    score = random.normal(size=n) + label * np.where(group == "A", 1.5, gap_b)
    return label, score, list(group)


def test_heterogeneity_sees_a_broken_site_and_not_an_equal_one() -> None:
    label, score, group = scored(0.1)
    assert subgroups.auroc_heterogeneity(label, score, np.arange(400), group, ["A", "B"]).p < 0.001
    equal = [
        subgroups.auroc_heterogeneity(
            *scored(1.5, seed)[:2], np.arange(400), scored(1.5, seed)[2], ["A", "B"]
        ).p
        for seed in range(200)
    ]
    assert 0.01 <= np.mean(np.array(equal) < 0.05) <= 0.09


def test_heterogeneity_by_hand() -> None:
    label, score, group = scored(0.8)
    centre, weight = [], []
    for name in "AB":
        rows = np.array(group) == name
        placed = delong.placements(label[rows], score[rows])
        a = placed.auroc_k[0]
        centre.append(np.log(a / (1 - a)))
        weight.append(1 / (delong.covariance(placed)[0, 0] / (a * (1 - a)) ** 2))
    expected = (centre[0] - centre[1]) ** 2 / (1 / weight[0] + 1 / weight[1])
    found = subgroups.auroc_heterogeneity(label, score, np.arange(400), group, ["A", "B"])
    assert found.q == pytest.approx(expected)
    assert found.p == pytest.approx(scipy_stats.chi2.sf(expected, 1))
    assert subgroups.auroc_heterogeneity(label, score, np.arange(400), group, ["A"]) is None


def test_shortcut_finds_a_label_that_follows_the_site() -> None:
    random = np.random.default_rng(3)
    patient = np.repeat(np.arange(100), 2)
    label = np.repeat(random.random(100) < 0.5, 2)
    told = np.where(np.repeat(random.random(100) < 0.9, 2), label, ~label)
    found = subgroups.shortcut(label, [f"site {int(v)}" for v in told], patient)
    assert found.p <= 0.002
    assert found.auroc.value > 0.8


def test_shortcut_permutes_patients_not_rows() -> None:
    """Ten rows a patient: permuting rows would call half of all chance associations significant."""
    random = np.random.default_rng(4)
    small = 0
    for seed in range(60):
        site = np.repeat(random.integers(0, 3, 20), 10)
        label = np.repeat(random.random(20) < 0.5, 10)
        if label.all() or not label.any():
            continue
        found = subgroups.shortcut(label, [str(s) for s in site], np.repeat(np.arange(20), 10), 99, seed)
        small += found.p < 0.05
    assert small / 60 <= 0.12


def test_mcnemar_equals_statsmodels() -> None:
    random = np.random.default_rng(5)
    first, second = random.random(80) < 0.8, random.random(80) < 0.65
    found = comparison.mcnemar(first, second)
    table = [
        [(first & second).sum(), (first & ~second).sum()],
        [(~first & second).sum(), (~first & ~second).sum()],
    ]
    assert found.p == pytest.approx(sm_mcnemar(table, exact=True).pvalue)
    assert comparison.mcnemar([True, False], [True, False]).p == 1.0


def test_bootstrap_difference_agrees_with_delong() -> None:
    random = np.random.default_rng(6)
    label = random.random(200) < 0.4
    first = random.normal(size=200) + label
    second = 0.6 * first + random.normal(size=200)
    found = comparison.auroc_difference(label, first, second, np.arange(200), 1000)
    test = delong.paired_test(label, first, second)
    assert found.value == pytest.approx(test.difference)
    assert (found.low, found.high) == pytest.approx((test.low, test.high), abs=0.015)


def test_paired_test_keeps_its_level_with_clustered_patients() -> None:
    """Two equally good scores, four rows a patient: about 5 % of tests may call them different."""
    random = np.random.default_rng(7)
    called = naive = 0
    for _ in range(500):
        patient = np.repeat(np.arange(80), 4)
        label = np.repeat(random.random(80) < 0.4, 4)
        first, second = (
            label + np.repeat(random.normal(size=80), 4) + 0.7 * random.normal(size=320) for _ in range(2)
        )
        called += delong.paired_test(label, first, second, patient).p < 0.05
        naive += delong.paired_test(label, first, second).p < 0.05
    assert 0.02 <= called / 500 <= 0.08
    assert naive / 500 > 0.15
