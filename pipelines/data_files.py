"""Plain image files as cases: decoded to a square and cut into windows, without a store in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from atlas_path.cohort import Cohort
from atlas_path.config import DataConfig, ImagesConfig
from atlas_path.errors import UnreadableSlideError
from atlas_path.geometry import WINDOW_PX
from pipelines.data_cases import FILE_LEVEL, CaseRef, FoundCases, ImageRef

CROP_TRIES = 10


def find_image_cases(cohort: Cohort, data: DataConfig, images: ImagesConfig) -> FoundCases:
    """Every image of a folder cohort as a full grid of windows of the side asked for."""
    side = images.side_px
    n = side // WINDOW_PX
    grid = np.argwhere(np.ones((n, n), bool)).astype(np.int32)
    cases = {}
    for case in cohort.cases:
        path = cohort.file(case.images[0])
        assert path is not None
        ref = ImageRef(case.images[0].image_id, path, FILE_LEVEL, (side, side), (data.mpp, data.mpp), grid)
        cases[case.case_id] = CaseRef(case.case_id, (ref,))
    return FoundCases(cases, [], {case.images[0].image_id: {} for case in cohort.cases}, [])


def read_image(
    path: Path, side_px: int, rng: np.random.Generator | None, scale: tuple[float, float]
) -> np.ndarray:
    """An image as (3, side, side) uint8 RGB.

    Without `rng`: the centre square, resized. With it: a random part (area share within `scale`, aspect 3/4
    to 4/3, as Szegedy et al. 2015), resized, and mirrored half of the time.

    Raises:
        UnreadableSlideError: not an image.
    """
    decoded = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if decoded is None:
        raise UnreadableSlideError(path, "not an image that can be decoded", "remove it or save it again")
    height, width = decoded.shape[:2]
    if rng is None:
        side = min(height, width)
        y, x, h, w = (height - side) // 2, (width - side) // 2, side, side
    else:
        y, x, h, w = _random_box(height, width, rng, scale)
    part = decoded[y : y + h, x : x + w]
    shrinks = max(h, w) > side_px
    resized = cv2.resize(
        part, (side_px, side_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    if rng is not None and rng.random() < 0.5:
        resized = resized[:, ::-1]
    return np.ascontiguousarray(resized[:, :, ::-1].transpose(2, 0, 1))


def _random_box(
    height: int, width: int, rng: np.random.Generator, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def file_windows(image: ImageRef, row_col: np.ndarray) -> np.ndarray:
    """Windows (n, 3, 256, 256) of the image's centre square."""
    side = image.size_px[0]
    windows = to_windows(read_image(image.store, side, None, (1.0, 1.0))[None])
    return np.asarray(windows[row_col[:, 0] * (side // WINDOW_PX) + row_col[:, 1]])


def to_windows(images_BCHW: Any) -> Any:
    """(B, C, H, W) to (B * rows * cols, C, 256, 256), row-major; numpy or torch."""
    b, c, h, w = images_BCHW.shape
    rows, cols = h // WINDOW_PX, w // WINDOW_PX
    split = images_BCHW.reshape(b, c, rows, WINDOW_PX, cols, WINDOW_PX)
    order = (0, 2, 4, 1, 3, 5)
    moved = split.permute(order) if isinstance(split, Tensor) else split.transpose(order)
    return moved.reshape(b * rows * cols, c, WINDOW_PX, WINDOW_PX)


def to_images(windows_NCHW: Tensor, n_images: int) -> Tensor:
    """The inverse of `to_windows` for square images."""
    c = windows_NCHW.shape[1]
    n = round((len(windows_NCHW) / n_images) ** 0.5)
    split = windows_NCHW.reshape(n_images, n, n, c, WINDOW_PX, WINDOW_PX)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(n_images, c, n * WINDOW_PX, n * WINDOW_PX)
