"""Weight-decay groups, rates by depth, a frozen stem, class weights, and bfloat16."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from atlas import Atlas, preset
from atlas_path.cohort.targets import Targets
from atlas_path.config import OptimConfig
from pipelines.train_setup import build_optimiser, case_balance, layer_depths, set_learning_rate


@pytest.fixture
def model() -> Atlas:
    return Atlas(preset("tiny"))


def group_of(optimiser: torch.optim.Optimizer, parameter: torch.Tensor) -> dict:
    return next(g for g in optimiser.param_groups if any(p is parameter for p in g["params"]))


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay(model):
    optimiser = build_optimiser(model, OptimConfig(weight_decay=0.24))
    grouped = [id(p) for g in optimiser.param_groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    for parameter in model.parameters():
        decay = group_of(optimiser, parameter)["weight_decay"]
        assert decay == (0.24 if parameter.ndim > 1 else 0.0)


def test_layer_decay_falls_from_the_head_to_the_stem(model):
    optim = OptimConfig(lr=1e-3, layer_decay=0.5, warmup_epochs=0)
    optimiser = build_optimiser(model, optim)
    set_learning_rate(optimiser, optim, step=0, steps_per_epoch=4)
    depths = layer_depths(model)
    top = max(depths.values())
    assert all((depth == 0) == name.startswith("stem.") for name, depth in depths.items())
    assert all((depth == top) == name.startswith("head.") for name, depth in depths.items())
    assert set(depths.values()) == set(range(top + 1))
    for name, parameter in model.named_parameters():
        expected = 1e-3 * 0.5 ** (top - depths[name])
        assert group_of(optimiser, parameter)["lr"] == pytest.approx(expected)


def test_a_frozen_stem_stays_and_the_rest_moves(model):
    optim = OptimConfig(lr=1e-2, freeze_stem_epochs=1, warmup_epochs=0, weight_decay=0.1)
    optimiser = build_optimiser(model, optim)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def step(number: int) -> set[str]:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        set_learning_rate(optimiser, optim, number, steps_per_epoch=2)
        optimiser.step()
        return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}

    frozen = {name for name in before if name.startswith("stem.")}
    assert step(0) == step(1) == set(before) - frozen
    assert step(2) == set(before)


def test_class_weights_make_classes_count_alike():
    ids = [f"c{i}" for i in range(10)]
    values = {c: np.asarray(int(i < 2)) for i, c in enumerate(ids)}
    targets = Targets("binary", ["0", "1"], 1, values, {c: np.asarray([True]) for c in ids})
    weights, draw = case_balance(targets, ids, "weights")
    assert draw is None
    assert sum(weights) == pytest.approx(len(ids))
    assert sum(weights[:2]) == pytest.approx(sum(weights[2:]))
    weights, draw = case_balance(targets, ids, "sampling")
    assert weights == [1.0] * len(ids)
    assert draw is not None
    assert draw[:2].sum() == pytest.approx(0.5)
    assert case_balance(targets, ids, "none") == ([1.0] * len(ids), None)


def test_class_weights_and_bfloat16_train(memory_cohort, config_for):
    """Rounded products change the losses a little, and only a little."""
    from pipelines.train import train

    table = memory_cohort(n=12)
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = config_for(
            table, optim={"epochs": 1, "balance": "weights"}, runtime={"precision": precision}, name=precision
        )
        lines = (train(config) / "metrics.jsonl").read_text().splitlines()
        losses[precision] = [line["loss"] for line in map(json.loads, lines) if line["kind"] == "epoch"]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
