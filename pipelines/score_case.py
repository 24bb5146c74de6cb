"""One case: forward pass, check of the map, guard, and what is written of it.

The result of a case is one JSON record, `cases/<case_id>.json`, written after its maps. A later run takes it
over when nothing that could change it has changed (`case_key`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from atlas_path.errors import ModelError
from atlas_path.results import commit_text, decide, safe_name
from pipelines.attribution_store import attribution_path
from pipelines.data import CasePixels
from pipelines.ensemble import CaseMaps, Ensemble, MemberResult, mean_values
from pipelines.guard import deviations, leaked, sample_rows, source_categories, window_statistics
from pipelines.score_feed import ReadyCase
from pipelines.score_maps import content_hash, relative, store_key, write_maps

COMPLETENESS_LIMIT = 1e-4
RECORD_REVISION = 1


class IncompleteMapError(ModelError):
    """Contributions and bias do not add up to the logit: the map would not show why."""

    reason = "incomplete_map"


class CaseRecord(BaseModel):
    """What is kept of a scored case: table rows as written, and the key that says when they still hold."""

    model_config = ConfigDict(extra="forbid")

    key: str
    row: dict[str, Any]
    images: list[dict[str, Any]]
    members: list[dict[str, Any]]
    leak: str = ""


@dataclass(frozen=True)
class Judgement:
    """How cases are decided and guarded."""

    operating_point: str | None
    abstain: bool
    write_maps: bool


def case_key(case: ReadyCase, ensemble: Ensemble, judgement: Judgement) -> str:
    """Changes when the models, the images or the way of judging change."""
    images = [(image.planned.image_id, store_key(image.store), image.ref.kind) for image in case.images]
    parts = {
        "revision": RECORD_REVISION,
        "model": ensemble.key,
        "case": [case.plan.case_id, case.plan.patient_id],
        "images": images,
        "faults": sorted(fault.image_id for fault in case.faults),
        "judgement": [judgement.operating_point, judgement.abstain, judgement.write_maps],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def record_path(scores: Path, case_id: str) -> Path:
    """Where a case's record lies; a short hash keeps ids apart that look alike as file names."""
    short = hashlib.sha256(case_id.encode()).hexdigest()[:8]
    return scores / "cases" / f"{safe_name(case_id)}.{short}.json"


def read_record(scores: Path, case_id: str, key: str) -> CaseRecord | None:
    """The record of an earlier run if it still holds, else None."""
    path = record_path(scores, case_id)
    try:
        record = CaseRecord.model_validate_json(path.read_text())
    except (OSError, ValueError):
        return None
    maps = [attribution_path(scores, image["image_id"]) for image in record.images if image["has_map"]]
    there = all((path / "zarr.json").is_file() for path in maps)
    return record if record.key == key and there else None


def case_pixels(case: ReadyCase) -> CasePixels:
    """The case as the packer wants it; pixels are those read by the feed."""
    assert case.pixels_NCHW is not None
    row_col = np.concatenate([image.ref.row_col for image in case.images])
    counts = [image.ref.n_windows for image in case.images]
    return CasePixels(
        pixels_NCHW=case.pixels_NCHW,
        row_N=row_col[:, 0].copy(),
        col_N=row_col[:, 1].copy(),
        image_N=np.repeat(np.arange(len(counts)), counts),
        size_I2=np.asarray([image.ref.size_px for image in case.images], np.int64),
        mpp_I2=np.asarray([image.ref.mpp for image in case.images], np.float32),
        kind_I=np.asarray([image.ref.kind for image in case.images], np.int64),
    )


def finish_case(
    scores: Path,
    case: ReadyCase,
    results: Sequence[MemberResult],
    maps: CaseMaps,
    ensemble: Ensemble,
    judgement: Judgement,
) -> CaseRecord:
    """Check, judge and write one scored case.

    Raises:
        IncompleteMapError: contributions do not add up to the logit.
    """
    errors = [r.completeness_error for r in results if r.completeness_error is not None]
    if errors and max(errors) > COMPLETENESS_LIMIT:
        raise IncompleteMapError(
            case.plan.case_id,
            f"contributions miss the logit by {max(errors):.2g} of their size",
            "report this with the model; use --no-maps to score without maps",
        )
    images = _image_rows(scores, case, ensemble, maps.contribution_NTO is not None and judgement.write_maps)
    if judgement.write_maps and maps.contribution_NTO is not None:
        write_maps(scores, case, maps, ensemble, max(errors, default=0.0))
    leak = leaked(
        case.plan.case_id,
        [content_hash(image.store) for image in case.images],
        _all_training_cases(ensemble),
    )
    record = CaseRecord(
        key=case_key(case, ensemble, judgement),
        row=_row(case, results, images, ensemble, judgement, leak),
        images=images,
        members=_member_rows(case.plan.case_id, results, ensemble),
        leak=leak or "",
    )
    commit_text(record_path(scores, case.plan.case_id), record.model_dump_json(indent=1) + "\n")
    return record


def empty_row(
    case_id: str, patient_id: str, ensemble: Ensemble, status: Literal["failed", "abstained"], reason: str
) -> dict[str, Any]:
    """A row without a prediction."""
    row: dict[str, Any] = {"case_id": case_id, "patient_id": patient_id, "task": ensemble.task.name}
    row |= {"pred_label": "", **dict.fromkeys(ensemble.task.value_columns()), "threshold": ""}
    row |= {"calibrated": ensemble.calibrated, "n_images": 0, "n_windows": 0, "in_distribution": None}
    return row | {"model_sha256": ensemble.sha256, "status": status, "reason": reason}


def _row(
    case: ReadyCase,
    results: Sequence[MemberResult],
    images: Sequence[dict[str, Any]],
    ensemble: Ensemble,
    judgement: Judgement,
    leak: str | None,
) -> dict[str, Any]:
    values = mean_values(results)
    label, threshold = decide(ensemble.task, values.tolist(), ensemble.points, judgement.operating_point)
    known = [image["in_distribution"] for image in images if image["in_distribution"] is not None]
    inside = all(known) if known else None
    reasons = [f"{image['image_id']}: {image['deviations']}" for image in images if image["deviations"]]
    reasons += [f"{fault.image_id} left out: {fault.reason}" for fault in case.faults]
    if leak:
        reasons.append(f"training case: {leak}")
    row = empty_row(case.plan.case_id, case.plan.patient_id, ensemble, "abstained", "; ".join(reasons))
    row |= {
        "n_images": len(case.images),
        "n_windows": sum(image.ref.n_windows for image in case.images),
        "in_distribution": inside,
    }
    if inside is False and judgement.abstain:
        return row
    columns = ensemble.task.value_columns()
    predicted = dict(zip(columns, values.tolist(), strict=True))
    return row | predicted | {"pred_label": label, "threshold": threshold, "status": "done"}


def _image_rows(scores: Path, case: ReadyCase, ensemble: Ensemble, has_map: bool) -> list[dict[str, Any]]:
    assert case.pixels_NCHW is not None
    rows, start = [], 0
    for image in case.images:
        own = case.pixels_NCHW[start : start + image.ref.n_windows]
        start += image.ref.n_windows
        measures: dict[str, float | str] = dict(
            window_statistics(own[sample_rows(len(own))], len(own), image.ref.mpp)
        )
        source = image.store.meta.source
        measures |= source_categories(source.vendor, source.compression)
        found = deviations(measures, ensemble.info.get("training_statistics"))
        rows.append(
            {
                "image_id": image.planned.image_id,
                "case_id": case.plan.case_id,
                "patient_id": case.plan.patient_id,
                "store": relative(image.store.path, scores),
                "in_distribution": None if found is None else not found,
                "deviations": "; ".join(found or []),
                "has_map": has_map,
                **measures,
            }
        )
    return rows


def _member_rows(case_id: str, results: Sequence[MemberResult], ensemble: Ensemble) -> list[dict[str, Any]]:
    columns = ensemble.task.value_columns()
    return [
        {
            "case_id": case_id,
            "member": result.name,
            "model_sha256": result.sha256,
            **{f"logit_{i}": float(v) for i, v in enumerate(result.logits_O)},
            **dict(zip(columns, result.values.tolist(), strict=True)),
            "completeness_error": result.completeness_error,
        }
        for result in results
    ]


def _all_training_cases(ensemble: Ensemble) -> dict[str, list[str]]:
    """Training cases of every member together."""
    together: dict[str, set[str]] = {"case_ids": set(), "image_fingerprints": set()}
    for member in ensemble.members:
        cases = member.info.get("training_cases") or {}
        for name, values in together.items():
            values.update(cases.get(name) or [])
    return {name: sorted(values) for name, values in together.items()}
