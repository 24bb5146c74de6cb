"""Maps add up, agree with exact removal, and point at evidence that was planted."""

from __future__ import annotations

import pytest
import torch

from atlas import Atlas, WindowBatch, preset
from atlas.attribution import attention, contributions, integrated_gradients, occlusion

SMALL = {"window_tokens": 4, "downsample": 2, "dim": 32, "depths": (1, 1, 1), "position_hidden": 16}


def small_model(**changes) -> Atlas:
    torch.manual_seed(0)
    return Atlas(preset("tiny", **{**SMALL, **changes})).double().eval()


def planted(random_batch) -> tuple[WindowBatch, int]:
    """A grey image with one bright window; the index of that window."""
    batch = random_batch([(256, 256)], keep=1.0, window_px=64, dtype=torch.float64)
    batch.pixels_NCHW = torch.full_like(batch.pixels_NCHW, 0.5)
    bright = 5
    batch.pixels_NCHW[bright] = torch.rand(3, 64, 64, dtype=torch.float64)
    return batch, bright


def test_maps_of_either_head(random_batch):
    batch = random_batch([(200, 130), (64, 64)], window_px=64, dtype=torch.float64)
    model = small_model(task="multiclass", n_outputs=3)
    shape = (len(batch), 16, 3)
    assert contributions(model, batch).shape == shape
    assert attention(model, batch).shape == shape
    assert integrated_gradients(model, batch, steps=2).shape == shape
    mean_head = small_model(head="reference")
    assert integrated_gradients(mean_head, batch, steps=2).shape == (len(batch), 16, 1)
    for method in (contributions, attention):
        with pytest.raises(ValueError, match="reference"):
            method(mean_head, batch)


def test_integrated_gradients_are_complete(random_batch):
    from atlas.attribution import featureless_token
    from atlas.layout import WindowTree

    model = small_model()
    batch = random_batch([(200, 130), (64, 64)], window_px=64, dtype=torch.float64)
    tree = WindowTree.of(batch, model.cfg)
    start = featureless_token(model).expand(len(batch), 16, -1)
    difference_B = (model(batch).logits_BO - model.read(start, tree).logits_BO)[:, 0].detach()
    maps_N = integrated_gradients(model, batch, steps=32).sum((1, 2))
    total_B = torch.zeros(2, dtype=torch.float64).index_add(0, batch.case_I[batch.image_N], maps_N)
    torch.testing.assert_close(total_B, difference_B, rtol=1e-3, atol=1e-6)


def test_maps_point_at_planted_evidence(random_batch):
    """Contributions (against the others), integrated gradients and removal agree on the window."""
    model = small_model()
    batch, bright = planted(random_batch)
    for found in (integrated_gradients(model, batch), occlusion(model, batch, top=16)):
        assert int(found.abs().sum((1, 2)).argmax()) == bright
    flat = contributions(model, batch)
    middle = flat - flat.median(dim=0, keepdim=True).values
    assert int(middle.abs().sum((1, 2)).argmax()) == bright


def test_occlusion_is_the_change_by_removal(random_batch):
    model = small_model()
    batch = random_batch([(256, 256), (64, 128)], cases=[0, 1], window_px=64, keep=0.7, dtype=torch.float64)
    found = occlusion(model, batch, top=100)
    case_N = batch.case_I[batch.image_N]
    for i in range(len(batch)):
        if int((case_N == case_N[i]).sum()) == 1:
            continue
        keep = torch.arange(len(batch)) != i
        change = model(batch).logits_BO - model(batch.select(keep)).logits_BO
        assert float(found[i].sum()) == pytest.approx(float(change[case_N[i]].detach()), abs=1e-12)
