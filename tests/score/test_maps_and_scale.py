"""Geometry of maps, what is explained, the cohort's colour scale, and colours."""

from __future__ import annotations

import numpy as np
import pytest

from atlas_path.errors import UsageError
from atlas_path.geometry import Mpp
from atlas_path.results import OperatingPoint, Task, decide
from pipelines.colours import AGAINST, FOR, grey_of, is_dark, paint, strength
from pipelines.explain import explained_output
from pipelines.exports.overlay import Scale, binned, nice_length_mm
from pipelines.heatmap_scale import cohort_scale, rounded
from pipelines.token_map import LevelFrame, TokenMap


def token_map(values: np.ndarray, height: int = 512, width: int = 512, mpp: float = 1.0) -> TokenMap:
    frame = LevelFrame(height, width, Mpp(mpp, mpp))
    row_col = np.argwhere(np.ones(frame.grid.shape, bool)).astype(np.int64)
    return TokenMap("x", frame, row_col, values.astype(np.float32))


def test_raster_puts_tokens_in_their_place() -> None:
    values = np.zeros((4, 256))
    values[1, 16 * 2 + 5] = 7.0  # window (0, 1), token (2, 5)
    raster = token_map(values).raster()
    assert raster.shape == (32, 32)
    assert raster[2, 16 + 5] == 7.0
    assert raster.sum() == 7.0


def test_tokens_beyond_the_level_are_cut() -> None:
    small = token_map(np.ones((4, 256)), 300, 400)
    assert small.raster().shape == (19, 25)
    assert small.tokens_inside().sum() == 19 * 25
    assert small.window_boxes_px()[-1].tolist() == [256, 256, 300, 400]


def test_peak_follows_the_sign_of_the_window() -> None:
    values = np.zeros((4, 256))
    values[0, 0], values[0, 17], values[0, 255] = 3.0, 2.0, -4.0  # the sum is positive
    values[1, 34] = -1.0
    peaks = token_map(values).peak_px()
    assert peaks[0].tolist() == [8.0, 8.0]
    assert peaks[1].tolist() == [40.0, 256 + 40.0]


def test_frames_go_there_and_back() -> None:
    frame = LevelFrame(100, 100, Mpp(2, 2), 10, 20, 4.0, 8.0, 100, 50)
    assert frame.to_slide_px(5, 5) == (30, 60)
    assert frame.to_qupath_px(5, 5) == (-70, 10)
    assert frame.from_slide_px(30, 60) == (5, 5)
    assert LevelFrame.from_dict(frame.as_dict()) == frame


def test_cells_hold_the_sum_of_their_tokens() -> None:
    values = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    values[0, 0] = np.nan
    cells = binned(values, 2)
    assert cells.shape == (4, 5)
    assert np.nansum(cells) * 4 == pytest.approx(np.nansum(values), abs=1e-4)
    assert np.isnan(binned(np.full((4, 4), np.nan, np.float32), 2)).all()


def test_scale_follows_evidence_not_tokens() -> None:
    """A few strong tokens among very many weak ones set the scale when they hold the evidence."""
    quiet = np.full((4, 256), 1e-4)
    needle = quiet.copy()
    needle[0, :8] = 10.0
    mm2 = 16 * 16 / 1e6
    scale = cohort_scale([token_map(quiet), token_map(needle)], None, 1000)
    assert scale.limit == pytest.approx(10.0 / mm2, rel=0.15)
    assert scale.bin_tokens == 1


def test_negligible_evidence_is_not_blown_up() -> None:
    """Noise that adds up to nothing must not look like evidence: a full-colour image means a logit."""
    noise = np.random.default_rng(1).normal(size=(4, 256)) * 1e-6
    scale = cohort_scale([token_map(noise)], None, 1000)
    area_mm2 = 512 * 512 / 1e6
    assert scale.limit == pytest.approx(1.0 / area_mm2, rel=0.1)
    share = noise / (16 * 16 / 1e6) / scale.limit
    assert strength(share).max() == 0.0, "nothing is coloured"


def test_large_slides_get_coarser_cells() -> None:
    values = np.zeros((16, 256))
    assert cohort_scale([token_map(values, 1024, 1024)], None, 20).bin_tokens == 4
    assert cohort_scale([token_map(values, 1024, 1024)], 3.0, 2000).limit == 3.0


@pytest.mark.parametrize(("value", "expected"), [(1.234, 1.3), (0.0451, 0.046), (90.0, 90.0), (1e-5, 1e-5)])
def test_limits_are_round_numbers(value: float, expected: float) -> None:
    assert rounded(value) == pytest.approx(expected)


def test_legends_have_readable_units() -> None:
    assert Scale(0.5, 1).shown() == (0.5, "logit per square mm")
    assert Scale(4e-5, 1).shown() == (pytest.approx(4e-3), "logit per square cm")


@pytest.mark.parametrize(("longest", "length"), [(0.9, 0.5), (1.0, 1.0), (7.3, 5.0), (0.021, 0.02)])
def test_scale_bar_lengths(longest: float, length: float) -> None:
    assert nice_length_mm(longest) == pytest.approx(length)


def test_colours_are_equally_strong_and_vanish_at_zero() -> None:
    luminance = [float(c @ np.array([0.2126, 0.7152, 0.0722])) for c in (FOR, AGAINST)]
    assert abs(luminance[0] - luminance[1]) < 0.08
    white = np.ones((1, 3))
    picture = paint(white, np.array([[-1.0, 0.0, 1.0]]))
    assert picture[0, 1].tolist() == [255, 255, 255]
    assert picture[0, 0, 2] > picture[0, 0, 0] + 100, "against is blue"
    assert picture[0, 2, 0] > picture[0, 2, 2] + 100, "for is orange"
    assert paint(white, np.array([[np.nan, 0.01, -0.02]])).min() == 255, "nothing where nothing is"


def test_tissue_shows_under_the_strongest_colour() -> None:
    stripes = grey_of(np.tile(np.array([40, 220], np.uint8), (8, 4))[..., None].repeat(3, -1))
    picture = paint(stripes, np.ones(stripes.shape)).astype(int)
    assert abs(picture[0, 0] - picture[0, 1]).max() > 60
    dark = paint(np.array([[0.0, 1.0]]), np.array([[1.0, 1.0]]), dark=True).astype(int)
    assert abs(dark[0, 0] - dark[0, 1]).max() > 60


def test_dark_images_are_known() -> None:
    assert is_dark(np.full((4, 4, 3), 10, np.uint8))
    assert not is_dark(np.full((4, 4, 3), 200, np.uint8))


def test_what_is_explained_for_each_task() -> None:
    def weights(kind: str, n: int, label: str | None, predicted: str, classes: list[str]) -> list[float]:
        task = Task(kind=kind, name="t", classes=classes)
        return explained_output(task, n, label, predicted).weight_O.round(4).tolist()

    assert weights("binary", 1, None, "no", ["no", "yes"]) == [1.0]
    assert weights("binary", 1, "no", "no", ["no", "yes"]) == [-1.0]
    assert weights("multiclass", 4, None, "c", list("abcd")) == [-0.25, -0.25, 0.75, -0.25]
    assert weights("multilabel", 2, None, "b", ["a", "b"]) == [0.0, 1.0]
    assert weights("ordinal", 2, None, "", ["a", "b", "c"]) == [0.5, 0.5]
    with pytest.raises(UsageError, match="no such class"):
        weights("binary", 1, "other", "", ["no", "yes"])


def test_decisions() -> None:
    points = [
        OperatingPoint.model_validate({"name": "youden", "class": c, "threshold": t})
        for c, t in (("a", 0.3), ("b", 0.8))
    ]
    two = Task(kind="binary", name="t", classes=["b", "a"])
    assert decide(two, [0.7, 0.3], points, None) == ("a", "0.3"), "reaching the threshold is enough"
    labels = Task(kind="multilabel", name="t", classes=["a", "b"])
    assert decide(labels, [0.4, 0.7], points, "youden") == ("a", "0.3;0.8")
    grades = Task(kind="ordinal", name="t", classes=["g1", "g2", "g3"])
    assert decide(grades, [0.4, 0.3, 0.3], [], None) == ("g2", "")
    assert decide(Task(kind="survival", name="t", classes=["0-1"]), [0.1, 0.9], [], None) == ("", "")
    with pytest.raises(UsageError, match="no such point"):
        decide(two, [0.5, 0.5], points, "other")
