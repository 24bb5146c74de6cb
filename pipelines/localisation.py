"""Does the map find the lesions? Pointing, token ranking, and CAMELYON16's FROC, with what chance would give.

Detections, lesions and FROC are those of `evaluate` (`evaluate_localise`, `atlas_path.stats.froc`), so that
the numbers beside a picture are the numbers of the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from atlas_path.errors import UsageError
from atlas_path.geometry import TOKEN_PX
from atlas_path.stats import froc
from pipelines.evaluate_localise import peaks
from pipelines.evaluate_truth import Points, Raster, Truth, read_truth
from pipelines.token_map import LevelFrame, TokenMap


@dataclass(frozen=True)
class ImageLocalisation:
    """One image. `chance` is the share of evaluated tokens that are lesion: what a random pointer hits."""

    image_id: str
    hits: froc.ImageHits
    n_lesions: int = 0
    pointing_hit: bool | None = None
    chance: float | None = None
    token_auroc: float | None = None
    token_ap: float | None = None

    def columns(self) -> dict[str, Any]:
        """As columns of `heatmaps.csv`."""
        return {
            "lesions": self.n_lesions,
            "pointing_hit": self.pointing_hit,
            "pointing_chance": self.chance,
            "token_auroc": self.token_auroc,
            "token_ap": self.token_ap,
        }


class LesionTruth:
    """Lesions of the scored images, from a CSV of boxes or circles, a GeoJSON, or a folder of GeoJSON.

    A CSV is in pixels of level 0 in the full OpenSlide frame; GeoJSON is taken as QuPath wrote it, so the
    bounds offset of the slide is added to it.

    Raises:
        UsageError: the file cannot be used, or names no image that was scored.
    """

    def __init__(self, path: Path, image_ids: Sequence[str]) -> None:
        self.truth: Truth = read_truth(path)
        self.from_qupath = path.is_dir() or path.suffix.lower() in (".geojson", ".json")
        if not any(self.truth.of(image_id) for image_id in image_ids):
            raise UsageError(path, "names none of the scored images", "use their image ids or file names")

    def outlines(self, image_id: str, frame: LevelFrame) -> list[Points]:
        """Outlines (n, 2) of (x, y) in slide pixels."""
        offset = np.array([frame.bounds_x0, frame.bounds_y0]) if self.from_qupath else np.zeros(2)
        return [outline + offset for outline in self.truth.of(image_id)]

    def localise(self, token_map: TokenMap) -> ImageLocalisation:
        """Judge a map whose positive values are evidence for the lesions."""
        frame = token_map.frame
        raster = Raster.over(
            frame.origin_x0,
            frame.origin_y0,
            frame.width_px * frame.scale_x,
            frame.height_px * frame.scale_y,
            frame.mpp.x / frame.scale_x,
            frame.mpp.y / frame.scale_y,
        )
        row, col, score = peaks(
            token_map.raster().astype(np.float64), TOKEN_PX * frame.mpp.y, TOKEN_PX * frame.mpp.x
        )
        y, x = _on_raster(raster, frame, row, col)
        outlines = self.outlines(token_map.image_id, frame)
        if not outlines:
            return ImageLocalisation(token_map.image_id, froc.judge(None, score, y, x))
        lesions = raster.lesions(outlines)
        inside_N = token_map.tokens_inside()
        row_NT, col_NT = token_map.token_row_col()
        token_y, token_x = _on_raster(raster, frame, row_NT[inside_N], col_NT[inside_N])
        sick = _at(lesions.labels, token_y, token_x)
        both = bool(sick.any() and not sick.all())
        values = token_map.value_NT[inside_N]
        return ImageLocalisation(
            image_id=token_map.image_id,
            hits=froc.judge(lesions, score, y, x),
            n_lesions=len(lesions.ignored_n),
            pointing_hit=bool(_at(lesions.labels, y[:1], x[:1])[0]),
            chance=float(sick.mean()),
            token_auroc=float(roc_auc_score(sick, values)) if both else None,
            token_ap=float(average_precision_score(sick, values)) if both else None,
        )


def _on_raster(raster: Raster, frame: LevelFrame, row: Any, col: Any) -> tuple[np.ndarray, np.ndarray]:
    """Raster pixels (y, x) of the centres of tokens."""
    y0, x0 = frame.to_slide_px((row + 0.5) * TOKEN_PX, (col + 0.5) * TOKEN_PX)
    x, y = raster.to_px(x0, y0)
    return np.asarray(y), np.asarray(x)


def _at(labels: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether raster points lie on a lesion."""
    row, col = np.floor(y).astype(int), np.floor(x).astype(int)
    within = (row >= 0) & (row < labels.shape[0]) & (col >= 0) & (col < labels.shape[1])
    found = np.zeros(len(row), bool)
    found[within] = labels[row[within], col[within]] > 0
    return found


def summary(images: Sequence[ImageLocalisation]) -> dict[str, Any]:
    """Pointing accuracy beside its chance level, mean token ranking, and FROC over all images."""
    pointed = [image for image in images if image.pointing_hit is not None]
    curve = froc.froc([image.hits for image in images]) if any(i.hits.best_l.size for i in images) else None
    return {
        "images": len(images),
        "images_with_lesions": len(pointed),
        "pointing": _mean([float(bool(image.pointing_hit)) for image in pointed]),
        "pointing_chance": _mean([i.chance for i in pointed if i.chance is not None]),
        "token_auroc": _mean([i.token_auroc for i in pointed if i.token_auroc is not None]),
        "token_average_precision": _mean([i.token_ap for i in pointed if i.token_ap is not None]),
        "froc_score": None if curve is None else float(curve.score),
        "froc_sensitivity_at": None
        if curve is None
        else {f"{rate:g}": float(v) for rate, v in zip(froc.FALSE_POSITIVES, curve.at, strict=True)},
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
