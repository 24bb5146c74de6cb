"""Colour management: the scanner's ICC profile applied, so that slides of two scanners look alike."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms


def apply_icc_srgb(pixels: np.ndarray, icc_profile: bytes | None) -> np.ndarray:
    """Pixels (h, w, 3) uint8 brought from their profile to sRGB; unchanged when there is no profile.

    Relative colorimetric intent with black point compensation, as viewers do (ICC.1:2022).

    Raises:
        ValueError: the profile is damaged or not one of an RGB device.
    """
    if not icc_profile:
        return pixels
    if pixels.dtype != np.uint8 or pixels.shape[-1] != 3:
        raise ValueError("an ICC profile is applied to 8-bit RGB pixels only")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    ImageCms.applyTransform(image, _to_srgb(icc_profile), inPlace=True)
    return np.asarray(image)


@lru_cache(maxsize=8)
def _to_srgb(icc_profile: bytes) -> Any:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        return ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ValueError(f"the ICC profile cannot be used: {error}") from error
