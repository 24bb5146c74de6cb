"""Pretraining without labels, and starting a run from it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from atlas_path.errors import ModelError, UsageError


def test_pretraining_learns_and_a_run_starts_from_it(memory_cohort, config_for, capsys):
    from atlas import load_model
    from pipelines.pretrain import pretrain
    from pipelines.train import train

    table = memory_cohort(n=6)
    settings = {"epochs": 10, "windows_per_step": 8, "width": 16, "lr": 5e-3}
    folder = pretrain(config_for(table, pretrain=settings))
    lines = [json.loads(line) for line in (folder / "pretrain.jsonl").read_text().splitlines()]
    total = [sum(v for k, v in line.items() if k != "step") for line in lines]
    assert total[-1] < total[0]
    with pytest.raises(UsageError, match="exists"):
        pretrain(config_for(table, pretrain=settings))
    _, info = load_model(folder)
    assert info["pretraining"] == "vicreg"
    capsys.readouterr()
    train(config_for(table, model={"init_from": folder}, optim={"epochs": 1}))
    assert "starting from r-pretrained" in capsys.readouterr().err
    with pytest.raises(ModelError, match=r"no model.safetensors"):
        train(config_for(table, name="q", model={"init_from": table.parent}))


def test_vicreg_terms():
    from pipelines.pretrain import vicreg

    torch.manual_seed(0)
    spread = torch.linalg.qr(torch.randn(64, 8) - 0.0)[0]
    spread = (spread - spread.mean(0)) * 64**0.5 * 2
    invariance, variance, covariance = vicreg(spread, spread)
    assert invariance == 0
    assert variance == 0
    assert covariance < 1
    invariance, variance, covariance = vicreg(torch.zeros(64, 8), torch.zeros(64, 8))
    assert variance == pytest.approx(25 * 0.99, rel=1e-3)
    same = torch.randn(64, 1).expand(64, 8)
    assert vicreg(same, same)[2] > 5


def test_views_differ_and_keep_their_kind():
    from pipelines.pretrain import random_view

    rng = np.random.default_rng(0)
    window = rng.integers(0, 255, (3, 256, 256), np.uint8)
    views = [random_view(window, rng) for _ in range(2)]
    assert all(v.shape == window.shape and v.dtype == np.uint8 for v in views)
    assert (views[0] != views[1]).any()
    wide = random_view(rng.integers(0, 65535, (1, 256, 256), np.uint16), rng)
    assert wide.dtype == np.uint16
