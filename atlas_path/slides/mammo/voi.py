"""Values of interest: how stored grey values become brightness. Kept as attributes, applied at load.

A store holds what the detector or scanner sent, because respected pipelines disagree about the VOI and none
of them can be undone: one file's three windows moved its mean from 820 to 586 of 4095. What the header offers
is kept as items; a run chooses one rule (`none`, `minmax`, `header`, `header[i]`, `lut`, `lut[i]`) for its
whole data set, and the choice and what it became are recorded.

`minmax` is the range of the breast (its 0.1 and 99.9 percentiles: a metal clip must not decide it).

Steps, as DICOM PS3.3 C.11 says: stored value, modality rescale, VOI window or table, then, for MONOCHROME1,
inversion with the fixed output range (never with the image's maximum).
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from atlas_path.errors import ConfigError
from atlas_path.slides.mammo.header import items_of, numbers_of, text_of

N_VALUES = 1 << 16
FULL_RANGE = N_VALUES - 1
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
KNOWN_EXPLANATIONS = (
    "NORMAL",
    "HARDER",
    "SOFTER",
    "HARD",
    "SOFT",
    "USER",
    "DEFAULT",
    "WINDOW1",
    "WINDOW2",
    "WINDOW3",
)
CHOICE = re.compile(r"^(none|minmax|header|lut)(?:\[(\d+)\])?$")
MOST_ITEMS = 16


@dataclass(frozen=True)
class VoiApplied:
    """What a choice became for one image; `fallback` says why it is not what was asked for."""

    asked: str
    applied: str
    fallback: str | None = None


def voi_items(dataset: Dataset) -> list[dict[str, Any]]:
    """All VOI items of a header as JSON values: tables first, then windows, each in the header's order.

    Tomosynthesis keeps them in functional groups: those of the shared groups, else of the first frame.
    """
    holders = [dataset]
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in items_of(dataset, groups)[:1]:
            holders += items_of(group, "FrameVOILUTSequence")
    items: list[dict[str, Any]] = []
    for holder in holders:
        items += [table for item in items_of(holder, "VOILUTSequence") if (table := _table(item))]
    for holder in holders:
        items += _windows(holder)
    return items[:MOST_ITEMS]


def rescale_of(dataset: Dataset) -> tuple[float, float]:
    """(slope, intercept) of the modality transformation; (1, 0) when absent or zero."""
    holders = [dataset]
    for group in items_of(dataset, "SharedFunctionalGroupsSequence")[:1]:
        holders += items_of(group, "PixelValueTransformationSequence")
    for holder in holders:
        slope, intercept = numbers_of(holder, "RescaleSlope"), numbers_of(holder, "RescaleIntercept")
        if slope and intercept and slope[0] != 0:
            return slope[0], intercept[0]
    return 1.0, 0.0


def check_choice(choice: str) -> str:
    """The choice itself when it is one.

    Raises:
        ConfigError: it is not one of none, minmax, header, header[i], lut, lut[i].
    """
    if not CHOICE.match(choice) or choice.startswith(("none[", "minmax[")):
        raise ConfigError("voi", f"voi: '{choice}' is not a choice", "use none, minmax, header[i] or lut[i]")
    return choice


def voi_table(attributes: Mapping[str, Any], choice: str) -> tuple[np.ndarray, VoiApplied]:
    """The table that turns the uint16 values of a store into brightness 0..65535.

    Args:
        attributes: the store's mammography attributes (`MammogramSlide.store_attributes`).
        choice: see the module.

    Returns:
        (65536,) uint16, and what was applied. A choice the image cannot meet (no such item, a window of width
        0) becomes minmax, and says so.
    """
    match = CHOICE.match(check_choice(choice))
    if match is None:  # check_choice has raised
        raise ConfigError("voi", f"voi: '{choice}' is not a choice")
    kind, index = match.group(1), int(match.group(2) or 0)
    top = (1 << int(attributes["bits_stored"])) - 1
    inverted = attributes["photometric"] == "MONOCHROME1"
    kept = np.minimum(np.arange(N_VALUES), top)
    original = (top - kept) if inverted else kept  # what the header's VOI speaks about
    if attributes.get("signed"):
        original = original - (1 << (int(attributes["bits_stored"]) - 1))
    modality = original * float(attributes["rescale_slope"]) + float(attributes["rescale_intercept"])
    fallback = None
    if kind in ("header", "lut"):
        wanted = "lut" if kind == "lut" else "window"
        items = [item for item in attributes["voi"] if item["kind"] == wanted]
        if kind == "header" and not items:  # 'header' means whatever the header offers
            items = [item for item in attributes["voi"] if item["kind"] == "lut"]
        brightness, applied, fallback = _header_item(items, index, modality)
        if brightness is not None:
            return _to_uint16(1.0 - brightness if inverted else brightness), VoiApplied(choice, applied)
        kind = "minmax"
    if kind == "none":
        return _to_uint16(kept / top), VoiApplied(choice, f"full range 0..{top}")
    low, high = (float(value) for value in attributes["breast_range"])
    if high <= low:
        return _to_uint16(kept / top), VoiApplied(choice, f"full range 0..{top}", fallback or "flat image")
    applied = f"minmax {low:.0f}..{high:.0f}"
    return _to_uint16((kept - low) / (high - low)), VoiApplied(choice, applied, fallback)


def _header_item(
    items: Sequence[Mapping[str, Any]], index: int, modality: np.ndarray
) -> tuple[np.ndarray | None, str, str | None]:
    if index >= len(items):
        return None, "", f"the header has {len(items)} such items, not {index + 1}"
    item = items[index]
    if item["kind"] == "lut":
        return _apply_table(item, modality), f"table of {item['n']} entries, {item['bits']} bits", None
    width, function = float(item["width"]), str(item["function"])
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None, "", f"window width {width:g}"
    name = f"window {item['center']:g}/{width:g} {function}"
    return window(modality, float(item["center"]), width, function), name, None


def window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Brightness 0..1 of a VOI window (PS3.3 C.11.2.1.2)."""
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -60.0, 60.0))))
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - center) / width + 0.5, 0.0, 1.0))
    if width <= 1:
        return np.asarray(values > center - 0.5, dtype=float)
    return np.asarray(np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0))


def _apply_table(item: Mapping[str, Any], modality: np.ndarray) -> np.ndarray:
    entries = np.frombuffer(zlib.decompress(base64.b64decode(item["data"])), "<u2")
    at = np.clip(np.floor(modality).astype(np.int64) - int(item["first"]), 0, len(entries) - 1)
    return np.asarray(entries[at] / float((1 << int(item["bits"])) - 1))


def _to_uint16(brightness: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(np.clip(brightness, 0.0, 1.0) * FULL_RANGE), dtype=np.uint16)


def _windows(holder: Dataset) -> list[dict[str, Any]]:
    centers, widths = numbers_of(holder, "WindowCenter"), numbers_of(holder, "WindowWidth")
    function = text_of(holder, "VOILUTFunction") or "LINEAR"
    words = text_of(holder, "WindowCenterWidthExplanation").split("\\")
    return [
        {
            "kind": "window",
            "center": center,
            "width": width,
            "function": function if function in FUNCTIONS else "LINEAR",
            "explanation": words[i] if i < len(words) and words[i] in KNOWN_EXPLANATIONS else "",
        }
        for i, (center, width) in enumerate(zip(centers, widths, strict=False))
    ]


def _table(item: Dataset) -> dict[str, Any] | None:
    descriptor = [int(value) for value in numbers_of(item, "LUTDescriptor")]
    if len(descriptor) != 3:
        return None
    n, first, bits = descriptor[0] or N_VALUES, descriptor[1], descriptor[2]
    entries = _entries(item, n, bits)
    if entries is None or not 1 <= bits <= 16:
        return None
    data = base64.b64encode(zlib.compress(entries.astype("<u2").tobytes(), 9)).decode("ascii")
    return {"kind": "lut", "n": n, "first": first, "bits": bits, "data": data}


def _entries(item: Dataset, n: int, bits: int) -> np.ndarray | None:
    raw = item.get("LUTData")
    if isinstance(raw, bytes):
        words = np.frombuffer(raw, np.uint8 if len(raw) == n and bits <= 8 else np.dtype("<u2"))
    else:
        words = np.asarray(numbers_of(item, "LUTData"), dtype=np.int64) & 0xFFFF
    return words.astype(np.uint16) if len(words) == n else None
