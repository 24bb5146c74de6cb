"""Random changes of a training case: one draw a case and epoch, the same for all its windows.

Every draw is a pure function of (seed, epoch, case), so a resumed run sees what an uninterrupted one would.
Work is done on uint8 through lookup tables wherever the change is per channel, which costs next to nothing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from atlas_path.config import AugmentConfig, ImagesConfig, TrainConfig
from atlas_path.geometry import TOKEN_PX, WINDOW_PX
from pipelines.augment_alone import windows_alone
from pipelines.augment_grid import regrid
from pipelines.augment_monai import monai_change
from pipelines.data import CasePixels, WindowReader, read_case
from pipelines.data_cases import CaseRef, ImageRef
from pipelines.data_files import read_image, to_windows

# Optical density of haematoxylin, eosin and DAB in R, G, B (Ruifrok and Johnston 2001).
STAINS_RGB = np.asarray([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])


def case_rng(seed: int, epoch: int, case_id: str) -> np.random.Generator:
    """The random stream of one case in one epoch."""
    digest = hashlib.blake2b(case_id.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, epoch, int.from_bytes(digest, "little")])


def load_augmented(
    reader: WindowReader,
    case: CaseRef,
    config: TrainConfig,
    rng: np.random.Generator,
    alone: bool = False,
) -> CasePixels:
    """Read a case as one epoch of training sees it; `alone`: as windows that vote alone, each changed alone.

    Windows are dropped before reading, unless the grid moves: then all are read, and dropped afterwards. A
    plain image file is cropped and mirrored; the rest of its recipe follows on the device.
    """
    augment, most = config.augment, config.data.max_windows
    if case.images[0].is_file:
        return image_file_case(case.images[0], config.images, rng)
    if alone:
        return load_alone(reader, case, config, rng)
    if not augment.grid_shift and not augment.mpp_jitter:
        keep = draw_windows([image.n_windows for image in case.images], augment, most, rng)
        return augment_case(read_case(reader, case, keep), augment, rng)
    pixels = read_case(reader, case)
    steps = WINDOW_PX // TOKEN_PX
    shift = rng.integers(0, steps, 2) * TOKEN_PX if augment.grid_shift else (0, 0)
    zoom = 1 + float(rng.uniform(-augment.mpp_jitter, augment.mpp_jitter)) if augment.mpp_jitter else 1.0
    pixels = regrid(
        pixels, zoom, (int(shift[0]), int(shift[1])), lambda n: draw_windows([n], augment, most, rng)[0]
    )
    return augment_case(pixels, augment, rng)


def load_alone(
    reader: WindowReader, case: CaseRef, config: TrainConfig, rng: np.random.Generator
) -> CasePixels:
    """The windows of a case that vote alone in one epoch: `optim.window_draw` of them, or the usual share."""
    augment, most, draw = config.augment, config.data.max_windows, config.optim.window_draw
    if draw is not None:
        augment, most = augment.model_copy(update={"keep_windows": (1.0, 1.0)}), min(draw, most or draw)
    keep = draw_windows([image.n_windows for image in case.images], augment, most, rng)
    return windows_alone(
        read_case(reader, case, keep),
        augment.mpp_jitter,
        augment.grid_shift,
        lambda window: augment_case(window, augment, rng),
        rng,
    )


def image_file_case(ref: ImageRef, images: ImagesConfig, rng: np.random.Generator) -> CasePixels:
    """A random crop of a plain image, as a case."""
    pixels = read_image(ref.store, images.side_px, rng, images.random_crop)
    return CasePixels(
        pixels_NCHW=to_windows(pixels[None]),
        row_N=ref.row_col[:, 0].astype(np.int64),
        col_N=ref.row_col[:, 1].astype(np.int64),
        image_N=np.zeros(ref.n_windows, np.int64),
        size_I2=np.asarray([ref.size_px], np.int64),
        mpp_I2=np.asarray([ref.mpp], np.float32),
        kind_I=np.zeros(1, np.int64),
    )


def draw_windows(
    sizes: Sequence[int], config: AugmentConfig, max_windows: int | None, rng: np.random.Generator
) -> list[np.ndarray | None]:
    """Which windows are read: a random share of the case, at least one, at most `max_windows`.

    Args:
        sizes: number of windows of each image of the case.

    Returns:
        For every image the sorted indices of its chosen windows, or None for all of them.
    """
    low, high = config.keep_windows
    total = sum(sizes)
    n = max(1, round(total * float(rng.uniform(low, high))))
    n = min(n, max_windows or n)
    if n >= total:
        return [None] * len(sizes)
    chosen = np.sort(rng.permutation(total)[:n])
    bounds = np.cumsum([0, *sizes])
    return [chosen[(chosen >= a) & (chosen < b)] - a for a, b in itertools.pairwise(bounds)]


def augment_case(case: CasePixels, config: AugmentConfig, rng: np.random.Generator) -> CasePixels:
    """Dihedral change of the grid, then stain, brightness and contrast, noise, MONAI's transforms."""
    if config.dihedral:
        flip_rows, flip_cols, swap = (bool(b) for b in rng.integers(0, 2, 3))
        case = dihedral(case, flip_rows, flip_cols, swap)
    pixels = case.pixels_NCHW
    if config.stain > 0 and pixels.shape[1] == 3 and pixels.dtype == np.uint8:
        scale = 1 + rng.normal(0, 0.5 * config.stain, 3)
        shift = rng.normal(0, 0.2 * config.stain, 3)
        pixels = stain_change(pixels, scale, shift)
    if config.brightness > 0 or config.contrast > 0:
        gain = 1 + rng.uniform(-config.contrast, config.contrast)
        offset = rng.uniform(-config.brightness, config.brightness)
        pixels = brightness_change(pixels, gain, offset)
    if config.noise > 0:
        pixels = noise_change(pixels, config.noise * float(rng.uniform()), rng)
    case.pixels_NCHW = monai_change(pixels, config.monai, rng)
    return case


def dihedral(case: CasePixels, flip_rows: bool, flip_cols: bool, swap: bool) -> CasePixels:
    """Mirror and transpose whole images: windows change place and their pixels turn with them.

    An image whose size is no multiple of the window keeps its padding, which becomes part of the image when
    the padded side is no longer at the bottom or right.
    """
    window_px = case.pixels_NCHW.shape[-1]
    grid_I2 = -(-case.size_I2 // window_px)
    size_I2 = case.size_I2.copy()
    row_N, col_N, pixels = case.row_N, case.col_N, case.pixels_NCHW
    if flip_rows:
        row_N, pixels = grid_I2[case.image_N, 0] - 1 - row_N, pixels[:, :, ::-1]
        size_I2[:, 0] = grid_I2[:, 0] * window_px
    if flip_cols:
        col_N, pixels = grid_I2[case.image_N, 1] - 1 - col_N, pixels[:, :, :, ::-1]
        size_I2[:, 1] = grid_I2[:, 1] * window_px
    mpp_I2 = case.mpp_I2
    if swap:
        row_N, col_N, pixels = col_N, row_N, pixels.swapaxes(2, 3)
        size_I2, mpp_I2 = size_I2[:, ::-1].copy(), mpp_I2[:, ::-1].copy()
    return CasePixels(pixels, row_N, col_N, case.image_N, size_I2, mpp_I2, case.kind_I)


def brightness_change(pixels: np.ndarray, gain: float, offset: float) -> np.ndarray:
    """value -> (value - middle) * gain + middle + offset, in units of full scale, clipped; dtype is kept."""
    if pixels.dtype == np.uint8:
        table = ((np.arange(256) / 255 - 0.5) * gain + 0.5 + offset) * 255
        return _lookup(pixels, np.clip(np.rint(table), 0, 255).astype(np.uint8))
    top = _top(pixels)
    changed = (pixels.astype(np.float32) / top - 0.5) * gain + 0.5 + offset
    return np.asarray(np.clip(changed, 0, 1) * top, pixels.dtype)


def stain_change(pixels_NCHW: np.ndarray, scale_3: np.ndarray, shift_3: np.ndarray) -> np.ndarray:
    """Scale and shift the amounts of haematoxylin, eosin and DAB (Tellez et al. 2018, HED jitter).

    Args:
        pixels_NCHW: uint8 RGB.
        scale_3: factor of each stain's amount.
        shift_3: added to each stain's amount where there is tissue: glass (no absorbance) stays glass.
    """
    unit = STAINS_RGB / np.linalg.norm(STAINS_RGB, axis=1, keepdims=True)
    density = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    matrix = (np.linalg.inv(unit) @ np.diag(scale_3) @ unit).T.astype(np.float32)
    shift = (shift_3 @ unit).astype(np.float32)
    out = np.empty(pixels_NCHW.shape, np.uint8)
    for source, target in zip(pixels_NCHW, out, strict=True):
        od_PC = density[source.reshape(3, -1)]
        tissue_P = np.minimum(od_PC.mean(0) / 0.15, 1.0)
        changed = matrix @ od_PC + shift[:, None] * tissue_P
        target[...] = np.clip(256 * np.exp(-changed) - 1 + 0.5, 0, 255).reshape(source.shape)
    return out


def noise_change(pixels: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation `sigma` (relative to full scale), clipped; dtype is kept."""
    top = _top(pixels)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * (sigma * top)
    return np.clip(pixels.astype(np.float32) + noise, 0, top).astype(pixels.dtype)


def _top(pixels: np.ndarray) -> float:
    return float(np.iinfo(pixels.dtype).max) if np.issubdtype(pixels.dtype, np.integer) else 1.0


def _lookup(pixels: np.ndarray, table_256: np.ndarray) -> np.ndarray:
    """`table_256[pixels]`, by OpenCV: about five times quicker than numpy's indexing."""
    flat = np.ascontiguousarray(pixels)
    return np.asarray(cv2.LUT(flat.reshape(-1, flat.shape[-1]), table_256)).reshape(flat.shape)
