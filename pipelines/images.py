"""The published training recipe for image folders: RandAugment, mixup or cutmix, erasing, on the device.

Random augmentations are kornia's (Apache-2.0; an optional install). Cropping and mirroring happen where
images are read (`data_files`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas import WindowBatch
from atlas_path.cohort import Targets
from atlas_path.config import ImagesConfig, TrainConfig
from atlas_path.errors import UsageError
from pipelines.data_files import to_images, to_windows

RANDAUGMENT_STEPS = 30 / 10
"""kornia counts magnitudes to 30, the recipes of the field to 10."""


class ImageRecipe:
    """RandAugment, then mixup or cutmix, then erasing, on whole images; draws from torch's generator.

    Args:
        images: strengths; 0 switches a part off.
        n_classes: width of the soft targets.
    """

    def __init__(self, images: ImagesConfig, n_classes: int) -> None:
        try:
            import kornia.augmentation as library
            from kornia.augmentation.auto import RandAugment
        except ImportError as error:
            raise UsageError(
                "images", "kornia is not installed", "pip install 'atlas-path[images]'"
            ) from error
        self.images, self.n_classes = images, n_classes
        self.randaugment = (
            RandAugment(2, round(images.randaugment * RANDAUGMENT_STEPS)) if images.randaugment else None
        )
        self.mixup = library.RandomMixUpV2(data_keys=["input", "class"]) if images.mixup else None
        self.cutmix = (
            library.RandomCutMixV2(data_keys=["input", "class"], beta=images.cutmix, use_correct_lambda=True)
            if images.cutmix
            else None
        )
        self.erasing = library.RandomErasing(p=images.erasing) if images.erasing else None

    def __call__(self, batch: WindowBatch, target_B: Tensor) -> tuple[WindowBatch, Tensor]:
        """Changed pixels (float, 0..1) and soft targets (B, classes)."""
        n = len(target_B)
        images_BCHW = to_images(batch.pixels_NCHW, n).float() / 255
        if self.randaugment is not None:
            images_BCHW = self.randaugment(images_BCHW)
        images_BCHW, soft_BK = self._mix(images_BCHW, target_B)
        if self.erasing is not None:
            images_BCHW = self.erasing(images_BCHW)
        batch.pixels_NCHW = to_windows(images_BCHW.clamp(0, 1))
        return batch, soft_BK

    def _mix(self, images_BCHW: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix, whichever a coin says when both are on."""
        choices: list[Any] = [mixer for mixer in (self.mixup, self.cutmix) if mixer is not None]
        if not choices or len(target_B) < 2:
            return images_BCHW, F.one_hot(target_B, self.n_classes).float()
        mixer: Any = choices[int(torch.randint(len(choices), ()))]
        by_mixup = mixer is self.mixup
        if by_mixup:
            parameters = mixer.forward_parameters(images_BCHW.shape)
            beta = torch.distributions.Beta(self.images.mixup, self.images.mixup)
            parameters["mixup_lambdas"] = beta.sample(parameters["mixup_lambdas"].shape).to(images_BCHW)
            mixed, labels = mixer(images_BCHW, target_B, params=parameters)
        else:
            mixed, labels = mixer(images_BCHW, target_B)
            labels = labels[0]
        first, second = (F.one_hot(labels[:, k].long(), self.n_classes).float() for k in (0, 1))
        share_B1 = labels[:, 2:3].float()
        return mixed, first * (1 - share_B1) + second * share_B1


def image_recipe(config: TrainConfig, targets: Targets) -> ImageRecipe | None:
    """The recipe of a folder cohort; None where nothing is asked for, or images are not plain files."""
    images = config.images
    asked = images.randaugment or images.mixup or images.cutmix or images.erasing
    return ImageRecipe(images, targets.n_outputs) if asked and config.cohort.is_dir() else None
