"""Galleries: the cases the model got most wrong, with their overlays, small enough to embed."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from atlas_path.report.html import esc, paragraph
from atlas_path.report.schema import Gallery

FOLDER = "gallery"
LONGEST_PX = 720
QUALITY = 82


def shrink(source: Path, target: Path) -> None:
    """Write a copy of a picture as JPEG, at most 720 px long, without any metadata.

    Raises:
        OSError: the picture cannot be read.
    """
    from PIL import Image

    with Image.open(source) as picture:
        small = picture.convert("RGB")
        small.thumbnail((LONGEST_PX, LONGEST_PX))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=QUALITY)
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
