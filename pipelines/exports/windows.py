"""Windows as a table, and the strongest ones as pictures: what to look at under the microscope first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from atlas_path import RESEARCH_USE_ONLY
from atlas_path.geometry import TOKEN_PX, WINDOW_PX
from atlas_path.results import write_table
from pipelines.colours import AGAINST, FOR
from pipelines.exports.overlay import Caption
from pipelines.exports.picture import rgb8_range, to_rgb8
from pipelines.token_map import TokenMap

if TYPE_CHECKING:
    from atlas_path.store import Store

COLUMNS = (
    "image_id",
    "rank",
    "minx",
    "miny",
    "width",
    "height",
    "peak_x",
    "peak_y",
    "peak_x_mm",
    "peak_y_mm",
    "value",
    "value_is",
    "share",
    "attention",
    "tissue_fraction",
    "window_row",
    "window_col",
)
CELL_PX, CAPTION_PX, GAP_PX, MARGIN_PX, TITLE_PX = 224, 40, 10, 20, 64


def window_rows(
    token_map: TokenMap, attention_N: NDArray[Any] | None, tissue_N: NDArray[Any]
) -> list[dict[str, Any]]:
    """One row a window, strongest evidence for the class first.

    Positions are pixels of level 0 in the full OpenSlide frame; `peak_*` is the centre of the window's
    strongest token, also in millimetres from the slide's top-left corner; `value` is the map summed over the
    window (`value_is` says of what), `share` its part of the absolute values of all windows.
    """
    frame = token_map.frame
    sums = token_map.window_sums().astype(np.float64)
    total = float(np.abs(sums).sum()) or 1.0
    boxes = token_map.window_boxes_px()
    peaks = token_map.peak_px()
    y0, x0 = frame.to_slide_px(boxes[:, 0], boxes[:, 1])
    y1, x1 = frame.to_slide_px(boxes[:, 2], boxes[:, 3])
    peak_y, peak_x = frame.to_slide_px(peaks[:, 0], peaks[:, 1])
    mm_y, mm_x = frame.mpp.y / frame.scale_y / 1000, frame.mpp.x / frame.scale_x / 1000
    rows = []
    for rank, i in enumerate(np.argsort(-sums, kind="stable"), start=1):
        rows.append(
            {
                "image_id": token_map.image_id,
                "rank": rank,
                "minx": round(float(x0[i]), 2),
                "miny": round(float(y0[i]), 2),
                "width": round(float(x1[i] - x0[i]), 2),
                "height": round(float(y1[i] - y0[i]), 2),
                "peak_x": round(float(peak_x[i]), 2),
                "peak_y": round(float(peak_y[i]), 2),
                "peak_x_mm": round(float(peak_x[i]) * mm_x, 4),
                "peak_y_mm": round(float(peak_y[i]) * mm_y, 4),
                "value": float(sums[i]),
                "value_is": token_map.what,
                "share": float(abs(sums[i]) / total),
                "attention": None if attention_N is None else float(attention_N[i]),
                "tissue_fraction": round(float(tissue_N[i]), 4),
                "window_row": int(token_map.row_col_N2[i, 0]),
                "window_col": int(token_map.row_col_N2[i, 1]),
            }
        )
    return rows


def write_windows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table of windows as CSV."""
    write_table(rows, COLUMNS, path)


def write_contact_sheet(
    path: Path,
    token_map: TokenMap,
    store: Store,
    level: int,
    rows: list[dict[str, Any]],
    caption: Caption,
    k: int,
) -> None:
    """The `k` windows that spoke most for the class above, the `k` that spoke most against it below.

    Each window is shown in its own colours with its strongest token framed; under it rank, contribution, and
    the position of that token in millimetres.
    """
    signed = token_map.signed
    top = [row for row in rows[:k] if row["value"] > 0 or not signed]
    bottom = [row for row in rows[::-1][:k] if row["value"] < 0] if signed else []
    bands = [
        (f"strongest for ({len(top)})" if signed else "highest", top, FOR),
        (f"strongest against ({len(bottom)})", bottom, AGAINST),
    ]
    bands = [band for band in bands if band[1]]
    columns = min(k, 8)
    lines = [-(-len(band[1]) // columns) for band in bands]
    width = max(2 * MARGIN_PX + columns * (CELL_PX + GAP_PX) - GAP_PX, 860)
    height = TITLE_PX + sum(30 + n * (CELL_PX + CAPTION_PX + GAP_PX) for n in lines) + 36
    window = rgb8_range(store)
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (MARGIN_PX, 12), f"{caption.title}   {caption.verdict}", (25, 25, 25), font=ImageFont.load_default(20)
    )
    draw.text((MARGIN_PX, 38), token_map.what, (105, 105, 105), font=ImageFont.load_default(15))
    y = TITLE_PX
    for (name, members, hue), n_lines in zip(bands, lines, strict=True):
        colour = tuple(round(255 * float(c)) for c in hue)
        draw.text((MARGIN_PX, y + 6), name, colour, font=ImageFont.load_default(16))
        y += 30
        for i, row in enumerate(members):
            at = (
                MARGIN_PX + i % columns * (CELL_PX + GAP_PX),
                y + i // columns * (CELL_PX + CAPTION_PX + GAP_PX),
            )
            _cell(sheet, draw, at, token_map, store, level, row, colour, window)
        y += n_lines * (CELL_PX + CAPTION_PX + GAP_PX)
    if not bands:
        draw.text((MARGIN_PX, y), "no window contributed", (105, 105, 105), font=ImageFont.load_default(16))
    draw.text((MARGIN_PX, height - 28), RESEARCH_USE_ONLY, (25, 25, 25), font=ImageFont.load_default(15))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    sheet.save(part, format="PNG")
    os.replace(part, path)


def _cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    token_map: TokenMap,
    store: Store,
    level: int,
    row: dict[str, Any],
    colour: tuple[int, ...],
    window: tuple[float, float] | None,
) -> None:
    where = np.array([[row["window_row"], row["window_col"]]], np.int64)
    pixels = np.moveaxis(store.read_windows(level, where)[0], 0, -1)
    sheet.paste(Image.fromarray(to_rgb8(pixels, window)).resize((CELL_PX, CELL_PX)), at)
    peak_y, peak_x = token_map.frame.from_slide_px(row["peak_y"], row["peak_x"])
    step = CELL_PX / WINDOW_PX
    centre_y = at[1] + (peak_y - row["window_row"] * WINDOW_PX) * step
    centre_x = at[0] + (peak_x - row["window_col"] * WINDOW_PX) * step
    half = (TOKEN_PX / 2 + 2) * step
    draw.rectangle(
        (centre_x - half, centre_y - half, centre_x + half, centre_y + half), outline=colour, width=2
    )
    draw.rectangle((at[0] - 2, at[1] - 2, at[0] + CELL_PX + 1, at[1] + CELL_PX + 1), outline=colour, width=2)
    font = ImageFont.load_default(14)
    below = at[1] + CELL_PX + 4
    draw.text((at[0], below), f"#{row['rank']}   {row['value']:+.3g}", (25, 25, 25), font=font)
    place = f"x {row['peak_x_mm']:.2f}, y {row['peak_y_mm']:.2f} mm"
    draw.text((at[0], below + 17), place, (105, 105, 105), font=font)
