"""Augmentation: one draw a case, pixels and places move together, seeded, colour changes spare glass."""

from __future__ import annotations

import numpy as np
import pytest

from atlas_path.config import AugmentConfig
from atlas_path.errors import ConfigError
from pipelines.augment import (
    augment_case,
    brightness_change,
    case_rng,
    dihedral,
    draw_windows,
    noise_change,
    stain_change,
)
from pipelines.augment_grid import regrid, select
from pipelines.augment_monai import monai_change
from pipelines.data import CasePixels

OFF = {"dihedral": False, "keep_windows": (1, 1), "brightness": 0, "contrast": 0}


def picture(height=600, width=900, seed=0, low=0) -> np.ndarray:
    """A smooth picture (3, h, w), different everywhere."""
    y, x = np.mgrid[:height, :width] / 100.0
    return (
        np.stack([128 + 100 * np.sin(y + k) * np.cos(x * (1 + k / 3)) for k in range(3)])
        .clip(low, 255)
        .astype(np.uint8)
    )


def as_case(image: np.ndarray) -> CasePixels:
    """All windows of one picture; padding is white."""
    c, h, w = image.shape
    rows, cols = -(-h // 256), -(-w // 256)
    padded = np.full((c, rows * 256, cols * 256), 255, np.uint8)
    padded[:, :h, :w] = image
    places = np.argwhere(np.ones((rows, cols)))
    windows = np.stack([padded[:, r * 256 : r * 256 + 256, k * 256 : k * 256 + 256] for r, k in places])
    n = len(places)
    return CasePixels(
        windows, places[:, 0], places[:, 1], np.zeros(n, np.int64), np.asarray([[h, w]]),
        np.asarray([[0.5, 1.0]], np.float32), np.zeros(1, np.int64),
    )  # fmt: skip


def as_image(case: CasePixels) -> np.ndarray:
    """The picture that windows lie on, white where there is none."""
    rows, cols = case.row_N.max() + 1, case.col_N.max() + 1
    out = np.full((case.pixels_NCHW.shape[1], rows * 256, cols * 256), 255, case.pixels_NCHW.dtype)
    for window, r, k in zip(case.pixels_NCHW, case.row_N, case.col_N, strict=True):
        out[:, r * 256 : r * 256 + 256, k * 256 : k * 256 + 256] = window
    return out


@pytest.mark.parametrize("flips", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_dihedral_is_the_change_of_the_whole_picture(flips):
    case = as_case(picture())
    expected = as_image(case)
    if flips[0]:
        expected = expected[:, ::-1]
    if flips[1]:
        expected = expected[:, :, ::-1]
    if flips[2]:
        expected = expected.swapaxes(1, 2)
    changed = dihedral(case, *(bool(f) for f in flips))
    np.testing.assert_array_equal(as_image(changed), expected)
    assert changed.mpp_I2.tolist() == ([[1.0, 0.5]] if flips[2] else [[0.5, 1.0]])
    assert (changed.size_I2[0] <= np.asarray(expected.shape[1:])).all()


def test_shifted_grid_shows_the_same_pixels():
    case = as_case(picture())
    shifted = regrid(case, 1.0, (48, 112))
    image = as_image(shifted)
    np.testing.assert_array_equal(image[:, 48 : 48 + 600, 112 : 112 + 900], picture())
    assert shifted.size_I2.tolist() == [[648, 1012]]
    assert (image[:, :48] == 255).all()


def test_rescaled_grid_keeps_physical_size():
    case = as_case(picture())
    for zoom in (0.9, 1.1):
        changed = regrid(case, zoom, (16, 32))
        assert changed.mpp_I2[0] == pytest.approx(np.asarray([0.5, 1.0]) * zoom)
        image = as_image(changed).astype(float)
        y, x = np.mgrid[100:400:37, 150:600:53]
        source_y, source_x = (y - 16 + 0.5) * zoom - 0.5, (x - 32 + 0.5) * zoom - 0.5
        expected = picture().astype(float)[:, source_y.round().astype(int), source_x.round().astype(int)]
        assert np.abs(image[:, y, x] - expected).max() < 4


def test_regrid_without_most_windows_keeps_what_lies_on_tissue():
    case = select(as_case(picture()), np.asarray([4]))
    shifted = regrid(case, 1.0, (128, 128))
    assert len(shifted.row_N) == 4
    places = set(zip(shifted.row_N.tolist(), shifted.col_N.tolist(), strict=True))
    assert places == {(1, 0), (1, 1), (2, 0), (2, 1)}


def test_regrid_of_chosen_windows_is_the_choice_of_all():
    case = as_case(picture())
    for kept in (np.asarray([0, 3, 7]), np.asarray([5])):
        some, every = regrid(case, 0.9, (48, 112), lambda _n, kept=kept: kept), regrid(case, 0.9, (48, 112))
        expected = select(every, kept)
        for name in ("pixels_NCHW", "row_N", "col_N", "image_N", "size_I2", "mpp_I2", "kind_I"):
            np.testing.assert_array_equal(getattr(some, name), getattr(expected, name), err_msg=name)


def test_draw_windows_respects_share_and_limit():
    config = AugmentConfig(keep_windows=(0.5, 0.5))
    first, second = draw_windows([10, 10], config, None, np.random.default_rng(0))
    assert len(first) + len(second) == 10
    assert draw_windows([10, 10], AugmentConfig(keep_windows=(1, 1)), None, np.random.default_rng(0)) == [
        None,
        None,
    ]
    limited = draw_windows([10, 10], config, 3, np.random.default_rng(0))
    assert sum(len(k) for k in limited) == 3
    assert (
        sum(
            len(k)
            for k in draw_windows([1], AugmentConfig(keep_windows=(0.1, 0.1)), None, np.random.default_rng(0))
            if k is not None
        )
        <= 1
    )


def test_same_seed_epoch_and_case_give_the_same_pixels():
    config = AugmentConfig(stain=0.5, noise=0.05)
    runs = [augment_case(as_case(picture()), config, case_rng(3, 5, "c")).pixels_NCHW for _ in range(2)]
    np.testing.assert_array_equal(*runs)
    other = augment_case(as_case(picture()), config, case_rng(3, 6, "c")).pixels_NCHW
    assert (runs[0] != other).any()


def test_stain_jitter_is_one_change_for_a_case_and_spares_glass():
    case = as_case(picture(low=60))
    changed = augment_case(case, AugmentConfig(**OFF, stain=1.0), case_rng(0, 0, "c")).pixels_NCHW
    original = as_case(picture(low=60)).pixels_NCHW
    table: dict[tuple, tuple] = {}
    for a, b in zip(
        original.reshape(-1, 3, 65536).swapaxes(1, 2)[:, ::97].reshape(-1, 3),
        changed.reshape(-1, 3, 65536).swapaxes(1, 2)[:, ::97].reshape(-1, 3),
        strict=True,
    ):
        assert table.setdefault(tuple(a), tuple(b)) == tuple(b)
    assert np.abs(changed.astype(int) - original).mean() > 2
    glass = np.full((1, 3, 256, 256), 255, np.uint8)
    assert (stain_change(glass, np.full(3, 1.5), np.full(3, 0.3)) == 255).all()


def test_stain_change_of_nothing_is_nothing():
    pixels = as_case(picture()).pixels_NCHW
    same = stain_change(pixels, np.ones(3), np.zeros(3))
    assert np.abs(same.astype(int) - pixels).max() <= 1


def test_brightness_table_equals_arithmetic_and_sixteen_bit_keeps_its_type():
    pixels = as_case(picture()).pixels_NCHW
    wanted = np.clip(((pixels / 255 - 0.5) * 1.2 + 0.45) * 255, 0, 255)
    assert np.abs(brightness_change(pixels, 1.2, -0.05) - wanted).max() <= 0.51
    wide = pixels.astype(np.uint16) * 257
    changed = brightness_change(wide, 1.2, -0.05)
    assert changed.dtype == np.uint16
    assert np.abs(changed / 257.0 - wanted).max() < 1.1


def test_noise_has_the_size_asked_for():
    flat = np.full((2, 3, 256, 256), 128, np.uint8)
    noisy = noise_change(flat, 0.05, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.05)


def test_monai_transform_draws_once_a_case():
    rng = np.random.default_rng(0)
    window = picture(256, 256)
    pixels = np.stack([window, window])
    asked = [
        {"name": "RandAdjustContrast", "prob": 1.0, "gamma": [0.5, 2.0]},
        {"name": "RandGaussianSmooth", "prob": 1.0},
    ]
    changed = monai_change(pixels, asked, rng)
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(changed[0], changed[1])
    assert (changed[0] != window).any()
    again = monai_change(pixels, asked, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, again)
    with pytest.raises(ConfigError, match="'Normalise' is no random MONAI transform"):
        monai_change(pixels, [{"name": "Normalise"}], rng)
    with pytest.raises(ConfigError, match="RandGaussianNoise"):
        monai_change(pixels, [{"name": "RandGaussianNoise", "loudness": 3}], rng)
