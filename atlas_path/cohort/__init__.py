"""Cohorts: which images belong to which case, patient, label and split."""

from __future__ import annotations

from atlas_path.cohort.lock import read_lock, write_lock
from atlas_path.cohort.splits import assign_splits, check_leaks, fold_view, split_table
from atlas_path.cohort.table import Case, Cohort, ImageRow, read_cohort
from atlas_path.cohort.targets import Targets, encode_targets

__all__ = [
    "Case",
    "Cohort",
    "ImageRow",
    "Targets",
    "assign_splits",
    "check_leaks",
    "encode_targets",
    "fold_view",
    "read_cohort",
    "read_lock",
    "split_table",
    "write_lock",
]
