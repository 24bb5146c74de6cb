"""Galleries: the cases the model got most wrong, with their overlays, small enough to embed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from atlas_path.report.html import esc, paragraph
from atlas_path.report.schema import Gallery

FOLDER = "gallery"
LONGEST_PX = 720
QUALITY = 82


def shrink(sources: Sequence[Path], target: Path) -> None:
    """Write one to four pictures side by side (two a row) as a JPEG at most 720 px wide, without metadata.

    Raises:
        OSError: a picture cannot be read.
    """
    from PIL import Image

    columns = min(2, len(sources))
    side = LONGEST_PX // columns
    small = []
    for source in sources:
        with Image.open(source) as picture:
            copy = picture.convert("RGB")
        copy.thumbnail((side, side))
        small.append(copy)
    rows = [small[k : k + columns] for k in range(0, len(small), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    width = max(sum(picture.width for picture in row) for row in rows)
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width
        top += height
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=QUALITY)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(buffer.getvalue())


def gallery_html(gallery: Gallery, folder: Path) -> str:
    """A gallery; a case without an overlay is still listed."""
    if not gallery.items:
        return f"<h3>{esc(gallery.title)}</h3>" + paragraph("None.")
    shown = []
    for item in gallery.items:
        caption = f"{item.case_id}: probability {item.probability:.3f}, label {item.label}"
        caption += f". {item.note}" if item.note else ""
        picture = ""
        if item.image is not None:
            data = base64.b64encode((folder / FOLDER / item.image).read_bytes()).decode()
            picture = f'<img src="data:image/jpeg;base64,{data}" alt="{esc(caption)}">'
        shown.append(f"<figure>{picture}<figcaption>{esc(caption)}</figcaption></figure>")
    return f'<h3>{esc(gallery.title)}</h3><div class="gallery">{"".join(shown)}</div>'
