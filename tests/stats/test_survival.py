"""Survival statistics against published tables, statsmodels, loops, and populations with a known answer.

scikit-survival is GPL-3 and no dependency of ours, so Uno's C and the time-dependent AUC are checked against
loops written from the papers, against the uncensored limit, and against the truth of a simulated population.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from statsmodels.duration.survfunc import SurvfuncRight

from atlas_path.stats import survival, survival_auc

REMISSION_WEEKS = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
REMISSION_ENDED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]


def censored(n: int = 150, seed: int = 0, rounded: bool = True):
    random = np.random.default_rng(seed)
    risk = np.round(random.normal(size=n), 1 if rounded else 6)
    event_at, censored_at = random.exponential(np.exp(-risk)) * 4, random.uniform(0.5, 8, n)
    time = np.round(np.minimum(event_at, censored_at), 1 if rounded else 6)
    return time, event_at <= censored_at, risk


def test_kaplan_meier_of_the_6mp_trial() -> None:
    """Freireich et al., Blood 1963: the remission times every textbook works through."""
    curve = survival.kaplan_meier(REMISSION_WEEKS, REMISSION_ENDED)
    published = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, share in published.items():
        assert curve.at(week)[0] == pytest.approx(share, abs=0.0006)
    assert curve.at(5.9)[0] == 1.0
    assert curve.at(100)[0] == curve.at(23)[0]


def test_kaplan_meier_and_greenwood_equal_statsmodels() -> None:
    time, event, _ = censored()
    ours, theirs = survival.kaplan_meier(time, event), SurvfuncRight(time, event)
    for when, share, error in zip(theirs.surv_times, theirs.surv_prob, theirs.surv_prob_se, strict=True):
        found, low, high = ours.at(when)
        assert found == pytest.approx(share)
        if 0 < share < 1:
            spread = 1.959964 * error / (share * abs(np.log(share)))
            assert (low, high) == pytest.approx((share ** np.exp(spread), share ** np.exp(-spread)), rel=1e-5)


def test_censoring_weights_equal_the_product_over_earlier_times() -> None:
    time, event, _ = censored()
    weights = survival.censoring_weights(time, event, np.ones((1, time.size))).before_own_time()[0]
    for i in range(0, time.size, 7):
        product = 1.0
        for t in np.unique(time[time < time[i]]):
            at_risk = (time >= t).sum() - (event & (time == t)).sum()
            product *= 1 - (~event & (time == t)).sum() / at_risk if at_risk else 1
        assert weights[i] == pytest.approx(product)


def loop_concordance(time, event, risk, weight) -> float:
    wins = pairs = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += weight[i]
                wins += weight[i] * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return wins / pairs


def test_harrell_and_uno_equal_loops_over_pairs() -> None:
    time, event, risk = censored(80)
    ones = np.ones((1, 80))
    harrell = survival.concordance(time, event, risk, ones)[0]
    assert harrell == pytest.approx(loop_concordance(time, event, risk, np.ones(80)))
    weights = survival.censoring_weights(time, event, ones).before_own_time()[0]
    tau = 3.0
    own = np.where(time < tau, 1 / np.maximum(weights, 1e-9) ** 2, 0.0)
    uno = survival.concordance(time, event, risk, ones, tau, uno=True)[0]
    assert uno == pytest.approx(loop_concordance(time, event, risk, own))


def test_without_censoring_uno_is_harrell_and_auc_is_auroc() -> None:
    random = np.random.default_rng(1)
    time, risk = random.exponential(size=100), random.normal(size=100)
    event, ones = np.ones(100, bool), np.ones((1, 100))
    assert survival.concordance(time, event, risk, ones, uno=True)[0] == pytest.approx(
        survival.concordance(time, event, risk, ones)[0]
    )
    assert survival_auc.dynamic_auc(time, event, risk, 0.7, ones)[0] == pytest.approx(
        roc_auc_score(time <= 0.7, risk)
    )
    predicted = 1 / (1 + np.exp(-risk))
    brier = survival_auc.brier_at(time, event, predicted, 0.7, ones)[0]
    assert brier == pytest.approx(np.mean(((time <= 0.7) - predicted) ** 2))


def test_resampling_weights_are_repeated_rows() -> None:
    time, event, risk = censored(60)
    weight = np.random.default_rng(2).integers(0, 3, size=(1, 60)).astype(float)
    index = np.repeat(np.arange(60), weight[0].astype(int))
    repeated = (time[index], event[index], risk[index])
    ones = np.ones((1, index.size))
    for uno in (False, True):
        assert survival.concordance(time, event, risk, weight, 3.0, uno)[0] == pytest.approx(
            survival.concordance(*repeated, ones, 3.0, uno)[0]
        )
    assert survival_auc.dynamic_auc(time, event, risk, 2.0, weight)[0] == pytest.approx(
        survival_auc.dynamic_auc(*repeated, 2.0, ones)[0]
    )


def test_dynamic_auc_and_brier_equal_loops() -> None:
    time, event, risk = censored(70)
    ones, horizon = np.ones((1, 70)), 2.0
    weights = survival.censoring_weights(time, event, ones)
    before = weights.before_own_time()[0]
    wins = pairs = loss = 0.0
    predicted = 1 / (1 + np.exp(-risk))
    for i in range(70):
        if event[i] and time[i] <= horizon:
            loss += (1 - predicted[i]) ** 2 / before[i]
            for j in range(70):
                if time[j] > horizon:
                    pairs += 1 / before[i]
                    wins += (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0) / before[i]
        elif time[i] > horizon:
            loss += predicted[i] ** 2 / weights.at(horizon)[0]
    assert survival_auc.dynamic_auc(time, event, risk, horizon, ones)[0] == pytest.approx(wins / pairs)
    assert survival_auc.brier_at(time, event, predicted, horizon, ones)[0] == pytest.approx(loss / 70)


def test_uno_and_auc_recover_the_uncensored_population() -> None:
    """Heavy censoring: the weighted measures stay at the uncensored truth, Harrell's C drifts away."""
    random = np.random.default_rng(3)
    n, tau, ones = 4000, 2.0, np.ones((1, 4000))
    risk = random.normal(size=n)
    event_at = random.weibull(1.0, n) * np.where(risk > 0, 1.0, 1.0 + 2 * np.abs(risk))
    truth = survival.concordance(np.minimum(event_at, tau + 1e-9), event_at < tau, risk, ones)[0]
    truth_auc = roc_auc_score(event_at <= 1.0, risk)
    censored_at = random.exponential(0.8, n)
    time, event = np.minimum(event_at, censored_at), event_at <= censored_at
    uno = survival.concordance(time, event, risk, ones, tau, uno=True)[0]
    harrell = survival.concordance(time, event, risk, ones)[0]
    assert abs(uno - truth) < 0.015
    assert abs(uno - truth) < abs(harrell - truth)
    assert survival_auc.dynamic_auc(time, event, risk, 1.0, ones)[0] == pytest.approx(truth_auc, abs=0.02)


def test_intervals_cover_with_clustered_patients() -> None:
    """Two rows a patient with a shared effect; the population C is taken from a large sample."""

    def draw(random: np.random.Generator, n: int):
        patient = np.repeat(np.arange(n), 2)
        risk = np.repeat(random.normal(size=n), 2) * 0.8 + 0.6 * random.normal(size=2 * n)
        event_at = random.exponential(size=2 * n) * np.exp(-0.8 * risk)
        censored_at = random.uniform(0.3, 3, 2 * n)
        return np.minimum(event_at, censored_at), event_at <= censored_at, risk, patient

    random = np.random.default_rng(4)
    large = draw(random, 2500)
    truth = survival.concordance(*large[:3], np.ones((1, 5000)), 2.0, uno=True)[0]
    inside = 0
    for study in range(250):
        found = survival.concordance_estimate(*draw(random, 60), True, 2.0, n_resamples=120, seed=study)
        inside += found.low <= truth <= found.high
    assert 0.91 <= inside / 250 <= 0.985


def test_estimates_name_what_is_missing() -> None:
    assert not survival.concordance_estimate([1, 2, 3], [0, 0, 1], [1, 2, 3], [0, 1, 2], False).known
    found = survival_auc.dynamic_auc_estimate([1, 2, 3], [1, 1, 0], [1, 2, 3], 9.0, [0, 1, 2])
    assert "fewer than two patients" in found.note
    with pytest.raises(ValueError, match="finite and not negative"):
        survival.checked_times([1, -1], [0, 1])
    with pytest.raises(ValueError, match="events must be"):
        survival.checked_times([1, 1], [0, 2])


def test_integrated_brier_is_the_mean_over_time() -> None:
    time, event, risk = censored(100)
    predicted = np.repeat(1 / (1 + np.exp(-risk))[:, None], 3, 1)
    each = [
        survival_auc.brier_at(time, event, predicted[:, 0], h, np.ones((1, 100)))[0] for h in (1.0, 2.0, 4.0)
    ]
    found = survival_auc.integrated_brier(time, event, predicted, [1.0, 2.0, 4.0], np.arange(100), 200)
    assert found.value == pytest.approx(((each[0] + each[1]) / 2 + (each[1] + each[2])) / 3)
    assert found.low <= found.value <= found.high
