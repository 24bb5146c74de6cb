"""Procedural H&E-like slides with hidden lesions: the demo's cohort, made offline, the same for a seed.

Tissue is painted in optical density (Beer-Lambert: RGB = 255 exp(-OD)) with haematoxylin and eosin absorption
vectors (Ruifrok and Johnston 2001). Benign tissue has glands (a lumen with a ring of small regular nuclei),
stroma and lymphoid aggregates (dense, dark, small, regular); a lesion is a sheet of large irregular nuclei
without lumen. Stain strength and tissue area vary alike in both classes, so colour statistics do not give the
label away. The slides are procedural: they test software and support no clinical claim.
"""

from __future__ import annotations

import csv
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from atlas_path.progress import progress

MPP = 0.5
HEIGHT_PX, WIDTH_PX = 3072, 4096
HAEMATOXYLIN_OD = np.array([0.65, 0.70, 0.29], np.float32)
EOSIN_OD = np.array([0.07, 0.99, 0.11], np.float32)
GLASS_OD = 0.045
SPLIT_ROUND = (
    "train",
    "tune",
    "train",
    "test",
)  # a split a group of four slides: two benign, two with lesions

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Lesion:
    """Centre and radius of a lesion in level-0 pixels."""

    x_px: int
    y_px: int
    radius_px: int


def make_cohort(out: Path, n_slides: int, seed: int) -> Path:
    """Write `slides/*.tif`, `cohort.csv`, `test.csv` (test cases, no labels) and `lesions.csv` (truth) under
    `out`; returns the cohort table.

    Half of the slides hold 1-3 lesions. Two slides belong to each patient; splits are by patient
    (about half train, a quarter tune, a quarter test), with both classes in every split. Lesion boxes are in
    level-0 pixels, top-left corner, width and height.
    """
    (out / "slides").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    truth: list[dict[str, object]] = []
    with (
        ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool,
        progress("paint", n_slides) as done,
    ):
        for number, lesions in enumerate(pool.map(partial(_make_slide, out, seed), range(n_slides))):
            name, path, positive = _name(number)
            rows.append(
                {
                    "case_id": name,
                    "patient_id": f"patient_{number // 2:02d}",
                    "path": path,
                    "label": "lesion" if positive else "benign",
                    "split": SPLIT_ROUND[number // 4 % len(SPLIT_ROUND)],
                }
            )
            truth += [_truth_row(name, lesion) for lesion in lesions]
            done(name, 1)
    _write_table(out / "cohort.csv", rows)
    wanted = ("case_id", "patient_id", "path")
    _write_table(out / "test.csv", [{k: row[k] for k in wanted} for row in rows if row["split"] == "test"])
    _write_table(out / "lesions.csv", truth)
    return out / "cohort.csv"


def _name(number: int) -> tuple[str, str, bool]:
    """(case id, path, has lesions): two slides a patient, every second patient is positive."""
    name = f"slide_{number:02d}"
    return name, f"slides/{name}.tif", number // 2 % 2 == 1


def _make_slide(out: Path, seed: int, number: int) -> list[Lesion]:
    cv2.setNumThreads(1)  # one process a core already
    _, path, positive = _name(number)
    pixels, lesions = paint_slide(np.random.default_rng([seed, number]), positive)
    write_pyramid(out / path, pixels)
    return lesions


def _truth_row(name: str, lesion: Lesion) -> dict[str, object]:
    side = 2 * lesion.radius_px
    x_px, y_px = lesion.x_px - lesion.radius_px, lesion.y_px - lesion.radius_px
    return {"image_id": name, "x": x_px, "y": y_px, "width": side, "height": side}


def paint_slide(rng: np.random.Generator, positive: bool) -> tuple[NDArray[np.uint8], list[Lesion]]:
    """One slide as (HEIGHT_PX, WIDTH_PX, 3) uint8 and its lesions."""
    tissue = _tissue_outline(rng)
    eosin = tissue * (0.32 + 0.30 * _noise(rng, 48) + 0.16 * _noise(rng, 8))
    haematoxylin = tissue * 0.05
    free = tissue > 0.9  # where a structure may still be placed
    lesions: list[Lesion] = []
    if positive:
        wanted = int(rng.integers(1, 4))
        lesions = [place for _ in range(wanted) if (place := _claim(rng, free, 220, 380))]
        lesions = lesions or [_claim_or_raise(rng, free)]
    for lesion in lesions:
        _paint_lesion(rng, haematoxylin, lesion)
    for _ in range(int(rng.integers(1, 4))):
        if aggregate := _claim(rng, free, 130, 240):
            _paint_nuclei_disc(
                rng, haematoxylin, aggregate, spacing_px=14, radius_px=(4, 6), squash=0.9, ink=0.9
            )
    for _ in range(150):
        if gland := _claim(rng, free, 55, 110, tries=3):
            _paint_gland(rng, haematoxylin, eosin, gland)
    _paint_stroma_nuclei(rng, haematoxylin, free)
    strength_h, strength_e = rng.uniform(0.8, 1.2, 2)
    density = (
        cv2.GaussianBlur(haematoxylin, (0, 0), 0.8)[..., None] * (HAEMATOXYLIN_OD * strength_h)
        + cv2.GaussianBlur(eosin, (0, 0), 0.8)[..., None] * (EOSIN_OD * strength_e)
        + GLASS_OD
    )
    density += rng.standard_normal((HEIGHT_PX, WIDTH_PX, 1), np.float32) * 0.012
    pixels = (255 * np.exp(-density)).clip(0, 255).astype(np.uint8)
    return pixels, lesions


def write_pyramid(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A tiled, pyramidal JPEG TIFF with its resolution in the tags, as a generic scanner writes it."""
    resolution = (1e4 / MPP, 1e4 / MPP)
    level = pixels
    options = {
        "tile": (256, 256),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": 90},
    }
    with tifffile.TiffWriter(path) as tiff:
        factor = 1
        while True:
            tiff.write(
                level,
                subfiletype=0 if factor == 1 else 1,
                resolution=(resolution[0] / factor, resolution[1] / factor),
                resolutionunit="CENTIMETER",
                metadata=None,
                **options,
            )
            if max(level.shape) <= 1024:
                break
            factor *= 2
            level = cv2.resize(
                level, (level.shape[1] // 2, level.shape[0] // 2), interpolation=cv2.INTER_AREA
            )


def _write_table(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _noise(rng: np.random.Generator, cell_px: int) -> Plane:
    """Smooth noise in [0, 1] with features of about `cell_px`."""
    knots = rng.random((HEIGHT_PX // cell_px + 3, WIDTH_PX // cell_px + 3), np.float32)
    smooth = cv2.resize(knots, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth.clip(0, 1), np.float32)


def _tissue_outline(rng: np.random.Generator) -> Plane:
    """Soft-edged tissue of 30-45 % of the slide, away from its border, as (H, W) in [0, 1]."""
    coarse = 0.8 * _noise(rng, 700) + 0.2 * _noise(rng, 120)
    y = np.linspace(-1, 1, HEIGHT_PX, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, WIDTH_PX, dtype=np.float32)[None]
    height = coarse - 0.5 * np.maximum(np.abs(y), np.abs(x)) ** 4
    level = np.quantile(height[::16, ::16], 1 - rng.uniform(0.30, 0.45))
    return np.asarray(cv2.GaussianBlur((height > level).astype(np.float32), (0, 0), 3), np.float32)


def _claim(
    rng: np.random.Generator, free: NDArray[np.bool_], low_px: int, high_px: int, tries: int = 40
) -> Lesion | None:
    """A disc that lies on free tissue, marked as taken; None when no place was found."""
    for _ in range(tries):
        radius = int(rng.integers(low_px, high_px))
        y = int(rng.integers(radius, HEIGHT_PX - radius))
        x = int(rng.integers(radius, WIDTH_PX - radius))
        box = free[y - radius : y + radius, x - radius : x + radius]
        if box[:: max(1, radius // 8), :: max(1, radius // 8)].mean() > 0.97:
            box[:] = False
            return Lesion(x, y, radius)
    return None


def _claim_or_raise(rng: np.random.Generator, free: NDArray[np.bool_]) -> Lesion:
    """A place for a small lesion; a positive slide without a lesion would be a wrong label."""
    if place := _claim(rng, free, 120, 180, tries=20_000):
        return place
    raise RuntimeError("no room for a lesion on a painted slide; use another seed")


def _stamp_nucleus(
    rng: np.random.Generator, plane: Plane, x: float, y: float, radius_px: float, squash: float, ink: float
) -> None:
    axes = (max(1, round(radius_px)), max(1, round(radius_px * squash)))
    angle = float(rng.uniform(0, 180))
    cv2.ellipse(plane, (round(x), round(y)), axes, angle, 0, 360, float(ink * rng.uniform(0.75, 1.2)), -1)


def _paint_nuclei_disc(
    rng: np.random.Generator,
    plane: Plane,
    disc: Lesion,
    *,
    spacing_px: int,
    radius_px: tuple[float, float],
    squash: float,
    ink: float,
) -> None:
    """Nuclei on a jittered grid inside a disc with a ragged edge."""
    steps = np.arange(-disc.radius_px, disc.radius_px, spacing_px)
    for dy in steps:
        for dx in steps:
            jitter = rng.uniform(-0.45, 0.45, 2) * spacing_px
            if np.hypot(dx, dy) > disc.radius_px * rng.uniform(0.8, 1.0):
                continue
            shape = squash * rng.uniform(0.8, 1.2)
            radius = rng.uniform(*radius_px)
            _stamp_nucleus(
                rng, plane, disc.x_px + dx + jitter[0], disc.y_px + dy + jitter[1], radius, shape, ink
            )


def _paint_lesion(rng: np.random.Generator, haematoxylin: Plane, lesion: Lesion) -> None:
    """A sheet of large, irregular, crowded nuclei of varying darkness."""
    _paint_nuclei_disc(rng, haematoxylin, lesion, spacing_px=25, radius_px=(8, 14), squash=0.75, ink=0.85)


def _paint_gland(rng: np.random.Generator, haematoxylin: Plane, eosin: Plane, gland: Lesion) -> None:
    """A lumen, a rim of cytoplasm, and one ring of regular nuclei at its base."""
    centre = (gland.x_px, gland.y_px)
    squash = rng.uniform(0.7, 1.0)
    angle = rng.uniform(0, 180)
    outer = (gland.radius_px, round(gland.radius_px * squash))
    lumen = (round(outer[0] * 0.45), round(outer[1] * 0.45))
    cv2.ellipse(eosin, centre, outer, angle, 0, 360, 0.33, -1)
    cv2.ellipse(eosin, centre, lumen, angle, 0, 360, 0.02, -1)
    cv2.ellipse(haematoxylin, centre, outer, angle, 0, 360, 0.08, -1)
    cv2.ellipse(haematoxylin, centre, lumen, angle, 0, 360, 0.0, -1)
    turn = np.deg2rad(angle)
    for theta in np.arange(0, 2 * np.pi, 13 / gland.radius_px):
        dx, dy = 0.86 * outer[0] * np.cos(theta), 0.86 * outer[1] * np.sin(theta)
        x = gland.x_px + dx * np.cos(turn) - dy * np.sin(turn)
        y = gland.y_px + dx * np.sin(turn) + dy * np.cos(turn)
        _stamp_nucleus(rng, haematoxylin, x, y, rng.uniform(4.5, 6), 0.75, 0.8)


def _paint_stroma_nuclei(rng: np.random.Generator, haematoxylin: Plane, free: NDArray[np.bool_]) -> None:
    """Sparse, thin nuclei wherever nothing else was painted."""
    for y, x in rng.integers((0, 0), (HEIGHT_PX, WIDTH_PX), (16_000, 2)):
        if free[y, x]:
            _stamp_nucleus(rng, haematoxylin, x, y, rng.uniform(5, 8), 0.35, 0.65)
