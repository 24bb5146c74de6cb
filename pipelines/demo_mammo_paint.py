"""Synthetic mammograms: a breast of fat, gland and vessels in power-law noise, two views a side.

Not meant to look real to a radiologist, but to have what the pipeline must get right: a curved skin line, a
pectoral muscle in the oblique view, burned-in letters outside the breast that give the side away, and a
finding that is small against the image: a spiculated mass with clustered calcifications, seen in both views
of one breast. Some other exams hold smooth round masses, and all views have as many scattered calcifications:
neither "something round" nor the brightest pixels of an image (they move a minmax VOI) are the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

HEIGHT_PX, WIDTH_PX = 768, 512
SPACING_MM = 0.3
BITS = 12
TOP = (1 << BITS) - 1
FAT, GLAND, MUSCLE = 0.42, 0.22, 0.25
LETTER_VALUE = 1.0
DENSITY_RANGE = (0.05, 0.75)  # share of gland
N_DOTS, DOT_VALUE, DOT_DEPTH = 22, 0.9, 0.15


@dataclass(frozen=True)
class Finding:
    """Where a mass is painted: centre and radius in pixels of the painted image."""

    y_px: float
    x_px: float
    radius_px: float
    malignant: bool


@dataclass(frozen=True)
class PaintedView:
    """(height, width) uint16, 12 bits, tissue bright; and what was hidden in it."""

    pixels: np.ndarray
    finding: Finding | None


def paint_view(
    rng: np.random.Generator,
    laterality: str,
    view: str,
    density: float,
    finding: str | None = None,
    height_px: int = HEIGHT_PX,
    width_px: int = WIDTH_PX,
    letters: bool = True,
) -> PaintedView:
    """One view.

    Args:
        rng: source of all randomness.
        laterality: 'L' (chest wall at the left edge) or 'R' (at the right edge).
        view: 'CC' or 'MLO'.
        density: 0..1, share of gland.
        finding: 'malignant', 'benign' or None.
        letters: burn side and view into the corner away from the breast.
    """
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    y /= height_px
    x /= width_px  # painted as a left breast, mirrored at the end
    depth = _depth(rng, y, x, view)
    inside = depth > 0
    texture = _power_law_noise(rng, height_px, width_px)
    gland = np.clip(depth, 0, 1) ** 0.7 * (texture > np.quantile(texture[inside], 1 - density))
    tissue = FAT * np.clip(depth * 6, 0, 1) ** 0.5 + GLAND * cv2.GaussianBlur(
        gland.astype(np.float32), (0, 0), 6
    )
    tissue += 0.10 * (texture - 0.5) * inside
    if view == "MLO":
        muscle = np.clip((0.30 - x - 0.60 * y) * 40, 0, 1)
        tissue = tissue * (1 - muscle) + (FAT + MUSCLE + 0.04 * (texture - 0.5)) * muscle * inside
    placed = _place(rng, depth, x, y, view, finding, height_px)
    if placed is not None:
        _paint_mass(rng, tissue, placed)
    _paint_calcifications(rng, tissue, placed, depth)
    tissue *= inside
    image = tissue + rng.normal(0, 0.008, tissue.shape).astype(np.float32) * inside
    image = np.clip(image, 0, 0.95)
    if laterality == "R":
        image = np.ascontiguousarray(image[:, ::-1])
        if placed is not None:
            placed = Finding(placed.y_px, width_px - 1 - placed.x_px, placed.radius_px, placed.malignant)
    if letters:
        _burn_letters(image, laterality, view)
    return PaintedView(np.rint(image * TOP).astype(np.uint16), placed)


def density_letter(density: float) -> str:
    """A to D: quarters of the range that is painted (after the four classes of BI-RADS)."""
    low, high = DENSITY_RANGE
    return "ABCD"[min(3, int(4 * (density - low) / (high - low)))]


def _depth(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, view: str) -> np.ndarray:
    """Positive inside the breast, rising from the skin line; chest wall at x = 0."""
    centre = 0.5 + 0.04 * rng.standard_normal() if view == "CC" else 0.6
    half_height = 0.36 + 0.03 * rng.standard_normal() if view == "CC" else 0.36
    reach = 0.62 + 0.06 * rng.standard_normal()
    depth = 1 - ((y - centre) / half_height) ** 2 - (x / reach) ** 2
    if view == "MLO":  # the axilla goes on to the upper edge
        axilla = 0.45 + 0.25 * y - x - 6 * np.clip(y - centre + 0.2, 0, None) ** 2
        depth = np.maximum(depth, axilla * 2)
    return np.asarray(depth, dtype=np.float32)


def _power_law_noise(rng: np.random.Generator, height_px: int, width_px: int) -> np.ndarray:
    """Noise with a spectrum of 1/f^3 (that of mammograms, Burgess 1999), scaled to 0..1."""
    fy = np.fft.fftfreq(height_px)[:, None] * height_px
    fx = np.fft.rfftfreq(width_px)[None] * height_px
    amplitude = 1.0 / np.maximum(np.hypot(fy, fx), 3.0) ** 1.5
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape))
    noise = np.fft.irfft2(spectrum, s=(height_px, width_px))
    low, high = np.percentile(noise, [0.5, 99.5])
    return np.asarray(np.clip((noise - low) / (high - low), 0, 1), dtype=np.float32)


def _place(
    rng: np.random.Generator, depth: np.ndarray, x: np.ndarray, y: np.ndarray, view: str,
    finding: str | None, height_px: int,
) -> Finding | None:  # fmt: skip
    if finding is None:
        return None
    fits = (depth > 0.35) & (x > 0.08)
    if view == "MLO":
        fits &= x + 0.60 * y > 0.40
    ys, xs = np.nonzero(fits)
    at = int(rng.integers(len(ys)))
    radius = float(rng.uniform(40, 56)) * height_px / HEIGHT_PX
    return Finding(float(ys[at]), float(xs[at]), radius, finding == "malignant")


def _paint_mass(rng: np.random.Generator, tissue: np.ndarray, mass: Finding) -> None:
    yy, xx = np.mgrid[0 : tissue.shape[0], 0 : tissue.shape[1]].astype(np.float32)
    distance = np.hypot(yy - mass.y_px, xx - mass.x_px) / mass.radius_px
    if not mass.malignant:
        tissue += 0.14 * np.clip((1 - distance) * 4, 0, 1)
        return
    angle = np.arctan2(yy - mass.y_px, xx - mass.x_px)
    tissue += 0.18 * np.exp(-((distance / 0.7) ** 2))
    canvas = np.zeros(tissue.shape, np.float32)
    for direction in rng.uniform(0, 2 * np.pi, 26):
        reach = mass.radius_px * float(rng.uniform(1.3, 2.4))
        tip = (round(mass.x_px + reach * np.cos(direction)), round(mass.y_px + reach * np.sin(direction)))
        cv2.line(canvas, (round(mass.x_px), round(mass.y_px)), tip, 0.16, 2, cv2.LINE_AA)
    tissue += cv2.GaussianBlur(canvas, (0, 0), 1.0) * (0.6 + 0.4 * np.cos(5 * angle))


def _paint_calcifications(
    rng: np.random.Generator, tissue: np.ndarray, mass: Finding | None, depth: np.ndarray
) -> None:
    """As many bright dots in every view: clustered in a malignant mass, scattered over the breast else."""
    ys, xs = np.nonzero(depth > DOT_DEPTH)
    for _ in range(N_DOTS):
        if mass is not None and mass.malignant:
            offset_y, offset_x = rng.normal(0, 0.55 * mass.radius_px, 2)
            centre = (round(mass.x_px + float(offset_x)), round(mass.y_px + float(offset_y)))
        else:
            at = int(rng.integers(len(ys)))
            centre = (int(xs[at]), int(ys[at]))
        cv2.circle(tissue, centre, int(rng.integers(1, 3)), DOT_VALUE, -1)


def _burn_letters(image: np.ndarray, laterality: str, view: str) -> None:
    text = f"{laterality} {view}"
    scale = image.shape[0] / 800
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 3)
    margin = round(0.03 * image.shape[1])
    x = image.shape[1] - width - margin if laterality == "L" else margin
    ink = np.zeros(image.shape, np.uint8)
    cv2.putText(ink, text, (x, margin + height), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 3, cv2.LINE_AA)
    np.maximum(image, ink / 255.0 * LETTER_VALUE, out=image, casting="same_kind")
