"""A saved model is the same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from atlas import Atlas, AtlasConfig, load_model, preset, save_model


def test_round_trip_gives_the_same_logits(tmp_path: Path, random_batch):
    torch.manual_seed(0)
    model = Atlas(preset("tiny", task="multiclass", n_outputs=3, pixel_mean=(0.7, 0.5, 0.6)))
    batch = random_batch([(700, 900), (300, 200)])
    model(batch)  # in training mode: notes how many scales it has seen
    model.eval()
    save_model(
        tmp_path / "run", model, {"mpp": 1.0, "task": {"kind": "multiclass", "classes": ["a", "b", "c"]}}
    )
    loaded, info = load_model(tmp_path / "run")
    assert info["mpp"] == 1.0
    assert info["architecture"]["dim"] == model.cfg.dim
    assert loaded.trained_scales == model.trained_scales == 2
    assert not loaded.training
    torch.testing.assert_close(loaded(batch).logits_BO, model(batch).logits_BO, rtol=0, atol=0)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["model.json", "model.safetensors"]


def test_faults_are_named(tmp_path: Path):
    model = Atlas(preset("tiny"))
    with pytest.raises(ValueError, match="format"):
        save_model(tmp_path, model, {"format": "x"})
    with pytest.raises(FileNotFoundError, match=r"model\.json"):
        load_model(tmp_path / "nowhere")
    save_model(tmp_path, model)
    info = json.loads((tmp_path / "model.json").read_text())
    info["architecture"]["dim"] = 96
    (tmp_path / "model.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="do not fit"):
        load_model(tmp_path)
    info["format"] = "other/1"
    (tmp_path / "model.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="other/1"):
        load_model(tmp_path)


def test_config_names_its_faults():
    with pytest.raises(ValueError, match="not one of"):
        preset("huge")
    with pytest.raises(ValueError, match="n_outputs 2"):
        AtlasConfig(task="binary", n_outputs=2)
    with pytest.raises(ValueError, match="unknown keys width"):
        AtlasConfig.from_dict({"width": 3})
    cfg = preset("B-slim", task="multilabel", n_outputs=5)
    assert AtlasConfig.from_dict(json.loads(json.dumps(cfg.as_dict()))) == cfg
