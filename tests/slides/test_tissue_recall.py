"""Recall of tissue, against a truth that a person can check.

Truth of `CMU-1-Small-Region.svs`: at full resolution (0.499 um/px) a pixel is tissue when its optical
density, smoothed by 1.5 px, exceeds 0.09 in the mean or 0.06 between channels, in pieces of at least
120 um2. The outline of that rule was drawn over the slide and looked at: it follows all tissue with its
wisps, both detached flakes (upper left corner and right margin), and leaves out specks and the thread of
mucus at the left. `TISSUE_AT` and `GLASS_AT` were picked by hand from the same pictures. A window counts when
at least 1 % of it is tissue. The other stains are made from the same pixels by Beer-Lambert, so the truth
stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from atlas_path.geometry import Mpp
from atlas_path.slides import open_slide, read_thumbnail
from atlas_path.tissue import TissueMask, TissueParams, find_tissue, window_fractions

LEAST_TISSUE = 0.01
MPP = 0.499
TISSUE_AT = [(1073, 453), (623, 2093), (102, 21), (2500, 1200), (2750, 675), (150, 1100), (1325, 1900),
             (2000, 1750), (2750, 1650), (1250, 1700), (2070, 1270), (1480, 810)]  # fmt: skip
GLASS_AT = [(625, 375), (2250, 2000), (2250, 250), (75, 1500), (1500, 2200), (1700, 200), (300, 1900)]


@dataclass(frozen=True)
class Scene:
    """Optical densities of the real slide at 1 um (h, w, 3), and where tissue is at full resolution."""

    density: np.ndarray
    truth: np.ndarray

    def render(self, density: np.ndarray, glass: tuple[float, float, float] = (243, 243, 243)) -> np.ndarray:
        """The picture at 8 um/px, with the noise that JPEG leaves."""
        pixels = np.clip((np.array(glass, np.float32) + 1) * np.exp(-density) - 1, 0, 255).astype(np.uint8)
        noisy = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(pixels, 80), "RGB")
        return cv2.resize(noisy, (138, 185), interpolation=cv2.INTER_AREA)

    def find(self, thumbnail: np.ndarray) -> TissueMask:
        height, width = self.truth.shape
        mpp = Mpp(MPP * height / thumbnail.shape[0], MPP * width / thumbnail.shape[1])
        return find_tissue(thumbnail, mpp)

    def recall(self, found: TissueMask) -> float:
        height, width = self.truth.shape
        due = window_fractions(self.truth, height, width) >= LEAST_TISSUE
        kept = window_fractions(found.mask, height, width) >= LEAST_TISSUE
        return float((due & kept).sum() / due.sum())


@pytest.fixture(scope="module")
def scene(shared: Path) -> Scene:
    with open_slide(shared / "data" / "wsi" / "CMU-1-Small-Region.svs") as slide:
        pixels = slide.read_region(0, 0, 0, slide.levels[0].height_px, slide.levels[0].width_px)
    density = np.log(244.0 / (pixels.astype(np.float32) + 1))
    smooth = cv2.GaussianBlur(density, (0, 0), 1.5)
    stained = (smooth.mean(-1) > 0.09) | (smooth.max(-1) - smooth.min(-1) > 0.06)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(stained.astype(np.uint8))
    kept = stats[:, cv2.CC_STAT_AREA] >= 120 / MPP**2
    kept[0] = False
    return Scene(cv2.resize(density, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), kept[labels])


def _mix(amount: float, vector: tuple[float, float, float]) -> Callable[[np.ndarray], np.ndarray]:
    unit = np.array(vector, np.float32) / np.mean(vector)
    return lambda density: amount * np.maximum(density, 0).mean(-1, keepdims=True) * unit


STAINS = {
    "as it is": (lambda density: density, 0.995),
    "half": (lambda density: 0.5 * density, 0.995),
    "faint": (lambda density: 0.3 * density, 0.995),
    "very faint": (lambda density: 0.15 * density, 0.98),
    "dab": (_mix(1.0, (0.27, 0.57, 0.78)), 0.995),
    "dab faint": (_mix(0.3, (0.27, 0.57, 0.78)), 0.995),
    "counterstain only": (_mix(0.3, (0.65, 0.70, 0.29)), 0.995),
    "eosin only": (_mix(0.3, (0.07, 0.99, 0.11)), 0.995),
    "trichrome blue": (_mix(0.8, (0.85, 0.45, 0.15)), 0.995),
    "silver (no colour)": (_mix(1.0, (1.0, 1.0, 1.0)), 0.98),
}


@pytest.mark.parametrize(("stain", "least"), STAINS.values(), ids=STAINS.keys())
def test_recall_by_stain(scene: Scene, stain: Callable, least: float) -> None:
    found = scene.find(scene.render(stain(scene.density)))
    assert scene.recall(found) >= least
    kept = window_fractions(found.mask, *scene.truth.shape) >= LEAST_TISSUE
    assert kept.sum() <= 75  # of 108: glass is not kept wholesale


@pytest.mark.parametrize("glass", [(250, 250, 250), (235, 230, 225), (215, 214, 222), (200, 205, 200)])
def test_recall_on_tinted_glass(scene: Scene, glass: tuple[float, float, float]) -> None:
    assert scene.recall(scene.find(scene.render(scene.density, glass))) >= 0.995


def test_recall_with_uneven_light_and_noise(scene: Scene) -> None:
    thumbnail = scene.render(scene.density).astype(np.float32)
    fall = np.linspace(1, 0.94, thumbnail.shape[1], dtype=np.float32)[None, :, None] ** [0, 0.4, 1]
    assert scene.recall(scene.find((thumbnail * fall).astype(np.uint8))) >= 0.995
    noise = np.random.default_rng(0).normal(0, 3, thumbnail.shape)
    assert scene.recall(scene.find(np.clip(thumbnail + noise, 0, 255).astype(np.uint8))) >= 0.995


def test_recall_in_fluorescence(scene: Scene) -> None:
    """Dark background: the same tissue in one of two 16-bit channels, and in the blue of 8-bit RGB."""
    shine = cv2.resize(np.maximum(scene.density, 0).mean(-1), (138, 185), interpolation=cv2.INTER_AREA)
    rng = np.random.default_rng(0)
    deep = np.stack([150 + 0 * shine, 200 + 3000 * shine], -1) + rng.normal(0, 10, (185, 138, 2))
    blue = np.stack([0 * shine, 0 * shine, 90 * shine], -1) + np.abs(rng.normal(3, 1, (185, 138, 3)))
    for thumbnail in (deep.astype(np.uint16), np.clip(blue, 0, 255).astype(np.uint8)):
        found = scene.find(thumbnail)
        assert found.flags == ("fluorescence",)
        assert scene.recall(found) >= 0.995
        assert 0.3 < found.mask.mean() < 0.6


def test_hand_picked_places(shared: Path) -> None:
    with open_slide(shared / "data" / "wsi" / "CMU-1-Small-Region.svs") as slide:
        thumbnail = read_thumbnail(slide)
        height, width = slide.levels[0].height_px, slide.levels[0].width_px
    found = find_tissue(thumbnail.pixels, thumbnail.mpp)
    rows, cols = found.mask.shape
    at = {
        place: found.mask[place[0] * rows // height, place[1] * cols // width]
        for place in TISSUE_AT + GLASS_AT
    }
    assert [place for place in TISSUE_AT if not at[place]] == []
    assert [place for place in GLASS_AT if at[place]] == []
    assert found.flags == ()
    assert found.area_mm2 == pytest.approx(0.75, abs=0.08)


def test_real_fluorescence_slide(shared: Path) -> None:
    """DAPI as RGB on a dark background: the specimen is kept whole, the dark corners are not."""
    with open_slide(shared / "data" / "wsi" / "test3-DAPI-2-387.ndpi") as slide:
        thumbnail = read_thumbnail(slide)
    found = find_tissue(thumbnail.pixels, thumbnail.mpp)
    assert found.flags == ("fluorescence",)
    nuclei = thumbnail.pixels[..., 2] > 40
    assert found.mask[nuclei].mean() > 0.999
    assert not found.mask[135:, :40].any()
    assert not found.mask[:10, :10].any()


def test_real_lymph_node(shared: Path) -> None:
    """Two sections with pale fat between them; dust and dirt on the glass. Dense tissue is kept to the pixel,
    and so is nearly all of the fat's stained septa."""
    with open_slide(shared / "data" / "wsi" / "camelyon16_lowres_SM.dcm") as slide:
        thumbnail = read_thumbnail(slide)
    found = find_tissue(thumbnail.pixels, thumbnail.mpp)
    pixels = thumbnail.pixels.astype(int)
    node = pixels[..., 1] < 130
    pink = pixels[..., 0] - pixels[..., 1] > 22
    septa = pink & (np.indices(pink.shape)[0] > 80) & (np.indices(pink.shape)[0] < 600)
    assert found.mask[cv2.erode(node.astype(np.uint8), np.ones((3, 3))).astype(bool)].mean() > 0.999
    assert found.mask[septa].mean() > 0.995
    assert 0.30 < found.mask.mean() < 0.50
    for y, x in ((20, 600), (690, 300), (330, 1140), (650, 500), (40, 20)):
        assert not found.mask[y, x]


def test_recall_on_many_fields(shared: Path) -> None:
    """Colon fields of twelve patients laid on the real glass, 0.62 um/px; truth by the same rule as above."""
    files = sorted((shared / "data" / "glas" / "images").glob("*.jpg"))[::11][:9]
    rng = np.random.default_rng(0)
    picture = np.full((3072, 4096, 3), 243, np.uint8)
    for number, file in enumerate(files):
        with open_slide(file) as field:
            pixels = field.read_region(0, 0, 0, field.levels[0].height_px, field.levels[0].width_px)
        y, x = number // 3 * 1024 + int(rng.integers(0, 400)), number % 3 * 1365 + int(rng.integers(0, 500))
        picture[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels[: 3072 - y, : 4096 - x]
    density = np.log(244.0 / (picture.astype(np.float32) + 1))
    smooth = cv2.GaussianBlur(density, (0, 0), 1.5)
    truth = (smooth.mean(-1) > 0.09) | (smooth.max(-1) - smooth.min(-1) > 0.06)
    shape = round(3072 * 0.62 / 8), round(4096 * 0.62 / 8)
    thumbnail = cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_AREA)
    found = find_tissue(thumbnail, Mpp(0.62 * 3072 / shape[0], 0.62 * 4096 / shape[1]))
    due = window_fractions(truth, 3072, 4096) >= LEAST_TISSUE
    kept = window_fractions(found.mask, 3072, 4096) >= LEAST_TISSUE
    assert due.sum() > 60
    assert (due & kept).sum() / due.sum() >= 0.995
    assert (kept & ~due).sum() < 0.3 * (~due).sum()


def test_none_keeps_all_and_empty_is_said() -> None:
    glass = np.full((60, 80, 3), 240, np.uint8)
    empty = find_tissue(glass, Mpp.square(8))
    assert empty.is_empty
    assert empty.flags == ("empty",)
    assert find_tissue(np.zeros((60, 80, 3), np.uint8), Mpp.square(8)).is_empty
    kept = find_tissue(glass, Mpp.square(8), TissueParams(method="none"))
    assert kept.mask.all()
    assert not kept.is_empty
    unknown = np.ones((60, 80), bool)
    unknown[10:20, 10:20] = False
    found = find_tissue(glass, Mpp.square(8), valid=unknown)
    assert (found.mask == ~unknown).all()
    assert found.flags == ("unreadable",)
