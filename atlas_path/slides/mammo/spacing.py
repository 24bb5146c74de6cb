"""Millimetres per pixel in the plane of the breast, and where they come from; unknown stays unknown."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from atlas_path.geometry import Mpp
from atlas_path.slides.mammo.header import items_of, number_of, numbers_of, text_of

UM_PER_MM = 1000.0
PLAUSIBLE_UM = (10.0, 1000.0)
PLAUSIBLE_MAGNIFICATION = (1.0, 3.0)
MAGNIFIED_FROM = 1.3
"""Contact views have a factor of up to about 1.1; magnification views of 1.5 to 2."""


@dataclass(frozen=True)
class Spacing:
    """`mpp` None when nothing usable says it. `magnification` as the header estimates it."""

    mpp: Mpp | None
    source: str | None
    magnification: float | None

    @property
    def is_magnified(self) -> bool:
        return self.magnification is not None and self.magnification >= MAGNIFIED_FROM


def spacing_of(dataset: Dataset) -> Spacing:
    """Object-plane spacing.

    Tomosynthesis: PixelMeasuresSequence. Else ImagerPixelSpacing (detector plane) divided by the estimated
    magnification; else PixelSpacing if it says how it was calibrated; else NominalScannedPixelSpacing of a
    digitised film. An uncalibrated PixelSpacing is not believed.
    """
    factor = number_of(dataset, "EstimatedRadiographicMagnificationFactor")
    low, high = PLAUSIBLE_MAGNIFICATION
    magnification = factor if factor is not None and low <= factor <= high else None
    for group in items_of(dataset, "SharedFunctionalGroupsSequence"):
        for measures in items_of(group, "PixelMeasuresSequence"):
            mpp = _mpp(numbers_of(measures, "PixelSpacing"))
            if mpp:
                return Spacing(mpp, "pixel measures", magnification)
    mpp = _mpp(numbers_of(dataset, "ImagerPixelSpacing"))
    if mpp and magnification:
        return Spacing(mpp.scaled(1.0 / magnification), "imager spacing / magnification", magnification)
    if mpp:
        return Spacing(mpp, "imager spacing (detector plane)", None)
    if text_of(dataset, "PixelSpacingCalibrationType") in ("GEOMETRY", "FIDUCIAL"):
        mpp = _mpp(numbers_of(dataset, "PixelSpacing"))
        if mpp:
            return Spacing(mpp, "calibrated pixel spacing", magnification)
    mpp = _mpp(numbers_of(dataset, "NominalScannedPixelSpacing"))
    return Spacing(mpp, "nominal scanned spacing" if mpp else None, magnification)


def _mpp(spacing_mm: list[float]) -> Mpp | None:
    if len(spacing_mm) != 2:
        return None
    y, x = (value * UM_PER_MM for value in spacing_mm)
    low, high = PLAUSIBLE_UM
    return Mpp(y, x) if low <= y <= high and low <= x <= high else None
