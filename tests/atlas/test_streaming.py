"""Bounded memory changes no gradient: stem in two passes, chunks recomputed."""

from __future__ import annotations

import pytest
import torch

from atlas import Atlas, Runtime, preset
from atlas.losses import task_loss
from atlas.streaming import loss_and_backward

SMALL = {"window_tokens": 4, "downsample": 2, "dim": 32, "depths": (1, 1, 1), "position_hidden": 16}


def gradients(model: Atlas) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stem_blocks": (1, 1, 1), "context": "attention"},
        {"stem": "reference"},
        {"head": "reference"},
        {"drop_path": 0.4},
        {"pixel_norm": "window"},
    ],
    ids=["slim", "blocks", "reference stem", "reference head", "drop path", "own statistics"],
)
def test_streaming_equals_plain_backward(random_batch, changes: dict):
    torch.manual_seed(0)
    cfg = preset("tiny", task="multiclass", n_outputs=3, **{**SMALL, **changes})
    model = Atlas(cfg, Runtime(chunk_windows=7, stem_windows=11)).double().train()
    batch = random_batch(
        [(500, 310), (130, 700), (64, 64)], cases=[0, 1, 1], window_px=64, dtype=torch.float64
    )
    target = torch.tensor([2, 0])

    def loss_fn(logits_BO: torch.Tensor) -> torch.Tensor:
        return task_loss("multiclass", logits_BO, target)

    torch.manual_seed(1)
    plain_loss = loss_fn(model(batch).logits_BO)
    plain_loss.backward()
    plain = gradients(model)
    torch.manual_seed(1)
    loss, out = loss_and_backward(model, batch, loss_fn, grad_scale=0.5)
    streamed = gradients(model)
    assert loss == pytest.approx(float(plain_loss.detach()), rel=1e-12)
    assert not out.logits_BO.requires_grad
    assert streamed.keys() == plain.keys()
    for name, want in plain.items():
        error = (2 * streamed[name] - want).norm() / want.norm().clamp_min(1e-12)
        assert error <= 1e-12, name
    assert not model.runtime.checkpoint


def test_scoring_in_pieces_is_scoring(random_batch):
    torch.manual_seed(0)
    model = Atlas(preset("tiny", **SMALL), Runtime(chunk_windows=5, stem_windows=6)).double().eval()
    batch = random_batch([(500, 310), (130, 700)], window_px=64, dtype=torch.float64)
    with torch.no_grad():
        pieces = model(batch, maps=True)
    model.runtime = Runtime(chunk_windows=1000, stem_windows=1000)
    whole = model(batch, maps=True)
    torch.testing.assert_close(pieces.logits_BO, whole.logits_BO, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(pieces.contribution_NTO, whole.contribution_NTO, rtol=1e-10, atol=1e-14)


def test_batch_statistics_cannot_be_streamed(random_batch):
    model = Atlas(preset("tiny", **SMALL, stem="reference", stem_norm="batch"))
    with pytest.raises(ValueError, match="BatchNorm"):
        loss_and_backward(model, random_batch([(64, 64)], window_px=64), torch.sum)
