"""What makes a cohort lie: the same pixels twice, and labels that can be read off the site or scanner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from atlas_path.cohort.table import Cohort, cohort_faults
from atlas_path.cohort.targets import Targets

SHORTCUT_COLUMNS = ("site", "scanner")
MIN_CASES = 10
SUSPICIOUS_V = 0.3
SUSPICIOUS_P = 0.01


def duplicate_pixels(source: Path, pixels: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """Find images whose pixels are the same.

    Args:
        source: the cohort table, for messages.
        pixels: image_id -> (content hash, case_id, split).

    Returns:
        Warnings about duplicates inside one split.

    Raises:
        CohortError: the same pixels are in two splits: the test would be no test.
    """
    same: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for image_id, (digest, case_id, split) in pixels.items():
        same[digest].append((image_id, case_id, split))
    faults, warnings = [], []
    for members in same.values():
        if len(members) < 2:
            continue
        names = ", ".join(image_id for image_id, _, _ in members)
        splits = sorted({split for _, _, split in members})
        if len(splits) > 1:
            faults.append(f"images {names} have the same pixels but are in {' and '.join(splits)}")
        else:
            warnings.append(f"images {names} have the same pixels")
    if faults:
        raise cohort_faults(source, faults, "leak: keep one of them")
    return warnings


def shortcuts(cohort: Cohort, targets: Targets) -> list[str]:
    """Warn where site or scanner alone tell much about the label (Cramer's V with a chi-square test)."""
    from scipy.stats import chi2_contingency

    warnings = []
    for column in SHORTCUT_COLUMNS:
        pairs = [
            (str(value), targets.stratum(case.case_id))
            for case in cohort.cases
            if (value := getattr(case, column)) is not None and targets.is_labelled(case.case_id)
        ]
        rows, labels = sorted({a for a, _ in pairs}), sorted({b for _, b in pairs})
        if len(pairs) < MIN_CASES or len(rows) < 2 or len(labels) < 2:
            continue
        counts = np.zeros((len(rows), len(labels)))
        for a, b in pairs:
            counts[rows.index(a), labels.index(b)] += 1
        test = chi2_contingency(counts, correction=False)
        v = float(np.sqrt(test.statistic / (len(pairs) * (min(counts.shape) - 1))))
        if v >= SUSPICIOUS_V and test.pvalue < SUSPICIOUS_P:
            warnings.append(
                f"the label can be guessed from '{column}' (Cramer's V {v:.2f}, p {test.pvalue:.1g}, "
                f"{len(pairs)} cases): compare results within one {column}, or hold {column}s out "
                f"(split.test_sites, split.group_by)"
            )
    return warnings
