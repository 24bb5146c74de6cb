"""What would let a model of mammograms be right for the wrong reason, looked for before training.

Hard leaks (one woman or one picture in two splits) are errors. Shortcuts are nuisances of a site's practice
that go with the label: more images or work-up views for women with cancer, a scanner or export kind used for
them; each is reported with its strength (Cramer's V) and the p value of a chi-squared test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import chi2_contingency

from atlas_path.dicom import cbis_patient

NUISANCES = (
    "site", "vendor", "scanner", "image_kind", "coverage", "n_extra_views", "n_workup_views", "implant",
    "mpp_source", "flags",
)  # fmt: skip
SHORTCUT_P = 0.01
SHORTCUT_V = 0.1
FEWEST_CASES = 20
SHOWN = 5


@dataclass(frozen=True)
class Leak:
    """One finding: code, severity, and the line a person reads (pseudonyms only)."""

    code: str
    severity: Literal["error", "warning"]
    message: str


def find_leaks(
    rows: Sequence[Mapping[str, Any]], label: str | None = None, pixels: Mapping[str, str] | None = None
) -> list[Leak]:
    """Look through cohort rows (see `cohort_rows`).

    Args:
        rows: one row an image.
        label: label column for shortcuts; None skips them.
        pixels: image id -> hash of decoded pixels, for pictures that occur twice under different ids.
    """
    leaks = [
        *_in_two_splits(rows, "patient_id", "patient_in_two_splits"),
        *_in_two_splits(rows, "exam_id", "exam_in_two_splits"),
        *_split_identifiers(rows),
    ]
    if pixels:
        leaks += _same_pixels(rows, pixels)
    if label:
        leaks += _shortcuts(rows, label)
    return leaks


def _in_two_splits(rows: Sequence[Mapping[str, Any]], key: str, code: str) -> list[Leak]:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.get("split") and row.get(key):
            splits[str(row[key])].add(str(row["split"]))
    bad = sorted(name for name, found in splits.items() if len(found) > 1)
    if not bad:
        return []
    return [Leak(code, "error", f"{len(bad)} in more than one split: {_some(bad)}")]


def _split_identifiers(rows: Sequence[Mapping[str, Any]]) -> list[Leak]:
    """CBIS-DDSM patient ids taken as they stand make one woman several."""
    bad = sorted({str(row["patient_id"]) for row in rows if cbis_patient(str(row.get("patient_id", "")))})
    if not bad:
        return []
    line = f"{len(bad)} patient ids name split, side and view of a CBIS-DDSM film; use P_nnnnn alone"
    return [Leak("cbis_patient_ids", "error", line)]


def _same_pixels(rows: Sequence[Mapping[str, Any]], pixels: Mapping[str, str]) -> list[Leak]:
    holders: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        digest = pixels.get(str(row["image_id"]))
        if digest:
            holders[digest].append(row)
    leaks = []
    for members in holders.values():
        ids = sorted({str(row["image_id"]) for row in members})
        if len(ids) < 2:
            continue
        patients = {str(row.get("patient_id", "")) for row in members}
        splits = {str(row.get("split") or "") for row in members}
        severity: Literal["error", "warning"] = "error" if len(patients) > 1 or len(splits) > 1 else "warning"
        leaks.append(Leak("same_pixels", severity, f"the same picture under several ids: {_some(ids)}"))
    return leaks


def _shortcuts(rows: Sequence[Mapping[str, Any]], label: str) -> list[Leak]:
    cases: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        cases.setdefault(str(row["case_id"]), row)
    known = [row for row in cases.values() if str(row.get(label, "")) not in ("", "nan")]
    if len(known) < FEWEST_CASES:
        return []
    leaks = []
    for column in NUISANCES:
        if column not in known[0]:
            continue
        strength, p = association([str(row[column]) for row in known], [str(row[label]) for row in known])
        if p < SHORTCUT_P and strength >= SHORTCUT_V:
            line = f"{column} goes with {label} (Cramer's V {strength:.2f}, p {p:.2g}, {len(known)} cases)"
            leaks.append(Leak("shortcut", "warning", line))
    return leaks


def association(groups: Sequence[str], labels: Sequence[str]) -> tuple[float, float]:
    """(Cramer's V, p of the chi-squared test) of two categorical variables; (0, 1) when one is constant."""
    rows, cols = sorted(set(groups)), sorted(set(labels))
    if len(rows) < 2 or len(cols) < 2:
        return 0.0, 1.0
    counts = np.zeros((len(rows), len(cols)))
    for group, label in zip(groups, labels, strict=True):
        counts[rows.index(group), cols.index(label)] += 1
    chi2, p, _, _ = chi2_contingency(counts, correction=False)
    return float(np.sqrt(chi2 / (len(groups) * (min(counts.shape) - 1)))), float(p)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
