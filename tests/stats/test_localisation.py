"""CAMELYON16 FROC against MONAI and a worked example; the pointing game against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from atlas_path.stats import froc, pointing

MPP = 8.0


def disc(shape: tuple[int, int], y: int, x: int, radius: float) -> np.ndarray:
    grid = np.mgrid[0 : shape[0], 0 : shape[1]]
    return (grid[0] - y) ** 2 + (grid[1] - x) ** 2 <= radius**2


def test_lesions_are_widened_filled_and_sorted_by_size() -> None:
    mask = disc((300, 300), 80, 80, 40) & ~disc((300, 300), 80, 80, 25)  # a ring is one filled lesion
    mask |= disc((300, 300), 220, 220, 3)  # 9 px widened by 37.5 um on each side stay below 275 um
    found = froc.lesion_mask(mask, MPP)
    assert found.labels.max() == 2
    assert found.labels[80, 80] > 0
    assert found.labels[80, 80 + 43] > 0  # within 37.5 um = 4.7 px of the rim
    assert found.labels[80, 80 + 46] == 0
    ring, dot = found.labels[80, 80] - 1, found.labels[220, 220] - 1
    assert not found.ignored_n[ring]
    assert found.ignored_n[dot]
    assert found.major_axis_um[ring] == pytest.approx(2 * 44.7 * MPP, rel=0.02)


def test_neighbours_closer_than_75_um_are_one_lesion() -> None:
    near = disc((120, 200), 60, 60, 20) | disc((120, 200), 60, 108, 20)
    far = disc((120, 200), 60, 60, 20) | disc((120, 200), 60, 120, 20)
    assert froc.lesion_mask(near, MPP).labels.max() == 1
    assert froc.lesion_mask(far, MPP).labels.max() == 2


def test_judging_keeps_the_best_hit_and_ignores_small_lesions() -> None:
    mask = disc((300, 300), 80, 80, 40) | disc((300, 300), 220, 220, 3)
    lesions = froc.lesion_mask(mask, MPP)
    hits = froc.judge(lesions, [0.4, 0.9, 0.7, 0.6, 0.5], [80, 85, 220, 150, 500], [80, 75, 220, 20, 10])
    assert hits.best_l.tolist() == [0.9]
    assert sorted(hits.false_positive_d) == [0.5, 0.6]  # the hit on the small lesion counts neither way
    assert (hits.n_ignored, hits.n_detections) == (1, 5)


def image(best: list[float], false: list[float]) -> froc.ImageHits:
    return froc.ImageHits(
        np.array(best), np.full(len(best), 1000.0), np.array(false), 0, len(best) + len(false)
    )


def test_worked_example() -> None:
    """Two images; lesions hit at 0.9 and 0.5, one missed; false positives at 0.8 and 0.3."""
    found = froc.froc([image([0.9, 0.0], [0.8]), image([0.5], [0.3])])
    assert found.threshold.tolist() == [0.3, 0.5, 0.8, 0.9, np.inf]  # the smallest score, 0, is no threshold
    assert found.false_positives.tolist() == [1.0, 0.5, 0.5, 0.0, 0.0]
    np.testing.assert_allclose(found.sensitivity, [2 / 3, 2 / 3, 1 / 3, 1 / 3, 0])
    assert found.at[2:].tolist() == [2 / 3] * 4
    assert found.score == pytest.approx(found.at.mean())


def test_curve_and_score_equal_monai() -> None:
    from monai.metrics import compute_froc_curve_data, compute_froc_score

    random = np.random.default_rng(0)
    images = []
    for _ in range(30):
        best = np.round(random.random(random.integers(0, 4)), 2) * (random.random() < 0.8)
        images.append(image(best.tolist(), np.round(random.random(random.integers(0, 6)) ** 2, 2).tolist()))
    found = froc.froc(images)
    false = np.concatenate([i.false_positive_d for i in images])
    true = np.concatenate([i.best_l for i in images])
    rate, sensitivity = compute_froc_curve_data(false, true, true.size, 30)
    np.testing.assert_allclose(found.false_positives, rate)
    np.testing.assert_allclose(found.sensitivity, sensitivity)
    assert found.score == pytest.approx(compute_froc_score(rate, sensitivity))


def test_resampled_score_is_the_score_of_the_resampled_images() -> None:
    random = np.random.default_rng(1)
    images = [image(random.random(2).tolist(), random.random(3).tolist()) for _ in range(8)]
    weight = np.array([[2.0, 0, 1, 1, 0, 3, 1, 0]])
    chosen = [img for img, w in zip(images, weight[0], strict=True) for _ in range(int(w))]
    everything = froc.Tally.of(images)
    false, sensitivity = everything.curves(weight)
    expected = froc.froc(chosen)
    for threshold, rate, found in zip(
        expected.threshold, expected.false_positives, expected.sensitivity, strict=True
    ):
        k = int(np.flatnonzero(everything.threshold == threshold)[0])
        assert (false[0, k], sensitivity[0, k]) == pytest.approx((rate, found))
    estimate = froc.froc_estimate(images * 3, np.arange(24) // 2, 200)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.n_patients == 12
    assert np.isnan(froc.froc_estimate(images, np.arange(8) // 2, 200).low)


def test_no_lesion_no_curve() -> None:
    with pytest.raises(ValueError, match="at least one lesion"):
        froc.froc([image([], [0.5])])
    assert not froc.froc_estimate([image([], [0.5])], [0]).known


def test_equal_chances_are_a_binomial() -> None:
    found = pointing.pointing([True] * 7 + [False] * 5, [0.2] * 12, np.arange(12))
    assert found.p == pytest.approx(stats.binom.sf(6, 12, 0.2))
    assert found.chance == pytest.approx(0.2)
    assert found.rate.value == pytest.approx(7 / 12)


def test_unequal_chances_are_enumerated() -> None:
    chances = np.array([0.1, 0.5, 0.3, 0.9])
    total = 0.0
    for outcome in itertools.product([0, 1], repeat=4):
        if sum(outcome) >= 2:
            total += np.prod([c if o else 1 - c for c, o in zip(chances, outcome, strict=True)])
    assert pointing.poisson_binomial_tail(chances, 2) == pytest.approx(total)
    assert pointing.poisson_binomial_tail(chances, 0) == pytest.approx(1)


@pytest.mark.parametrize(("hits", "chances"), [([], []), ([True], [1.2]), ([True, False], [0.5])])
def test_pointing_refuses_nonsense(hits: list[bool], chances: list[float]) -> None:
    with pytest.raises(ValueError, match="chance"):
        pointing.pointing(hits, chances, np.arange(len(hits)))
