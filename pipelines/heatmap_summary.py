"""What was exported and how far to trust it: `heatmaps.csv`, `summary.json`, and `summary.md` for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from atlas_path import RESEARCH_USE_ONLY
from atlas_path.results import commit_text, write_table
from pipelines import faithfulness, localisation
from pipelines.exports.overlay import Scale
from pipelines.faithfulness import Faithfulness
from pipelines.localisation import ImageLocalisation
from pipelines.work import ImageRecord

COLUMNS = (
    "image_id", "case_id", "status", "reason", "class", "what", "unit", "limit", "sum", "overlay", "objects",
    "object_tokens", "object_share",
    *(f.name for f in fields(Faithfulness)),
    "lesions", "pointing_hit", "pointing_chance", "token_auroc", "token_ap", "error",
)  # fmt: skip


def write_summary(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    records: Sequence[ImageRecord],
    scale: Scale,
    checks: Mapping[str, Faithfulness],
    found: Sequence[ImageLocalisation],
) -> None:
    """Write the three files.

    Args:
        rows: one row an exported image.
        records: what became of every image; failures get a row with their reason.
        checks: deletion and insertion by case.
        found: localisation by image, empty without truth.
    """
    table = [dict(row) for row in rows]
    table += [
        {
            "image_id": r.image_id,
            "case_id": r.case_id,
            "status": r.status,
            "reason": r.reason,
            "error": r.error,
        }
        for r in records
        if not r.ok
    ]
    write_table(table, COLUMNS, out / "heatmaps.csv")
    content: dict[str, Any] = {
        "intended_use": RESEARCH_USE_ONLY,
        "images": len(rows),
        "failed": sum(not record.ok for record in records),
        "scale": {"limit": scale.limit, "unit": scale.unit, "bin_tokens": scale.bin_tokens},
        "faithfulness": faithfulness.summary(list(checks.values())) if checks else None,
        "localisation": localisation.summary(found) if found else None,
    }
    commit_text(out / "summary.json", json.dumps(content, indent=1) + "\n")
    commit_text(out / "summary.md", _words(content))


def _words(content: Mapping[str, Any]) -> str:
    scale = content["scale"]
    lines = [
        "# Heatmaps",
        "",
        f"{content['images']} images, {content['failed']} not exported. Full colour is {scale['limit']:.3g} "
        f"{scale['unit']}, the same for all images. {RESEARCH_USE_ONLY}",
    ]
    check = content["faithfulness"]
    if check and not check["tested"]:
        lines += ["", f"The maps were not tested: {check['why_not'] or 'time was short'}."]
    elif check:
        lines += [
            "",
            "## Do the maps point at what the model used?",
            "",
            f"Tested {check['tested']} of {check['cases']} cases by taking windows away and giving them "
            f"back: "
            f"{check['faithful']} maps beat the random order both ways.",
            "",
            "| | mean gain in support over random order |",
            "|---|---|",
            f"| deletion (support lost sooner) | {_number(check['deletion_gain'])} |",
            f"| insertion (support regained sooner) | {_number(check['insertion_gain'])} |",
        ]
    if found := content["localisation"]:
        lines += [
            "",
            "## Do the maps find the lesions?",
            "",
            f"{found['images_with_lesions']} of {found['images']} images have lesions.",
            "",
            "| | value | chance |",
            "|---|---|---|",
            f"| strongest peak lies on a lesion | {_number(found['pointing'])} "
            f"| {_number(found['pointing_chance'])} |",
            f"| tokens ranked (AUROC) | {_number(found['token_auroc'])} | 0.500 |",
            f"| FROC score (CAMELYON16) | {_number(found['froc_score'])} | |",
        ]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
