"""The cases the model got most wrong, with the overlays that `heatmap` made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atlas_path.report.gallery import FOLDER, shrink
from atlas_path.report.schema import Gallery, GalleryItem
from atlas_path.results import safe_name
from pipelines.evaluate_inputs import Predictions, read_text_table
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import Outcome

MOST_OVERLAYS = 4


def galleries(
    outcome: Outcome, threshold: float | None, predictions: Predictions, options: EvaluateOptions, out: Path
) -> list[Gallery]:
    """False positives from the highest probability down, false negatives from the lowest up.

    Without a frozen threshold the most wrong ranking is shown instead, and the titles say so.
    """
    if options.gallery == 0 or not outcome.label.size:
        return []
    overlays = find_overlays(predictions, options)
    made = []
    for positive, title in ((False, "False positives"), (True, "False negatives")):
        inside = outcome.label == positive
        if threshold is not None:
            inside &= (outcome.prob >= threshold) != positive
            title += f" of {outcome.title}: {int(inside.sum())} in all, the most confident first"
        else:
            title = (
                f"{'Lowest-ranked positives' if positive else 'Highest-ranked negatives'} for {outcome.title}"
            )
        rows = np.flatnonzero(inside)
        order = rows[np.argsort(outcome.prob[rows] if positive else -outcome.prob[rows], kind="stable")]
        items = [_item(outcome, int(k), positive, overlays, out) for k in order[: options.gallery]]
        made.append(Gallery(title=title, items=items))
    return made


def find_overlays(predictions: Predictions, options: EvaluateOptions) -> dict[str, list[Path]]:
    """Case id -> overlays of its images, by `images.csv` of the scores, or named after the case."""
    folder = options.heatmaps
    if folder is None and predictions.folder is not None:
        folder = predictions.folder / "heatmaps"
    if folder is None or not folder.is_dir():
        return {}
    found: dict[str, list[Path]] = {}
    listing = predictions.folder / "images.csv" if predictions.folder else None
    if listing is not None and listing.is_file():
        for row in read_text_table(listing).to_dict("records"):
            picture = folder / f"{row.get('image_id')}.png"
            if picture.is_file():
                found.setdefault(str(row.get("case_id")), []).append(picture)
    for picture in sorted(folder.glob("*.png")):
        found.setdefault(picture.stem, [picture])
    return found


def _item(
    outcome: Outcome, row: int, positive: bool, overlays: dict[str, list[Path]], out: Path
) -> GalleryItem:
    case_id = str(outcome.table["case_id"].iloc[row])
    sources, name, note = overlays.get(case_id, []), None, ""
    if sources:
        name = f"{safe_name(case_id)}.jpg"
        try:
            shrink(sources[:MOST_OVERLAYS], out / FOLDER / name)
        except OSError as error:
            name, note = None, f"overlay unreadable ({type(error).__name__})"
        if len(sources) > MOST_OVERLAYS:
            note = f"{MOST_OVERLAYS} of {len(sources)} images shown"
    label = outcome.title if positive else outcome.other_title
    return GalleryItem(
        case_id=case_id, probability=float(outcome.prob[row]), label=label, image=name, note=note
    )
