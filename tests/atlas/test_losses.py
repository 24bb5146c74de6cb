"""Losses against their definitions, missing labels, weights, and probabilities that are probabilities."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from atlas.losses import probabilities, survival_risk, task_loss

LOGITS = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7], [-0.4, 0.9, 0.1]], dtype=torch.float64)


def test_binary_with_weights_smoothing_and_missing():
    logits, target = LOGITS[:, :1], torch.tensor([1.0, 0.0, math.nan], dtype=torch.float64)
    p = torch.sigmoid(logits[:2, 0])
    plain = -(p[0].log() + (1 - p[1]).log()) / 2
    assert task_loss("binary", logits, target) == pytest.approx(float(plain))
    weighted = -(3 * p[0].log() + 1 * (1 - p[1]).log()) / 4
    weights = torch.tensor([1.0, 3.0])
    assert task_loss("binary", logits, target, class_weight=weights) == pytest.approx(float(weighted))
    smooth = -(0.95 * p[0].log() + 0.05 * (1 - p[0]).log() + 0.05 * p[1].log() + 0.95 * (1 - p[1]).log()) / 2
    assert task_loss("binary", logits, target, label_smoothing=0.1) == pytest.approx(float(smooth))
    masked = task_loss("binary", logits, torch.tensor([1, 0, 1]), mask=torch.tensor([True, False, False]))
    assert masked == pytest.approx(float(-p[0].log()))


def test_multiclass_is_cross_entropy():
    target = torch.tensor([2, 0, 1])
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    for kw in ({}, {"label_smoothing": 0.2}):
        want = F.cross_entropy(LOGITS, target, **kw)
        assert task_loss("multiclass", LOGITS, target, **kw) == pytest.approx(float(want))
    want = F.cross_entropy(LOGITS, target, weights)
    assert task_loss("multiclass", LOGITS, target, class_weight=weights) == pytest.approx(float(want))
    soft = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.6, 0.4]], dtype=torch.float64)
    assert task_loss("multiclass", LOGITS, soft) == pytest.approx(float(F.cross_entropy(LOGITS, soft)))
    missing = task_loss("multiclass", LOGITS, torch.tensor([2, -1, 1]))
    assert missing == pytest.approx(float(F.cross_entropy(LOGITS[[0, 2]], target[[0, 2]])))
    with pytest.raises(ValueError, match="3 classes"):
        task_loss("multiclass", LOGITS, torch.tensor([3, 0, 0]))


def test_multilabel_ignores_missing_labels():
    target = torch.tensor([[1.0, 0.0, math.nan], [math.nan] * 3, [0.0, 1.0, 1.0]], dtype=torch.float64)
    known = ~torch.isnan(target)
    want = F.binary_cross_entropy_with_logits(LOGITS[known], target[known])
    assert task_loss("multilabel", LOGITS, target) == pytest.approx(float(want))


def test_ordinal_counts_thresholds():
    target = torch.tensor([0, 3, 2])
    above = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.float64)
    want = F.binary_cross_entropy_with_logits(LOGITS, above)
    assert task_loss("ordinal", LOGITS, target) == pytest.approx(float(want))
    falling = LOGITS.sort(1, descending=True).values
    p = probabilities("ordinal", falling)
    assert p.shape == (3, 4)
    torch.testing.assert_close(p.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(p[:, 2:].sum(1), torch.sigmoid(falling[:, 1]))


def test_regression_squared_and_huber():
    target = torch.tensor([[0.0, 0.0, 0.0], [1.5, math.nan, 0.3], [3.0, 0.9, 0.1]], dtype=torch.float64)
    known = ~torch.isnan(target)
    want = F.mse_loss(LOGITS[known], target[known])
    assert task_loss("regression", LOGITS, target) == pytest.approx(float(want))
    want = F.huber_loss(LOGITS[known], target[known], delta=0.5)
    assert task_loss("regression", LOGITS, target, huber_delta=0.5) == pytest.approx(float(want))
    negative = torch.tensor([-4.0, -1.0], dtype=torch.float64)
    assert float(task_loss("regression", negative[:, None], negative)) == 0.0


def test_survival_likelihood_and_curve():
    target = torch.tensor([[1.0, 1.0], [2.0, 0.0], [math.nan, 1.0]], dtype=torch.float64)
    hazard = torch.sigmoid(LOGITS)
    event = (1 - hazard[0, 0]) * hazard[0, 1]
    censored = (1 - hazard[1]).prod()
    want = -(event.log() + censored.log()) / 2
    assert task_loss("survival", LOGITS, target) == pytest.approx(float(want))
    curve = probabilities("survival", LOGITS)
    torch.testing.assert_close(curve, torch.cumprod(1 - hazard, 1))
    assert survival_risk(LOGITS).argsort().tolist() == curve.sum(1).argsort(descending=True).tolist()


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "survival"])
def test_probabilities_lie_between_zero_and_one(task: str):
    logits = LOGITS[:, :1] if task == "binary" else 30 * LOGITS
    p = probabilities(task, logits.half())
    assert p.dtype == torch.float32
    assert ((p >= 0) & (p <= 1)).all()
    if task in ("binary", "multiclass"):
        torch.testing.assert_close(p.sum(1), torch.ones(3))


def test_all_missing_costs_nothing_and_has_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    loss = task_loss("multiclass", logits, torch.tensor([-1, -1, -1]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(logits.grad.abs().sum()) == 0.0


def test_unknown_task_is_named():
    with pytest.raises(ValueError, match="counting"):
        task_loss("counting", LOGITS, torch.zeros(3))
    with pytest.raises(ValueError, match="counting"):
        probabilities("counting", LOGITS)
