"""Small synthetic slides for the tests of stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

MakeSlide = Callable[..., Path]


def tissue_pixels(height_px: int, width_px: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: pink, textured tissue in the middle of light glass."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height_px, 0:width_px]
    inside = ((y / height_px - 0.5) ** 2 + (x / width_px - 0.5) ** 2) < 0.09
    image = np.full((height_px, width_px, 3), 244, np.int16)
    image[inside] = (190, 110, 160)
    waves = 25 * np.sin(y / 9.0) * np.cos(x / 13.0)
    image[inside] += waves[inside].astype(np.int16)[:, None]
    image += rng.integers(-3, 4, image.shape, np.int16)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def make_slide(tmp_path: Path) -> MakeSlide:
    """Write a tiled, pyramidal TIFF whose resolution is in its tags; returns its path."""

    def make(
        name: str = "slide.tif",
        pixels: np.ndarray | None = None,
        mpp: float | None = 0.5,
        tile: int = 256,
        levels: tuple[int, ...] = (1, 4),
        compression: str | None = "jpeg",
        **options: object,
    ) -> Path:
        image = tissue_pixels(1500, 2000) if pixels is None else pixels
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rgb = image.ndim == 3 and image.shape[2] == 3
        with tifffile.TiffWriter(path) as tif:
            for k, factor in enumerate(levels):
                size = (image.shape[0] // factor, image.shape[1] // factor)
                part = image[: size[0] * factor, : size[1] * factor]
                shape = (size[0], factor, size[1], factor, *part.shape[2:])
                small = part.reshape(shape).mean(axis=(1, 3)).round().astype(image.dtype)
                resolution = (1e4 / (mpp * factor),) * 2 if mpp else (1.0, 1.0)
                tif.write(
                    small,
                    tile=(tile, tile),
                    photometric="rgb" if rgb else "minisblack",
                    compression=compression,
                    subfiletype=1 if k else 0,
                    resolution=resolution,
                    resolutionunit="CENTIMETER" if mpp else "NONE",
                    metadata=None,
                    **options,
                )
        return path

    return make
