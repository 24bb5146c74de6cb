"""What TIFF files say about their pixels: micrometres per pixel, channel names, maker.

Micrometres come from a statement about length only (OME, Aperio `MPP`, Philips and ImageJ fields, resolution
tags), never from 'magnification'. A resolution tag that is a printer's or a screen's default is no statement.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from atlas_path.errors import UnreadableSlideError
from atlas_path.geometry import Mpp
from atlas_path.slides.base import plausible_mpp

DEFAULT_DPI = {72, 75, 96, 100, 120, 144, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200}
_UM_PER_UNIT = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
}


def parse_xml(path: Path, text: str) -> ElementTree.Element:
    """The root of an XML description; a document that declares entities is refused.

    Raises:
        UnreadableSlideError: not well-formed, or with a DOCTYPE.
    """
    remedy = "export the file again from its scanner software"
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UnreadableSlideError(path, "its XML description declares entities", remedy)
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - entities were refused above
    except ElementTree.ParseError as error:
        raise UnreadableSlideError(path, f"its XML description is broken ({error})", remedy) from error


def local_name(element: ElementTree.Element) -> str:
    """Tag without its namespace."""
    return element.tag.rsplit("}", 1)[-1]


def um_per_unit(unit: str | None) -> float | None:
    """Micrometres in a length unit as OME, NGFF and ImageJ spell it; None when it is not a length."""
    if unit is None:
        return None
    name = unit.strip().lower()
    spelled = {
        "micrometre": "micrometer",
        "millimeter": "mm",
        "nanometer": "nm",
        "centimeter": "cm",
        "meter": "m",
    }
    return _UM_PER_UNIT.get(spelled.get(name, name))


class OmeImage:
    """The `Pixels` element that describes a width x height plane: size of a pixel and names of channels."""

    def __init__(self, path: Path, xml: str, height_px: int, width_px: int) -> None:
        root = parse_xml(path, xml)
        candidates = [element for element in root.iter() if local_name(element) == "Pixels"]
        fitting = [
            element
            for element in candidates
            if element.get("SizeX") == str(width_px) and element.get("SizeY") == str(height_px)
        ]
        self._pixels = (fitting or candidates or [root])[0]

    @property
    def mpp(self) -> Mpp | None:
        sizes = []
        for axis in "YX":
            size, unit = (
                self._pixels.get(f"PhysicalSize{axis}"),
                self._pixels.get(f"PhysicalSize{axis}Unit", "µm"),
            )
            factor = um_per_unit(unit)
            sizes.append(float(size) * factor if size and factor else None)
        return plausible_mpp(*sizes)

    @property
    def channel_names(self) -> list[str]:
        channels = [element for element in self._pixels if local_name(element) == "Channel"]
        return [element.get("Name") or "" for element in channels]


def tiff_mpp(tif: Any, page: Any, path: Path) -> tuple[Mpp | None, str | None]:
    """(mpp, source) of the page that holds level 0."""
    description = str(getattr(page, "description", "") or "")
    if tif.is_ome and tif.ome_metadata:
        mpp = OmeImage(path, tif.ome_metadata, page.imagelength, page.imagewidth).mpp
        if mpp:
            return mpp, "ome"
    if tif.is_svs:
        found = re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", description)
        mpp = plausible_mpp(float(found[1]), float(found[1])) if found else None
        if mpp:
            return mpp, "aperio MPP"
    if tif.is_philips:
        mpp = _philips_mpp(path, tif.philips_metadata or description)
        if mpp:
            return mpp, "philips DICOM_PIXEL_SPACING"
    if tif.is_imagej:
        factor = um_per_unit((tif.imagej_metadata or {}).get("unit", "").replace("\\u00B5", "µ"))
        rate = _resolution(page)
        if factor and rate:
            mpp = plausible_mpp(factor / rate[0], factor / rate[1])
            if mpp:
                return mpp, "imagej"
    mpp = resolution_mpp(page)
    return mpp, "tiff resolution" if mpp else None


def resolution_mpp(page: Any) -> Mpp | None:
    """mpp from XResolution and YResolution with a real unit; None for defaults such as 72 or 300 dpi."""
    rate = _resolution(page)
    unit_tag = page.tags.get("ResolutionUnit")
    unit = int(unit_tag.value) if unit_tag else 1
    if rate is None or unit not in (2, 3):
        return None
    per_inch = rate[0] if unit == 2 else rate[0] * 2.54
    if any(abs(per_inch - dpi) < 0.5 for dpi in DEFAULT_DPI):
        return None
    um = 25400.0 if unit == 2 else 10000.0
    return plausible_mpp(um / rate[0], um / rate[1])


def _resolution(page: Any) -> tuple[float, float] | None:
    """(y, x) pixels per unit."""
    rates = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        try:
            numerator, denominator = tag.value
            rates.append(numerator / denominator)
        except (AttributeError, TypeError, ValueError, ZeroDivisionError):
            return None
    return (rates[0], rates[1]) if min(rates) > 0 else None


def _philips_mpp(path: Path, xml: str) -> Mpp | None:
    """Spacing in mm of the finest level: the smallest that any attribute states, as (row, column)."""
    found = []
    for element in parse_xml(path, xml).iter():
        if element.get("Name") == "DICOM_PIXEL_SPACING" and element.text:
            numbers = [float(number) for number in re.findall(r"[0-9.eE+-]+", element.text)]
            if len(numbers) == 2:
                found.append((numbers[0] * 1000, numbers[1] * 1000))
    return plausible_mpp(*min(found)) if found else None


def qptiff_channel_name(description: str) -> str | None:
    """Channel name from the XML of one QPTIFF page (PerkinElmer/Akoya): its biomarker, else its name."""
    for tag in ("Biomarker", "Name"):
        found = re.search(rf"<{tag}>([^<]*)</{tag}>", description)
        if found and found[1].strip():
            return found[1].strip()
    return None
