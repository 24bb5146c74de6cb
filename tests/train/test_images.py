"""Image-folder cohorts and the published recipe, on images the test makes."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from atlas_path.config import ImagesConfig, TrainConfig, load_train_config
from atlas_path.errors import CohortError, UnreadableSlideError
from pipelines.data_files import read_image, to_images, to_windows


@pytest.fixture
def image_folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 6), ("val", 3)):
        for name, colour in (("cat", (40, 200, 40)), ("dog", (200, 40, 200))):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                picture = np.full((300, 340, 3), colour, np.uint8) + rng.integers(
                    0, 30, (300, 340, 3), np.uint8
                )
                cv2.imwrite(str(folder / f"{i}.jpg"), picture)
    return tmp_path / "images"


def folder_config(folder, **sections) -> TrainConfig:
    values = {
        "name": "r",
        "cohort": folder,
        "out": folder.parent / "runs",
        "task": {"kind": "multiclass"},
        "images": {"side_px": 256},
        "model": {"options": {"dim": 32, "evidence_hidden": 16, "stem_width": 8}, "normalise": "imagenet"},
        "optim": {"epochs": 1, "cases_per_step": 4, "cases_per_pass": 4},
        "runtime": {"device": "cpu", "threads": 1, "memory": "plain"},
    }
    for section, content in sections.items():
        values[section] = {**values.get(section, {}), **content}
    return TrainConfig.model_validate(values)


def test_windows_and_images_are_inverse():
    images = torch.arange(2 * 3 * 512 * 512, dtype=torch.int32).reshape(2, 3, 512, 512)
    windows = to_windows(images)
    assert windows.shape == (8, 3, 256, 256)
    assert torch.equal(windows[1], images[0, :, :256, 256:])
    assert torch.equal(to_images(windows, 2), images)


def test_centre_and_random_crop(tmp_path):
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[:, 100:300] = (0, 0, 255)  # BGR red, exactly the centre square
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), picture)
    centre = read_image(path, 256, None, (1, 1))
    assert centre.shape == (3, 256, 256)
    assert (centre[0] == 255).all()
    assert (centre[1:] == 0).all()
    draws = [read_image(path, 256, np.random.default_rng(k), (0.08, 0.3)) for k in range(6)]
    assert len({d.tobytes() for d in draws}) > 1
    np.testing.assert_array_equal(draws[0], read_image(path, 256, np.random.default_rng(0), (0.08, 0.3)))
    path.write_text("no image")
    with pytest.raises(UnreadableSlideError, match="not an image"):
        read_image(path, 256, None, (1, 1))


def test_folder_trains_and_scores_every_validation_image(image_folder, capsys):
    from atlas import load_model
    from pipelines.train import train

    run_dir = train(folder_config(image_folder))
    _, info = load_model(run_dir)
    assert info["task"]["classes"] == ["cat", "dog"]
    assert "tune: 6 patients, 6 cases" in capsys.readouterr().err
    epoch = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()][-1]
    assert epoch["tune_accuracy"] is not None
    assert info["tuning"]["n"] == 6


def test_recipe_mixes_and_erases(image_folder):
    pytest.importorskip("kornia")
    from atlas import WindowBatch
    from pipelines.images import ImageRecipe

    torch.manual_seed(0)
    pixels = torch.randint(0, 255, (4, 3, 256, 256), dtype=torch.uint8)
    zero = torch.zeros(4, dtype=torch.int64)

    def batch() -> WindowBatch:
        return WindowBatch(
            pixels, zero, zero, torch.arange(4), torch.full((4, 2), 256), torch.ones(4, 2), torch.arange(4)
        )

    target = torch.tensor([0, 1, 2, 0])
    for config in (
        ImagesConfig(mixup=0.8),
        ImagesConfig(cutmix=1.0),
        ImagesConfig(mixup=0.8, cutmix=1.0, randaugment=9, erasing=1.0),
    ):
        changed, soft = ImageRecipe(config, 3)(batch(), target)
        assert changed.pixels_NCHW.shape == pixels.shape
        assert changed.pixels_NCHW.min() >= 0
        assert changed.pixels_NCHW.max() <= 1
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
        assert soft.shape == (4, 3)
    plain, hard = ImageRecipe(ImagesConfig(), 3)(batch(), target)
    torch.testing.assert_close(plain.pixels_NCHW * 255, pixels.float())
    assert hard.argmax(1).tolist() == target.tolist()


def test_the_published_recipe_runs_small(image_folder, repository):
    pytest.importorskip("kornia")
    from pipelines.train import train

    published = load_train_config(repository / "configs" / "hr_in100_atlas_b_1024.yaml")
    assert (published.optim.lr, published.optim.weight_decay, published.optim.cases_per_step) == (
        5e-4,
        0.24,
        2048,
    )
    values = published.model_dump()
    values["cohort"], values["out"] = image_folder, image_folder.parent / "runs"
    values["images"]["side_px"] = 512
    values["data"] |= {"workers": 0}
    values["model"]["sync_batchnorm"] = False
    values["model"]["options"] |= {"dim": 32, "heads": 2, "depths": (1, 1), "position_hidden": 16}
    values["optim"] |= {"epochs": 1, "cases_per_step": 8, "cases_per_pass": 4}
    values["runtime"] |= {"device": "cpu", "threads": 1}
    run_dir = train(TrainConfig.model_validate(values))
    losses = [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("layout", ["empty", "flat"])
def test_folders_without_the_layout_are_refused(tmp_path, layout):
    from atlas_path.cohort import read_cohort

    if layout == "flat":
        (tmp_path / "val" / "cat").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "val" / "cat" / "a.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(CohortError, match="no images under train"):
        read_cohort(tmp_path, ["label"])
