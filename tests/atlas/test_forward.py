"""The public face of the model: any task, any mixture of images and cases, sums that add up."""

from __future__ import annotations

import pytest
import torch

from atlas import Atlas, WindowBatch, preset

TASKS = [
    ("binary", 1),
    ("multiclass", 4),
    ("multilabel", 3),
    ("ordinal", 3),
    ("regression", 2),
    ("survival", 5),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t[0])
@pytest.mark.parametrize("head", ["local_evidence", "reference"])
def test_every_task_and_head(random_batch, task: tuple[str, int], head: str):
    torch.manual_seed(0)
    model = Atlas(preset("tiny", task=task[0], n_outputs=task[1], head=head))
    batch = random_batch([(500, 700), (260, 256), (90, 40)], cases=[0, 0, 1])
    out = model(batch, maps=True)
    assert out.logits_BO.shape == (2, task[1])
    assert out.logits_BO.dtype == torch.float32
    out.logits_BO.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    if task[0] == "ordinal":
        assert (out.logits_BO.diff(dim=1) < 0).all()
    if head == "reference":
        assert out.contribution_NTO is None
        return
    assert out.contribution_NTO.shape == (len(batch), 256, task[1])
    per_window_NO = out.contribution_NTO.sum(1)
    case_N = batch.case_I[batch.image_N]
    total_BO = torch.zeros_like(out.logits_BO).index_add(0, case_N, per_window_NO) + out.bias_O
    torch.testing.assert_close(total_BO, out.logits_BO, rtol=0, atol=1e-4)
    weight_B = torch.zeros(2).index_add(0, case_N, out.attention_NT.sum(1))
    torch.testing.assert_close(weight_B, torch.ones(2))


def test_order_of_windows_and_batch_mates_do_not_matter(random_batch):
    """Every case alone gives what it gives in a batch with larger and smaller images."""
    torch.manual_seed(0)
    model = Atlas(preset("tiny", image_kinds=5)).double().eval()
    torch.nn.init.normal_(model.kind.weight)
    batch = random_batch(
        [(200, 300), (1500, 1100), (700, 300), (256, 256)], cases=[0, 1, 0, 2], dtype=torch.float64
    )
    batch.embed_I = torch.tensor([3, 1, 0, 4])
    together = model(batch, maps=True)
    for case in range(3):
        images = torch.nonzero(batch.case_I == case)[:, 0]
        alone_N = torch.isin(batch.image_N, images)
        order = torch.nonzero(alone_N)[:, 0].flip(0)
        part = batch.select(order)
        renumber = torch.full((4,), -1)
        renumber[images] = torch.arange(len(images))
        alone = model(
            WindowBatch(
                part.pixels_NCHW, part.row_N, part.col_N, renumber[part.image_N], batch.size_I2[images],
                batch.mpp_I2[images], torch.zeros(len(images), dtype=torch.long), batch.embed_I[images],
            ),
            maps=True,
        )  # fmt: skip
        torch.testing.assert_close(alone.logits_BO[0], together.logits_BO[case], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            alone.contribution_NTO, together.contribution_NTO[order], rtol=1e-10, atol=1e-13
        )


def test_pixels_of_any_kind(random_batch):
    model = Atlas(preset("tiny", in_channels=1, pixel_max=4095.0)).eval()
    batch = random_batch([(600, 600)], channels=1)
    as_float = batch.pixels_NCHW.float() / 255
    want = model(batch).logits_BO
    batch.pixels_NCHW = as_float
    torch.testing.assert_close(model(batch).logits_BO, want, rtol=1e-4, atol=1e-5)
    batch.pixels_NCHW = (as_float * 4095).round().to(torch.uint16)
    torch.testing.assert_close(model(batch).logits_BO, want, rtol=1e-2, atol=1e-3)


def test_bad_batches_are_named(random_batch):
    model = Atlas(preset("tiny"))
    with pytest.raises(ValueError, match="twice"):
        model(random_batch([(600, 600)], keep=1.0).select(torch.tensor([0, 0])))
    with pytest.raises(ValueError, match="no windows"):
        model(random_batch([(600, 600)]).select(torch.tensor([], dtype=torch.long)))
    batch = random_batch([(600, 600), (300, 300)])
    with pytest.raises(ValueError, match="case 1 has no windows"):
        model(batch.select(batch.image_N == 0))
    batch.row_N = batch.row_N + 3
    with pytest.raises(ValueError, match="outside its image"):
        model(batch)
    with pytest.raises(ValueError, match="pixels are"):
        model(random_batch([(600, 600)], channels=4))


def test_images_beyond_the_trained_scales(random_batch):
    """Coarser scales than any in training use the weights of the coarsest that was trained."""
    torch.manual_seed(0)
    model = Atlas(preset("tiny", depths=(1, 1, 1)))
    model(random_batch([(900, 600)]))
    assert model.trained_scales == 2
    model.eval()
    large = random_batch([(2300, 1200)], keep=0.3)
    before = model(large).logits_BO
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("stages.1.") or ".layers.2." in name:
                p.fill_(float("nan"))  # never trained: must not be read
    torch.testing.assert_close(model(large).logits_BO, before, rtol=0, atol=0)
