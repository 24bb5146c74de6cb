"""Windows that vote alone are changed alone: each becomes an image of its own, with its own random change.

While every window learns the label of its case by itself (`optim.window_epochs`) there is no grid to keep
consistent. One draw a window instead of one a case shows the model many more different pictures in a step,
which is what finds rare evidence among few patients, and keeps it from learning single fields by heart.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from pipelines.data import CasePixels

SHIFT_SHARE = 0.125  # of a window's side: the most that `grid_shift` moves a window that is alone


def windows_alone(
    case: CasePixels,
    mpp_jitter: float,
    shift: bool,
    change: Callable[[CasePixels], CasePixels],
    rng: np.random.Generator,
) -> CasePixels:
    """Every window of a case as an image of its own, resampled and changed by its own draw.

    Args:
        case: windows of any images.
        mpp_jitter: resampled about the middle by up to this share; the true mpp is kept.
        shift: move by up to an eighth of a window, too.
        change: the other augmentations, for a case of one window.
        rng: the random stream of the case.
    """
    side = case.pixels_NCHW.shape[-1]
    place_N2 = np.stack([case.row_N, case.col_N], axis=1)
    inside_N2 = np.minimum(side, case.size_I2[case.image_N] - side * place_N2)
    parts = []
    for i, image in enumerate(case.image_N):
        zoom = 1 + float(rng.uniform(-mpp_jitter, mpp_jitter))
        most = SHIFT_SHARE * side if shift else 0.0
        move = rng.uniform(-most, most, 2)
        pixels_CHW, size_2 = case.pixels_NCHW[i], inside_N2[i]
        if mpp_jitter or shift:
            pixels_CHW = _resampled(pixels_CHW, tuple(size_2), zoom, move)
            size_2 = np.asarray([side, side])
        zero = np.zeros(1, np.int64)
        alone = CasePixels(
            pixels_CHW[None],
            zero,
            zero,
            zero,
            size_2[None],
            case.mpp_I2[image][None] * np.float32(zoom),
            case.kind_I[image][None],
        )
        parts.append(change(alone))
    n = np.arange(len(parts))
    return CasePixels(
        np.concatenate([part.pixels_NCHW for part in parts]),
        np.zeros_like(n),
        np.zeros_like(n),
        n,
        np.concatenate([part.size_I2 for part in parts]),
        np.concatenate([part.mpp_I2 for part in parts]),
        np.concatenate([part.kind_I for part in parts]),
    )


def _resampled(pixels_CHW: np.ndarray, inside: tuple[int, int], zoom: float, move: np.ndarray) -> np.ndarray:
    """Resample about the middle of the part that lies in the image; what lies beyond it is mirrored."""
    side, (height, width) = pixels_CHW.shape[-1], inside
    middle = np.asarray([(height - 1) / 2, (width - 1) / 2]) + move
    start = middle - zoom * (side - 1) / 2
    matrix = np.asarray([[zoom, 0, start[1]], [0, zoom, start[0]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    planes = [
        cv2.warpAffine(
            plane[:height, :width], matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )
        for plane in pixels_CHW
    ]
    return np.stack(planes)
