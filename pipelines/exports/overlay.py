"""The picture a pathologist looks at first: the slide, and beside it what spoke for and against the class.

Colours have one scale for all images of the scores folder; a value that is negligible on that scale leaves
the tissue grey. Legends stand outside the image. Where each panel lies is written into the PNG (text chunk
`atlas_path`), so the figure stays machine-readable.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from atlas_path import RESEARCH_USE_ONLY
from atlas_path.geometry import TOKEN_PX
from pipelines.colours import grey_of, paint
from pipelines.exports.picture import Picture
from pipelines.token_map import TokenMap

MARGIN, GAP, HEADER, FOOTER = 28, 24, 92, 156
INK, SOFT_INK, PAPER, LINE = (25, 25, 25), (105, 105, 105), (255, 255, 255), (150, 150, 150)
WARNING = (176, 32, 32)


@dataclass(frozen=True)
class Scale:
    """Colour scale of a cohort: full colour at `limit` (per mm2), cells of `bin_tokens` tokens a side."""

    limit: float
    bin_tokens: int
    unit: str = "logit per square mm"

    def shown(self) -> tuple[float, str]:
        """The limit and its unit for the legend; per square centimetre where it would be a tiny number."""
        if self.limit >= 0.01:
            return self.limit, self.unit
        return self.limit * 100.0, self.unit.replace("square mm", "square cm")


@dataclass(frozen=True)
class Caption:
    """What the header says, and under the picture the sum and what a test of the map found (three lines)."""

    title: str
    verdict: str
    notes: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


def binned(values: NDArray[np.float32], bin_tokens: int) -> NDArray[np.float32]:
    """Mean over cells of `bin_tokens` x `bin_tokens` tokens, NaN where none was evaluated; shape rounds up.

    Tokens that were not evaluated count as zero, so that a cell's mean times its area is its sum.
    """
    if bin_tokens == 1:
        return values
    rows, cols = -(-values.shape[0] // bin_tokens), -(-values.shape[1] // bin_tokens)
    padding = ((0, rows * bin_tokens - values.shape[0]), (0, cols * bin_tokens - values.shape[1]))
    cells = np.pad(values, padding, constant_values=np.nan).reshape(rows, bin_tokens, cols, bin_tokens)
    known = np.isfinite(cells)
    mean = np.where(known, cells, 0.0).sum(axis=(1, 3), dtype=np.float64) / bin_tokens**2
    return np.where(known.any(axis=(1, 3)), mean, np.nan).astype(np.float32)


def density(token_map: TokenMap) -> NDArray[np.float32]:
    """The raster of a map per mm2 of slide instead of per token."""
    mpp = token_map.frame.mpp
    return token_map.raster() / np.float32(TOKEN_PX**2 * mpp.y * mpp.x / 1e6)


def share_at(token_map: TokenMap, picture: Picture, scale: Scale) -> NDArray[np.float32]:
    """(h, w) of the picture: value of the cell under each pixel's centre, divided by the scale's limit."""
    cells = binned(density(token_map), scale.bin_tokens)
    cell_px = TOKEN_PX * scale.bin_tokens
    height, width = picture.pixels.shape[:2]
    rows = ((np.arange(height) + 0.5) * picture.step_y / cell_px).astype(np.int64)
    cols = ((np.arange(width) + 0.5) * picture.step_x / cell_px).astype(np.int64)
    rows, cols = rows.clip(max=cells.shape[0] - 1), cols.clip(max=cells.shape[1] - 1)
    return cells[rows[:, None], cols[None]] / np.float32(max(scale.limit, 1e-30))


def write_overlay(
    path: Path, token_map: TokenMap, picture: Picture, scale: Scale, caption: Caption
) -> dict[str, Any]:
    """Draw the figure and write it as PNG.

    Returns:
        The layout also stored in the file: for each panel `(x, y, width, height)` in figure pixels, and level
        pixels per figure pixel.
    """
    share = share_at(token_map, picture, scale)
    overlay = paint(grey_of(picture.pixels, picture.dark), share, picture.dark)
    _outline(overlay, np.isfinite(share))
    height, width = overlay.shape[:2]
    stacked = width > 1.5 * height
    panels_width = width if stacked else 2 * width + GAP
    panels_height = 2 * height + GAP if stacked else height
    figure_width = max(panels_width + 2 * MARGIN, 900)
    left = (figure_width - panels_width) // 2
    second = (left, HEADER + height + GAP) if stacked else (left + width + GAP, HEADER)
    figure = Image.new("RGB", (figure_width, HEADER + panels_height + FOOTER), PAPER)
    figure.paste(Image.fromarray(picture.pixels), (left, HEADER))
    figure.paste(Image.fromarray(overlay), second)

    draw = ImageDraw.Draw(figure)
    for x, y in ((left, HEADER), second):
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=LINE)
    _header(draw, caption, figure_width)
    top = HEADER + panels_height + 16
    um_per_px = token_map.frame.mpp.x * picture.step_x
    _scale_bar(draw, left, top, um_per_px, width)
    _colour_bar(draw, figure, figure_width, top, token_map, scale, picture.dark)
    for i, line in enumerate(caption.checks):
        draw.text((left, top + 46 + 20 * i), line, SOFT_INK, font=_font(15))
    draw.text((left, top + 112), RESEARCH_USE_ONLY, INK, font=_font(15))

    layout = {
        "slide_panel_xywh": [left, HEADER, width, height],
        "map_panel_xywh": [*second, width, height],
        "level_px_per_figure_px_yx": [picture.step_y, picture.step_x],
        "limit": scale.limit,
        "bin_tokens": scale.bin_tokens,
        "what": token_map.what,
    }
    _save(figure, layout, path)
    return layout


def read_layout(path: Path) -> dict[str, Any]:
    """The layout stored in a PNG written by `write_overlay`."""
    with Image.open(path) as figure:
        layout: dict[str, Any] = json.loads(figure.info["atlas_path"])
    return layout


def _save(figure: Image.Image, layout: dict[str, Any], path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("atlas_path", json.dumps(layout))
    info.add_text("Disclaimer", RESEARCH_USE_ONLY)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    figure.save(part, format="PNG", pnginfo=info)
    os.replace(part, path)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _outline(overlay: NDArray[np.uint8], evaluated: NDArray[np.bool_]) -> None:
    """A thin line around what the model saw: outside it nothing was evaluated."""
    contours, _ = cv2.findContours(evaluated.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(overlay, contours, -1, LINE, 1)


def _header(draw: ImageDraw.ImageDraw, caption: Caption, figure_width: int) -> None:
    draw.text((MARGIN, 14), caption.title, SOFT_INK, font=_font(17))
    draw.text((MARGIN, 38), caption.verdict, INK, font=_font(24))
    for i, note in enumerate(caption.notes):
        font = _font(15)
        left = figure_width - MARGIN - draw.textlength(note, font)
        draw.text((left, 16 + 20 * i), note, WARNING, font)


def nice_length_mm(longest_mm: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is not longer."""
    power = 10.0 ** math.floor(math.log10(longest_mm))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= longest_mm * (1 + 1e-9))


def _scale_bar(draw: ImageDraw.ImageDraw, left: int, top: int, um_per_px: float, width: int) -> None:
    length_mm = nice_length_mm(um_per_px * width * 0.3 / 1000)
    length_px = length_mm * 1000 / um_per_px
    draw.rectangle((left, top + 4, left + length_px, top + 9), fill=INK)
    label = f"{length_mm:g} mm" if length_mm >= 0.1 else f"{length_mm * 1000:g} \N{MICRO SIGN}m"
    draw.text((left, top + 14), label, INK, font=_font(17))


def _colour_bar(
    draw: ImageDraw.ImageDraw,
    figure: Image.Image,
    figure_width: int,
    top: int,
    token_map: TokenMap,
    scale: Scale,
    dark: bool,
) -> None:
    """The same colours as on the image, over white (or black for dark images), with its three numbers."""
    width = min(420, figure_width // 2 - MARGIN)
    left = figure_width - MARGIN - width
    lowest = -1.0 if token_map.signed else 0.0
    share = np.tile(np.linspace(lowest, 1.0, width, dtype=np.float32), (16, 1))
    bar = paint(np.full(share.shape, 0.0 if dark else 1.0), share, dark)
    figure.paste(Image.fromarray(bar), (left, top))
    draw.rectangle((left - 1, top - 1, left + width, top + 16), outline=LINE)
    small = _font(15)
    limit, unit = scale.shown()
    ticks = (-limit, 0.0, limit) if token_map.signed else (0.0, limit)
    for i, tick in enumerate(ticks):
        text = f"{tick:+.3g}" if token_map.signed and tick else f"{tick:.3g}"
        x = left + width * i / (len(ticks) - 1)
        shift = draw.textlength(text, small) * i / (len(ticks) - 1)
        draw.text((x - shift, top + 20), text, INK, font=small)
    if token_map.signed:
        draw.text((left, top + 38), "against", SOFT_INK, font=small)
        draw.text((left + width - draw.textlength("for", small), top + 38), "for", SOFT_INK, font=small)
    lines = [token_map.what, f"{unit}; one scale for all images of this folder"]
    for i, line in enumerate(lines):
        text_left = max(MARGIN, left + width - draw.textlength(line, small))
        draw.text((text_left, top + 58 + 19 * i), line, SOFT_INK, font=small)
