"""AUROC, its curves and its variance against scikit-learn, double loops, and published software."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from atlas_path.stats import delong, ranking
from atlas_path.stats.discrimination import auroc_estimate, average_precision_estimate, macro_auroc

cases = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


def paired_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(11)
    label = (random.random(120) < 0.4).astype(int)
    first = np.round(random.normal(size=120) + 1.1 * label, 1)
    second = np.round(first * 0.5 + random.normal(size=120) + 0.4 * label, 1)
    return label, first, second


@given(cases)
@settings(max_examples=60, deadline=None)
def test_auroc_and_average_precision_equal_scikit_learn(rows: list[tuple[int, int]]) -> None:
    label, score = np.array([a for a, _ in rows]), np.array([b for _, b in rows], dtype=float)
    assert ranking.auroc(label, score) == pytest.approx(roc_auc_score(label, score))
    assert ranking.average_precision(label, score) == pytest.approx(average_precision_score(label, score))


def test_curve_equals_scikit_learn() -> None:
    label, score, _ = paired_data()
    ours = ranking.curve(label, score)
    fpr, tpr, threshold = roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_allclose(ours.sensitivity, tpr)
    np.testing.assert_allclose(1 - ours.specificity, fpr)
    np.testing.assert_allclose(ours.threshold[1:], threshold[1:])


def test_weights_are_repeated_rows() -> None:
    label, score, _ = paired_data()
    random = np.random.default_rng(0)
    weight = random.integers(0, 4, size=(3, label.size)).astype(float)
    ranked = ranking.Ranked.of(label, score)
    for row, area, precision in zip(
        weight, ranked.auroc(weight), ranked.average_precision(weight), strict=True
    ):
        index = np.repeat(np.arange(label.size), row.astype(int))
        assert area == pytest.approx(roc_auc_score(label[index], score[index]))
        assert precision == pytest.approx(average_precision_score(label[index], score[index]))


def test_delong_variance_equals_the_definition() -> None:
    """The definition with kernels over all pairs, written as loops (DeLong et al. 1988, equations 4 to 6)."""
    label, first, second = paired_data()
    positives, negatives = np.flatnonzero(label == 1), np.flatnonzero(label == 0)

    def kernel(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    v10 = np.array(
        [[np.mean([kernel(s[i], s[j]) for j in negatives]) for i in positives] for s in (first, second)]
    )
    v01 = np.array(
        [[np.mean([kernel(s[i], s[j]) for i in positives]) for j in negatives] for s in (first, second)]
    )
    expected = np.cov(v10) / len(positives) + np.cov(v01) / len(negatives)
    placed = delong.placements(label, first, second)
    np.testing.assert_allclose(delong.covariance(placed), expected, rtol=1e-12)


def test_paired_delong_equals_published_software() -> None:
    """Constants: MLstatkit 0.1.91 (MIT; aligned with pROC's roc.test) on the same numbers."""
    label, first, second = paired_data()
    test = delong.paired_test(label, first, second)
    assert test.first == pytest.approx(0.8102057842046719, abs=1e-12)
    assert test.second == pytest.approx(0.6772803114571746, abs=1e-12)
    assert test.z == pytest.approx(2.7162698473117417, abs=1e-9)
    assert test.p == pytest.approx(0.0066022081336346, abs=1e-10)
    variance = delong.covariance(delong.placements(label, first))[0, 0]
    low, high, _ = delong.interval(test.first, variance, 58, 62, scale="plain")
    assert (low, high) == pytest.approx((0.7343204059184512, 0.8860911624908925), abs=1e-9)


def test_clustered_variance_of_single_rows_is_delong() -> None:
    label, first, second = paired_data()
    placed = delong.placements(label, first, second)
    np.testing.assert_allclose(
        delong.covariance(placed, np.arange(label.size)), delong.covariance(placed), rtol=1e-12
    )


def test_clustered_variance_by_the_sums_of_obuchowski() -> None:
    """Obuchowski 1997, written out cluster by cluster."""
    random = np.random.default_rng(4)
    patient = np.repeat(np.arange(30), 3)
    label = random.random(90) < 0.4
    score = random.normal(size=90) + label + np.repeat(random.normal(size=30), 3)
    placed = delong.placements(label, score)
    above, theta = placed.above_kn[0], placed.auroc_k[0]
    m, n = label.sum(), (~label).sum()
    s10 = s01 = s11 = 0.0
    with_positive = with_negative = 0
    for p in range(30):
        own = patient == p
        x, y = own & label, own & ~label
        with_positive, with_negative = with_positive + x.any(), with_negative + y.any()
        left, right = above[x].sum() - x.sum() * theta, above[y].sum() - y.sum() * theta
        s10, s01, s11 = s10 + left**2, s01 + right**2, s11 + left * right
    s10 *= with_positive / ((with_positive - 1) * m)
    s01 *= with_negative / ((with_negative - 1) * n)
    s11 *= 30 / 29
    expected = s10 / m + s01 / n + 2 * s11 / (m * n)
    assert delong.covariance(placed, patient)[0, 0] == pytest.approx(expected)


def test_identical_models_and_perfect_separation() -> None:
    label, first, _ = paired_data()
    same = delong.paired_test(label, first, 2 * first + 1)
    assert same.p == 1.0
    assert same.difference == 0.0
    found = auroc_estimate([0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.8, 0.9], list("abcde"))
    assert found.value == 1.0
    assert found.high == 1.0
    assert 0.2 < found.low < 0.9
    assert "Newcombe" in found.method


def test_one_class_has_no_auroc_and_says_so() -> None:
    found = auroc_estimate([1, 1, 1], [0.1, 0.2, 0.3], list("abc"))
    assert not found.known
    assert "only positives" in found.note
    assert not average_precision_estimate([0, 0], [0.1, 0.2], list("ab")).known


def test_method_follows_the_patients() -> None:
    label, first, _ = paired_data()
    single = auroc_estimate(label, first, np.arange(label.size))
    several = auroc_estimate(label, first, np.arange(label.size) // 3, n_resamples=300)
    assert single.method.startswith("DeLong")
    assert several.method.startswith("patient bootstrap")
    assert single.value == several.value


def test_macro_auroc_is_the_mean_of_one_against_rest() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 3, 90)
    prob = random.dirichlet(np.ones(3), 90) + 0.7 * np.eye(3)[truth]
    prob /= prob.sum(1, keepdims=True)
    mean, each = macro_auroc(truth, prob, ["a", "b", "c"], np.arange(90), n_resamples=200)
    assert mean.value == pytest.approx(roc_auc_score(truth, prob, multi_class="ovr", average="macro"))
    assert each["b"].value == pytest.approx(roc_auc_score(truth == 1, prob[:, 1]))


@pytest.mark.parametrize("bad", [[0, 1, 2], [0, 1, float("nan")]])
def test_labels_that_are_no_labels_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        ranking.auroc(bad, [0.1, 0.2, 0.3])


def test_missing_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="1 scores are missing"):
        ranking.auroc([0, 1, 1], [0.1, float("nan"), 0.3])


def test_all_orders_of_five_rows_give_the_same_auroc() -> None:
    label, score = np.array([0, 1, 0, 1, 1]), np.array([0.2, 0.2, 0.4, 0.6, 0.1])
    values = {
        round(ranking.auroc(label[list(p)], score[list(p)]), 12) for p in itertools.permutations(range(5))
    }
    assert len(values) == 1
