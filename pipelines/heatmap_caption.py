"""The words over a picture: which case, what was predicted, and what to know before believing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from atlas_path.results import ScoresInfo
from pipelines.attribution_store import AttributionInfo
from pipelines.explain import Explained
from pipelines.exports.overlay import Caption
from pipelines.faithfulness import Faithfulness
from pipelines.token_map import TokenMap

LONGEST_NOTE = 76


def caption_of(
    row: Mapping[str, Any],
    image: Mapping[str, Any],
    info: ScoresInfo,
    attribution: AttributionInfo,
    explained: Explained,
    token_map: TokenMap,
    check: Faithfulness | None = None,
) -> Caption:
    """Header of an image's figures.

    Args:
        row: the case's row of `predictions.csv`.
        image: the image's row of `images.csv`.
        attribution: what is stored with its map.
        check: what deletion and insertion showed.
    """
    title = f"case {row['case_id']}"
    if row["case_id"] != token_map.image_id:
        title += f"   image {token_map.image_id}"
    notes = []
    if str(image.get("in_distribution")) == "False":
        notes.append(f"unlike the training images: {image['deviations']}")
    if row["case_id"] in info.leaked_training_cases:
        notes.append("this case was used for training")
    notes = [_shortened(note) for note in notes]
    lines = (*_sum(attribution, explained, token_map), *_tested(check))
    return Caption(title, verdict(row, info, explained), tuple(notes), lines)


def _sum(attribution: AttributionInfo, explained: Explained, token_map: TokenMap) -> tuple[str, ...]:
    """How the map adds up: strong evidence for a class may still be outweighed by the baseline."""
    if token_map.what != explained.what:
        return ()  # not the terms of the logit
    values = token_map.value_NT
    speaks_for = float(values[values > 0].sum(dtype="float64"))
    against = float(values[values < 0].sum(dtype="float64"))
    baseline = float(np.dot(attribution.bias, explained.weight_O))
    total = float(np.dot(attribution.case_logits, explained.weight_O))
    rest = total - baseline - speaks_for - against
    other = f", other images {rest:+.2f}" if abs(rest) > 0.005 else ""
    return (
        f"Evidence {speaks_for:+.2f} for and {against:+.2f} against{other}, baseline {baseline:+.2f}: "
        f"logit {total:+.2f}",
    )


def _tested(check: Faithfulness | None) -> tuple[str, ...]:
    """The test of the map, in a line or two."""
    if check is None or check.support is None:
        return ()
    lines = []
    if check.deletion_map is not None:
        lines.append(
            f"Without the windows that speak most for the call, its probability is {check.deletion_map:.2f} "
            f"(without random ones {check.deletion_random:.2f}, with all {check.support:.2f})"
        )
    if check.insertion_map is not None:
        lines.append(
            f"With only these windows it is {check.insertion_map:.2f} "
            f"(with only random ones {check.insertion_random:.2f})"
        )
    return tuple(lines)


def verdict(row: Mapping[str, Any], info: ScoresInfo, explained: Explained) -> str:
    """What was predicted, in one line."""
    if row["status"] == "abstained":
        return "no prediction: the case is unlike the training images"
    kind, name = info.task.kind, explained.label
    calibrated = "calibrated" if str(row["calibrated"]) == "True" else "not calibrated"
    if kind in ("binary", "multiclass", "multilabel"):
        text = f"{name}: probability {float(row[f'prob_{name}']):.3f} ({calibrated})"
        if kind == "multiclass" or (kind == "binary" and name == info.task.classes[0]):
            return f"{text}, predicted: {row['pred_label']}"
        threshold = _threshold(row, info, name)
        reached = name in str(row["pred_label"]).split(";")
        return f"{text}, {'reaches' if reached else 'below'} the threshold {threshold:.3f}"
    if kind == "ordinal":
        chance = float(row[f"prob_{row['pred_label']}"])
        return f"{info.task.name}: {row['pred_label']}, probability {chance:.3f} ({calibrated})"
    if kind == "survival":
        return f"{info.task.name}: risk {float(row['risk']):.3f}"
    return f"{name}: {float(row[f'value_{name}']):.4g}"


def _threshold(row: Mapping[str, Any], info: ScoresInfo, name: str) -> float:
    parts = str(row["threshold"]).split(";")
    return float(parts[info.task.classes.index(name)] if len(parts) > 1 else parts[0])


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_NOTE else text[: LONGEST_NOTE - 3] + "..."
