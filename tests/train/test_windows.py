"""Windows that vote alone: the same evidence as the whole model with even attention, and it learns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from atlas import Atlas, WindowBatch, preset


def batch_of(n=4, seed=0) -> WindowBatch:
    torch.manual_seed(seed)
    index = torch.arange(n)
    return WindowBatch(
        torch.randint(0, 255, (n, 3, 256, 256), dtype=torch.uint8), index // 2, index % 2, index // 2,
        torch.full((n // 2, 2), 512), torch.ones(n // 2, 2), torch.arange(n // 2),
    )  # fmt: skip


def test_mean_of_window_logits_is_the_logit_under_even_attention():
    from pipelines.train_windows import window_logits

    model = Atlas(preset("tiny", dim=32, evidence_hidden=16, stem_width=8)).eval()
    with torch.no_grad():
        model.head.score.zero_()  # even attention
        batch = batch_of()
        logits_WO, case_W = window_logits(model, batch)
        means = torch.stack([logits_WO[case_W == case].mean(0) for case in range(2)])
        torch.testing.assert_close(means, model(batch).logits_BO, atol=1e-4, rtol=1e-4)


def test_only_stem_and_evidence_are_taught():
    from pipelines.train_windows import window_losses

    model = Atlas(preset("tiny", dim=32, evidence_hidden=16, stem_width=8))
    known = torch.tensor([True, False])
    losses = window_losses("binary", model, batch_of(), torch.tensor([1, 0]), known, 0.0)
    assert losses.shape == (2,)
    assert losses[1] == 0
    losses.sum().backward()
    taught = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert taught == {"stem", "head"}


def test_few_windows_are_drawn_with_the_pass_seed():
    from pipelines.train_windows import some_windows

    batch = batch_of(8)
    torch.manual_seed(3)
    one = some_windows(batch, 3)
    torch.manual_seed(3)
    assert torch.equal(one.row_N, some_windows(batch, 3).row_N)
    assert len(one) == 3
    assert some_windows(batch, 8) is batch


def test_run_with_a_window_start(memory_cohort, config_for):
    from pipelines.train import train

    table = memory_cohort(n=16, rows=1, cols=1)
    optim = {"epochs": 8, "window_epochs": 6, "lr": 4e-3, "cases_per_step": 4, "cases_per_pass": 4}
    run_dir = train(config_for(table, optim=optim, augment={"contrast": 0}))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "epoch"]
    assert np.isfinite(losses).all()
    assert losses[5] < 0.6
    with pytest.raises(ValidationError, match=r"window_epochs needs model.head"):
        config_for(table, optim=optim, model={"head": "reference"})


def test_few_windows_of_every_case_are_drawn_while_they_vote_and_nothing_is_tuned(memory_cohort, config_for):
    from pipelines.train import train

    table = memory_cohort(n=16, rows=2, cols=2)
    optim = {"epochs": 3, "window_epochs": 2, "window_draw": 1, "cases_per_step": 4, "cases_per_pass": 4}
    augment = {"keep_windows": [1.0, 1.0]}
    run_dir = train(config_for(table, optim=optim, augment=augment, split={"tune": 0.25}))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert ["tune_loss" in line for line in epochs] == [False, True, True]
    assert (run_dir / "model.safetensors").exists()


def test_a_draw_is_of_that_many_windows_and_another_one_every_epoch(memory_cohort, config_for):
    from atlas_path.config import TrainConfig
    from pipelines.augment import case_rng, load_augmented
    from pipelines.data import WindowReader, read_case
    from pipelines.train_prepare import prepare

    config: TrainConfig = config_for(
        memory_cohort(n=4, rows=3, cols=3),
        augment={"keep_windows": [0.1, 0.2], "dihedral": False, "brightness": 0, "contrast": 0},
        optim={"window_epochs": 2, "window_draw": 4},
    )
    case = next(iter(prepare(config, quiet=True).found.cases.values()))
    every = [window.tobytes() for window in read_case(WindowReader(0), case).pixels_NCHW]
    drawn = []
    for epoch in range(6):
        rng = case_rng(0, epoch, "a")
        pixels = load_augmented(WindowReader(0), case, config, rng, alone=True)
        assert len(pixels.row_N) == min(4, case.n_windows)
        drawn.append(tuple(every.index(window.tobytes()) for window in pixels.pixels_NCHW))
    assert len(set(drawn)) > 1


def a_case(n=12, side=256, seed=0):
    """Windows in a row of one image, the last of which is half padding; smooth enough to be resampled."""
    from pipelines.data import CasePixels

    y, x = np.mgrid[:side, : n * side] / 60.0
    image = np.stack([128 + 100 * np.sin(y * (1 + k / 3) + k) * np.cos(x + k) for k in range(3)])
    pixels = image.astype(np.uint8).reshape(3, side, n, side).transpose(2, 0, 1, 3)
    zeros = np.zeros(n, np.int64)
    return CasePixels(
        np.ascontiguousarray(pixels), zeros, np.arange(n), zeros, np.asarray([[side, n * side - side // 2]]),
        np.asarray([[0.5, 1.0]], np.float32), np.asarray([3]),
    )  # fmt: skip


def test_windows_alone_are_images_of_their_own_and_keep_their_pixels():
    from pipelines.augment_alone import windows_alone

    case = a_case()
    alone = windows_alone(case, 0.0, False, lambda one: one, np.random.default_rng(0))
    np.testing.assert_array_equal(alone.pixels_NCHW, case.pixels_NCHW)
    assert alone.image_N.tolist() == list(range(12))
    assert set(alone.row_N) == set(alone.col_N) == {0}
    assert alone.size_I2.tolist() == [[256, 256]] * 11 + [[256, 128]]
    assert alone.mpp_I2.tolist() == [[0.5, 1.0]] * 12
    assert alone.kind_I.tolist() == [3] * 12


def test_windows_alone_are_each_turned_by_their_own_draw():
    from atlas_path.config import AugmentConfig
    from pipelines.augment import augment_case
    from pipelines.augment_alone import windows_alone

    augment, rng = AugmentConfig(brightness=0, contrast=0), np.random.default_rng(0)
    case = a_case()
    alone = windows_alone(case, 0.0, False, lambda one: augment_case(one, augment, rng), rng)
    ways = set()
    for before, after in zip(case.pixels_NCHW, alone.pixels_NCHW, strict=True):
        turned = [
            change.swapaxes(1, 2) if swap else change
            for change in (before, before[:, ::-1], before[:, :, ::-1], before[:, ::-1, ::-1])
            for swap in (False, True)
        ]
        ways.add([np.array_equal(one, after) for one in turned].index(True))
    assert len(ways) > 3


def test_windows_alone_are_resampled_about_their_middle_and_know_it():
    from pipelines.augment_alone import windows_alone

    case = a_case()
    alone = windows_alone(case, 0.2, False, lambda one: one, np.random.default_rng(1))
    zooms = alone.mpp_I2[:, 0] / 0.5
    assert zooms.min() < 0.9
    assert zooms.max() > 1.1
    assert alone.size_I2.tolist() == [[256, 256]] * 12
    for i, zoom in enumerate(zooms[:11]):
        at = np.arange(60, 196, 17)  # inside the window whatever the zoom
        there = np.rint(127.5 + (at - 127.5) * zoom).astype(int)
        expected = case.pixels_NCHW[i][:, there][:, :, there].astype(int)
        assert np.abs(alone.pixels_NCHW[i][:, at][:, :, at].astype(int) - expected).max() < 4
