"""Calibration, thresholds and decision curves against statsmodels, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import brier_score_loss

from atlas_path.stats import calibration, decision, operating, recalibration, samplesize


def data(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that are too extreme (true slope one half)."""
    random = np.random.default_rng(seed)
    odds = random.normal(size=n) * 2
    label = random.random(n) < 1 / (1 + np.exp(-(0.3 + 0.5 * odds)))
    return label, 1 / (1 + np.exp(-odds))


def test_intercept_and_slope_equal_statsmodels() -> None:
    label, prob = data()
    log_odds = np.log(prob / (1 - prob))
    ones = np.ones((1, label.size))
    glm = sm.GLM(label.astype(float), sm.add_constant(log_odds), family=sm.families.Binomial()).fit()
    np.testing.assert_allclose(calibration.fit_slope(label, log_odds, ones)[0], glm.params, rtol=1e-6)
    offset = sm.GLM(
        label.astype(float), np.ones(label.size), family=sm.families.Binomial(), offset=log_odds
    ).fit()
    np.testing.assert_allclose(calibration.fit_intercept(label, log_odds, ones), offset.params, rtol=1e-6)


def test_weighted_fits_are_fits_of_repeated_rows() -> None:
    label, prob = data(120)
    log_odds = calibration.logit(prob)
    weight = np.random.default_rng(1).integers(0, 4, size=(2, 120)).astype(float)
    found = calibration.fit_slope(label, log_odds, weight)
    for row, expected in zip(weight, found, strict=True):
        index = np.repeat(np.arange(120), row.astype(int))
        again = calibration.fit_slope(label[index], log_odds[index], np.ones((1, index.size)))[0]
        np.testing.assert_allclose(expected, again, rtol=1e-8)


def test_summary_measures() -> None:
    label, prob = data()
    found = calibration.calibrate_estimates(label, prob, np.arange(label.size), n_resamples=300)
    assert found.brier.value == pytest.approx(brier_score_loss(label, prob))
    assert found.observed_expected.value == pytest.approx(label.mean() / prob.mean())
    share = label.mean()
    assert found.brier_skill.value == pytest.approx(1 - brier_score_loss(label, prob) / (share * (1 - share)))
    assert found.slope.high < 1  # the model is too extreme, and the interval shows it
    for estimate in (found.intercept, found.slope, found.observed_expected, found.brier):
        assert estimate.low <= estimate.value <= estimate.high


def test_calibration_error_by_hand() -> None:
    label = np.array([0, 0, 1, 1, 0, 1], dtype=bool)
    prob = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    expected = (abs(0 - 0.15) * 2 + abs(1 - 0.45) * 2 + abs(0.5 - 0.8) * 2) / 6
    assert calibration.expected_calibration_error(label, prob, n_bins=3)[0] == pytest.approx(expected)


def test_tied_probabilities_share_a_bin() -> None:
    bins = calibration.equal_mass_bins(np.array([0.2] * 7 + [0.5, 0.9, 0.9]), 5)
    assert len(set(bins[:7])) == 1
    assert bins[8] == bins[9]


def test_perfectly_calibrated_probabilities_cover_the_ideal() -> None:
    random = np.random.default_rng(5)
    prob = random.beta(1, 2, size=600)
    label = random.random(600) < prob
    found = calibration.calibrate_estimates(label, prob, np.arange(600), n_resamples=500)
    assert found.slope.low < 1 < found.slope.high
    assert found.intercept.low < 0 < found.intercept.high
    assert found.observed_expected.low < 1 < found.observed_expected.high


def test_intercept_and_slope_intervals_cover() -> None:
    random = np.random.default_rng(6)
    inside = np.zeros(2)
    for study in range(250):
        patient = np.repeat(np.arange(100), 2)
        prob = 1 / (1 + np.exp(-random.normal(size=200) * 1.2))
        label = random.random(200) < prob
        found = calibration.calibrate_estimates(label, prob, patient, n_resamples=150, seed=study)
        inside += [found.intercept.low <= 0 <= found.intercept.high, found.slope.low <= 1 <= found.slope.high]
    assert (inside / 250 >= 0.91).all()
    assert (inside / 250 <= 0.985).all()


def test_complete_separation_has_no_slope() -> None:
    label = np.array([0] * 20 + [1] * 20)
    found = calibration.calibrate_estimates(
        label, np.linspace(0.01, 0.99, 40), np.arange(40), n_resamples=100
    )
    assert not found.slope.known
    assert found.slope.note.startswith("the classes separate completely")
    assert found.brier.known


def test_probabilities_outside_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 probabilities lie outside"):
        calibration.calibrate_estimates([0, 1, 1], [0.2, 1.3, 0.4], [0, 1, 2])


def test_platt_equals_statsmodels_and_repairs_the_slope() -> None:
    label, prob = data(400, seed=2)
    fitted = recalibration.fit(label, prob, "platt")
    glm = sm.GLM(
        label.astype(float), sm.add_constant(calibration.logit(prob)), family=sm.families.Binomial()
    ).fit()
    assert (fitted.parameters["intercept"], fitted.parameters["slope"]) == pytest.approx(
        tuple(glm.params), rel=1e-5
    )
    again = calibration.fit_slope(label, calibration.logit(fitted.apply(prob)), np.ones((1, 400)))[0]
    np.testing.assert_allclose(again, [0, 1], atol=1e-5)


def test_temperature_and_isotonic() -> None:
    label, prob = data(400, seed=3)
    warm = recalibration.fit(label, prob, "temperature")
    assert warm.parameters["slope"] < 0.8
    assert np.log(warm.apply(prob) / (1 - warm.apply(prob))) == pytest.approx(
        warm.parameters["slope"] * calibration.logit(prob), abs=1e-6
    )
    steps = recalibration.fit(label, prob, "isotonic").apply(prob)
    assert (np.diff(steps[np.argsort(prob)]) >= 0).all()
    with pytest.raises(ValueError, match="both classes"):
        recalibration.fit([1, 1], [0.2, 0.3], "platt")
    with pytest.raises(ValueError, match="separate completely"):
        recalibration.fit([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], "platt")


def test_net_benefit_by_hand() -> None:
    label = np.array([1, 1, 0, 0, 0])
    prob = np.array([0.9, 0.3, 0.6, 0.2, 0.1])
    found = decision.decision_curve(label, prob, np.arange(5), [0.25, 0.5], n_resamples=100)
    np.testing.assert_allclose(found.model, [(2 - 1 * 0.25 / 0.75) / 5, (1 - 1 * 1) / 5])
    np.testing.assert_allclose(found.treat_all, [0.4 - 0.6 / 3, 0.4 - 0.6])


def test_net_benefit_below_the_lowest_probability_is_treat_all() -> None:
    label, prob = data()
    found = decision.decision_curve(
        label, np.clip(prob, 0.05, 1), np.arange(300), [0.02, 0.04], n_resamples=100
    )
    np.testing.assert_allclose(found.model, found.treat_all)
    with pytest.raises(ValueError, match="strictly between"):
        decision.decision_curve(label, prob, np.arange(300), [0.0])


def test_counts_and_rates_at_a_threshold() -> None:
    label = np.array([1, 1, 1, 0, 0, 0, 0])
    prob = np.array([0.9, 0.5, 0.4, 0.5, 0.3, 0.2, 0.1])
    at = operating.at_threshold(label, prob, np.arange(7), 0.5)  # the threshold itself counts as positive
    assert (at.true_positive, at.false_positive, at.true_negative, at.false_negative) == (2, 1, 3, 1)
    assert at.sensitivity.value == pytest.approx(2 / 3)
    assert at.specificity.value == pytest.approx(3 / 4)
    assert at.ppv.value == pytest.approx(2 / 3)
    assert at.npv.value == pytest.approx(3 / 4)
    assert at.recall_rate.value == pytest.approx(3 / 7)
    assert at.balanced_accuracy.value == pytest.approx((2 / 3 + 3 / 4) / 2)


def test_predictive_values_of_altman_and_bland() -> None:
    """BMJ 1994;309:102: liver scans, sensitivity 0.90, specificity 0.63; PPV 0.45 at prevalence 0.25."""
    sens = operating.at_threshold([1] * 258, [1.0] * 231 + [0.0] * 27, np.arange(258), 0.5).sensitivity
    spec = operating.at_threshold([0] * 86, [1.0] * 32 + [0.0] * 54, np.arange(86), 0.5).specificity
    ppv, npv = operating.predictive_values(sens, spec, 0.25)
    assert round(ppv.value, 2) == 0.45
    assert round(npv.value, 2) == 0.95
    assert ppv.low < ppv.value < ppv.high


@pytest.mark.parametrize(
    ("rule", "what", "least"), [("sens:0.9", "sensitivity", 0.9), ("spec:0.8", "specificity", 0.8)]
)
def test_chosen_thresholds_reach_their_target_and_are_the_best_that_do(
    rule: str, what: str, least: float
) -> None:
    label, prob = data()
    cut = operating.choose(label, prob, rule)
    at = operating.at_threshold(label, prob, np.arange(300), cut)
    assert getattr(at, what).value >= least
    step = 1e-9 + np.diff(np.unique(prob)).max()
    beyond = operating.at_threshold(
        label, prob, np.arange(300), cut + (step if what == "sensitivity" else -step)
    )
    assert getattr(beyond, what).value < least


def test_youden_is_the_largest_sum() -> None:
    label, prob = data()
    cut = operating.choose(label, prob, "youden")
    sums = [(prob[label] >= c).mean() + (prob[~label] < c).mean() for c in (*np.unique(prob), cut)]
    assert sums[-1] == pytest.approx(max(sums))


@pytest.mark.parametrize("rule", ["sens", "sens:0", "best", "youden:1"])
def test_unknown_rules_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=r"rule|target|convert"):
        operating.choose([0, 1], [0.2, 0.8], rule)


def test_rate_read_off_the_curve() -> None:
    label, prob = data()
    found = operating.rate_at(label, prob, np.arange(300), "spec", 0.9, n_resamples=200)
    cut = np.sort(prob[~label])[int(np.ceil(0.9 * (~label).sum())) - 1]
    assert found.value == pytest.approx((prob[label] > cut).mean())
    assert found.low < found.value < found.high


def test_hash_covers_every_field() -> None:
    point = {"name": "youden", "threshold": 0.4, "n": 10}
    frozen = {**point, "sha256": operating.point_hash(point)}
    assert operating.point_hash(frozen) == frozen["sha256"]
    assert operating.point_hash({**frozen, "threshold": 0.41}) != frozen["sha256"]


def test_sample_size_equals_published_software() -> None:
    """pmvalsampsize's example: prevalence 0.018, C 0.8 +- 0.05 needs 4252, O/E of width 1 needs 905."""
    assert samplesize.n_for_auroc(0.8, 0.018, 0.05) == 4252
    width_one = np.arcsinh(0.5) / 1.959964
    assert samplesize.n_for_observed_expected(0.018, width_one) == pytest.approx(905, abs=1)


def test_sample_size_closed_forms() -> None:
    assert samplesize.n_for_proportion(0.9, 0.2, 0.05) == int(np.ceil(1.959964**2 * 0.09 / 0.0025 / 0.2))
    label, prob = data(4000, seed=9)
    calibrated = np.random.default_rng(1).random(4000) < prob
    n = samplesize.n_for_slope(prob, 0.1)
    glm = sm.GLM(
        calibrated.astype(float), sm.add_constant(calibration.logit(prob)), family=sm.families.Binomial()
    ).fit()
    assert n == pytest.approx(4000 * (glm.bse[1] / 0.1) ** 2, rel=0.05)
    assert label.size == 4000
