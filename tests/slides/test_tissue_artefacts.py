"""Ink, black frames, dust and bare crops: left out or flagged, and never at the price of tissue."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from atlas_path.geometry import Mpp
from atlas_path.slides import open_slide, read_thumbnail
from atlas_path.tissue import TissueParams, find_tissue

INKS = {  # optical densities of whiteboard and slide markers, red green blue
    "green": (1.6, 0.35, 1.1),
    "blue": (1.5, 0.75, 0.25),
    "red": (0.05, 1.3, 1.4),
    "black": (2.4, 2.4, 2.35),
    "cyan": (1.2, 0.25, 0.15),
}


@pytest.fixture(scope="module")
def node(shared: Path) -> tuple[np.ndarray, Mpp]:
    """The real lymph node, 29 um/px: large enough for strokes of a pen."""
    with open_slide(shared / "data" / "wsi" / "camelyon16_lowres_SM.dcm") as slide:
        thumbnail = read_thumbnail(slide)
    return thumbnail.pixels, thumbnail.mpp


def _stroke(shape: tuple[int, int], points: list[tuple[int, int]], width: int) -> np.ndarray:
    drawn = np.zeros(shape, np.uint8)
    cv2.polylines(drawn, [np.array(points, np.int32)], False, 1, width)
    return drawn.astype(bool)


def _inked(pixels: np.ndarray, where: np.ndarray, ink: tuple[float, float, float]) -> np.ndarray:
    rng = np.random.default_rng(1)
    density = np.array(ink) * (1 + 0.05 * rng.standard_normal(where.shape)[..., None])
    image = np.where(where[..., None], pixels * np.exp(-density), pixels)
    return cv2.GaussianBlur(np.clip(image, 0, 255).astype(np.uint8), (0, 0), 0.8)


@pytest.mark.parametrize("name", INKS)
def test_pen_strokes(node: tuple[np.ndarray, Mpp], name: str) -> None:
    """Green and blue ink is left out; red and black ink, like blood and pigment, is flagged only."""
    pixels, mpp = node
    ink = INKS[name]
    on_glass = _stroke(pixels.shape[:2], [(30, 640), (60, 660), (540, 660), (580, 200)], 30)
    over_tissue = _stroke(pixels.shape[:2], [(60, 300), (290, 330)], 30)
    plain = find_tissue(cv2.GaussianBlur(pixels, (0, 0), 0.8), mpp)
    found = find_tissue(_inked(pixels, on_glass | over_tissue, ink), mpp)
    assert "pen" in found.flags
    stroke = on_glass & ~plain.mask
    if name in ("red", "black"):
        assert found.mask[stroke].mean() > 0.9
    else:
        assert found.mask[stroke].mean() < 0.1
    near_ink = cv2.dilate((on_glass | over_tissue).astype(np.uint8), np.ones((9, 9))).astype(bool)
    dense = (pixels[..., 1] < 150) & ~near_ink
    assert found.mask[dense & plain.mask].mean() > 0.999
    kept = find_tissue(_inked(pixels, on_glass, ink), mpp, TissueParams(remove_pen=False))
    assert "pen" in kept.flags
    assert kept.mask[stroke].mean() > 0.9


def test_blue_stain_is_no_pen(node: tuple[np.ndarray, Mpp]) -> None:
    """A trichrome slide is as blue as a marker all over: nothing is removed."""
    pixels, mpp = node
    density = np.log(228.0 / (pixels.astype(np.float32) + 1)).clip(0).mean(-1, keepdims=True)
    blue = np.clip(228 * np.exp(-density * np.array([2.0, 0.9, 0.3])), 0, 255).astype(np.uint8)
    found = find_tissue(blue, mpp)
    assert found.mask[density[..., 0] > 0.4].mean() > 0.999


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_partly_blue_stain_is_no_pen(node: tuple[np.ndarray, Mpp], share: float) -> None:
    """Blue fibres among other tissue, as in a trichrome: their hue is everywhere, in all strengths."""
    pixels, mpp = node
    rng = np.random.default_rng(3)
    density = np.log(228.0 / (pixels.astype(np.float32) + 1)).clip(0)
    coarse = cv2.resize(rng.random((44, 72)).astype(np.float32), (1152, 700), interpolation=cv2.INTER_CUBIC)
    fibres = coarse > np.quantile(coarse, 1 - share)
    blue = density.mean(-1, keepdims=True) * np.array([2.0, 0.9, 0.3])
    mixed = np.where(fibres[..., None], blue, density)
    picture = np.clip(228 * np.exp(-mixed), 0, 255).astype(np.uint8)
    found = find_tissue(picture, mpp)
    assert found.mask[(density.mean(-1) > 0.4)].mean() > 0.999


def test_dark_pigment_and_blood_are_kept() -> None:
    """Large, even and dark: a pigmented tumour and a lake of blood must never be taken for ink or a frame."""
    rng = np.random.default_rng(5)
    picture = np.full((300, 400, 3), 240.0)
    picture[60:240, 60:180] = (22, 14, 12)
    picture[60:240, 220:340] = (196, 38, 48)
    picture = np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)
    found = find_tissue(picture, Mpp.square(8))
    assert found.mask[60:240, 60:180].all()
    assert found.mask[60:240, 220:340].all()


def test_black_frames_are_left_out(node: tuple[np.ndarray, Mpp]) -> None:
    pixels, mpp = node
    framed = np.zeros((1000, 1500, 3), np.uint8)
    framed[150:850, 200:1352] = pixels
    found = find_tissue(framed, mpp)
    assert "black" in found.flags
    assert not found.mask[:148].any()
    assert not found.mask[:, :198].any()
    dense = pixels[..., 1] < 150
    assert found.mask[150:850, 200:1352][dense].mean() > 0.999


def test_dust_out_of_focus_is_mostly_left_out(node: tuple[np.ndarray, Mpp]) -> None:
    pixels, mpp = node
    rng = np.random.default_rng(0)
    dusty = pixels.astype(np.float32)
    for _ in range(40):
        y, x, radius = int(rng.integers(640, 690)), int(rng.integers(20, 1130)), int(rng.integers(2, 8))
        shade = [float(value) * 0.85 for value in dusty[y, x]]
        cv2.circle(dusty, (x, y), radius, shade, -1)
    dusty = cv2.GaussianBlur(dusty, (0, 0), 2.0).astype(np.uint8)
    assert find_tissue(dusty, mpp).mask[635:].mean() < 0.05


def test_a_crop_without_glass_is_tissue(shared: Path) -> None:
    with open_slide(shared / "data" / "wsi" / "CMU-1-Small-Region.svs") as slide:
        inside = cv2.resize(slide.read_region(0, 2300, 900, 256, 256), (32, 32), interpolation=cv2.INTER_AREA)
        bare = cv2.resize(slide.read_region(0, 500, 0, 400, 500), (62, 50), interpolation=cv2.INTER_AREA)
    assert find_tissue(inside, Mpp.square(4)).mask.mean() > 0.98
    assert find_tissue(bare, Mpp.square(4)).is_empty


def test_gray_and_deep_images() -> None:
    """Mono bright field and 16-bit colour are found like 8-bit colour."""
    picture = np.full((120, 160, 3), 238, np.uint8)
    cv2.circle(picture, (80, 60), 30, (190, 120, 170), -1)
    expected = find_tissue(picture, Mpp.square(8)).mask
    assert 0.1 < expected.mean() < 0.3
    for other in (picture.astype(np.uint16) * 257, picture.mean(-1).astype(np.uint8)):
        found = find_tissue(other, Mpp.square(8))
        assert (found.mask != expected).mean() < 0.02
        assert found.flags == ()


@pytest.mark.parametrize("change", [{"method": "otsu"}, {"chroma_od": 0}, {"close_um": -1}])
def test_impossible_parameters(change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))[:6]):
        TissueParams(**change)
