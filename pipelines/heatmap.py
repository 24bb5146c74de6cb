"""`heatmap`: from stored attribution to files that people and other programs open.

Nothing is predicted here: the map is the one stored with the prediction (or, with another `method`, computed
from the same windows and the same model). All images of a scores folder share one colour scale. Beside the
pictures stands a test of each: windows are taken away and given back in the map's order and at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas_path.errors import AtlasPathError, ModelError, UsageError
from atlas_path.progress import progress, say
from atlas_path.results import ScoresInfo, read_predictions, read_scores_info, read_table
from pipelines.attribution_store import attribution_path, read_info
from pipelines.explain import explained_output
from pipelines.faithfulness import Faithfulness, measure
from pipelines.heatmap_image import Target, export_image
from pipelines.heatmap_maps import MapSource
from pipelines.heatmap_options import FORMATS, HeatmapOptions
from pipelines.heatmap_scale import cohort_scale
from pipelines.heatmap_summary import write_summary
from pipelines.localisation import ImageLocalisation, LesionTruth
from pipelines.work import BatchResult, ImageRecord

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMATS", "HeatmapOptions", "find_targets", "heatmap"]


def heatmap(scores: Path, options: HeatmapOptions) -> BatchResult:
    """Export the maps of every scored image.

    Writes, under `<scores>/heatmaps/`: `<image_id>.png`, a folder `<image_id>/` with the other formats,
    `heatmaps.csv`, `summary.json` and `summary.md`. An image that cannot be exported becomes a row with its
    reason.

    Raises:
        UsageError: `scores` is not a scores folder, there is nothing to export, or the truth cannot be used.
    """
    info = read_scores_info(scores)
    targets = find_targets(scores, info, options)
    out = options.out or scores / "heatmaps"
    source = MapSource(scores, info, options.method, options.model, options.stores, options.device)
    truth = LesionTruth(options.truth, [t.info.image_id for t in targets]) if options.truth else None
    usable, records = _prepared(targets, source)
    maps = (source.read(target.info, target.explained) for target in usable)
    scale = cohort_scale(maps, options.limit, options.long_side_px)
    checker = _Checker(source, options.faithfulness_seconds)
    rows: list[dict[str, Any]] = []
    found: list[ImageLocalisation] = []
    with progress("heatmap", len(usable)) as advance:
        for target in usable:
            try:
                check = checker.check(target)
                row = export_image(out, target, source, scale, options, info, check)
                row |= check.columns() if check else {}
                if truth:
                    place = truth.localise(source.read(target.info, target.explained))
                    found.append(place)
                    row |= place.columns()
                rows.append(row)
                record = ImageRecord(target.info.image_id, target.info.case_id, "done", "written")
            except AtlasPathError as error:
                record = ImageRecord.failure(target.info.image_id, error, case_id=target.info.case_id)
            records.append(record)
            advance(record.image_id if record.ok else f"{record.image_id}: {record.error}", 1)
    write_summary(out, rows, records, scale, checker.done, found)
    return BatchResult.of(records)


def find_targets(scores: Path, info: ScoresInfo, options: HeatmapOptions) -> list[Target]:
    """The images that have maps, with their case's row and what is to be explained.

    Raises:
        UsageError: none, or a class or case that does not exist.
    """
    rows = {str(row["case_id"]): row for row in _records(read_predictions(scores))}
    unknown = sorted(set(options.cases) - set(rows))
    if unknown:
        raise UsageError(f"--case {unknown[0]}", "is not in predictions.csv", "give ids of scored cases")
    targets = []
    for image in _records(read_table(scores / "images.csv")):
        if not image["has_map"] or (options.cases and image["case_id"] not in options.cases):
            continue
        attribution = read_info(attribution_path(scores, str(image["image_id"])))
        row = rows[str(image["case_id"])]
        predicted = str(row.get("pred_label", ""))
        explained = explained_output(info.task, len(attribution.bias), options.label, predicted)
        targets.append(Target(attribution, row, image, explained))
    if not targets:
        raise UsageError(scores, "holds no maps", "score with maps, and with a local-evidence model")
    return targets


def _prepared(targets: Sequence[Target], source: MapSource) -> tuple[list[Target], list[ImageRecord]]:
    """Compute what the method needs; images for which that fails become records."""
    usable, records = [], []
    for target in targets:
        try:
            source.prepare(target.info, target.explained)
            usable.append(target)
        except AtlasPathError as error:
            failure = ImageRecord.failure(target.info.image_id, error, case_id=target.info.case_id)
            records.append(failure)
    return usable, records


class _Checker:
    """Deletion and insertion, once a case; without the model the pictures are still made, and it is said."""

    def __init__(self, source: MapSource, seconds: float) -> None:
        self.source, self.seconds = source, seconds
        self.done: dict[str, Faithfulness] = {}

    def check(self, target: Target) -> Faithfulness | None:
        case_id = target.info.case_id
        if self.seconds > 0 and case_id not in self.done:
            self.done[case_id] = self._measure(target)
        return self.done.get(case_id)

    def _measure(self, target: Target) -> Faithfulness:
        try:
            ensemble = self.source.ensemble()
        except ModelError as error:
            say(f"deletion and insertion are left out: {error}")
            self.seconds = 0
            return Faithfulness(note="the model is not at hand")
        images = self.source.case_images(target.info.case_id)
        evidence = [self.source.read(image, target.explained).window_sums() for image in images]
        batch = self.source.batch(target.info.case_id)
        return measure(ensemble, batch, np.concatenate(evidence), target.explained, self.seconds)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
