"""Performance by site, scanner, age and whatever else the cohort holds; small groups are not shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas_path.errors import UsageError
from atlas_path.report.schema_base import Number, finite
from atlas_path.report.schema_binary import OperatingPoint, Shortcut, SubgroupRow, SubgroupTable
from atlas_path.stats import discrimination, operating, subgroups
from atlas_path.stats.calibration import calibrate_estimates
from atlas_path.stats.intervals import clusters, proportion
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import Outcome

if TYPE_CHECKING:
    import pandas as pd

KNOWN_COLUMNS = (
    "site", "scanner", "vendor", "manufacturer", "mpp_source", "mpp", "stain", "compression", "image_kind",
    "sex", "age", "race", "ethnicity", "density", "birads", "coverage", "implant", "view", "laterality",
    "tumour_type", "in_distribution",
)  # fmt: skip
SHORTCUT_COLUMNS = (
    "site",
    "scanner",
    "vendor",
    "manufacturer",
    "mpp_source",
    "mpp",
    "stain",
    "image_kind",
    "reader",
)
SHORTCUT_P = 0.01
FEW_GROUP_RESAMPLES = 1000


def columns_to_use(table: pd.DataFrame, options: EvaluateOptions) -> list[str]:
    """The asked-for columns, or the known ones that take at least two values here.

    Raises:
        UsageError: a column that was asked for does not exist.
    """
    if options.subgroups is None:
        return [c for c in KNOWN_COLUMNS if c in table.columns and len(set(table[c]) - {""}) > 1]
    absent = [c for c in options.subgroups if c not in table.columns]
    if absent:
        raise UsageError(
            f"--subgroup {absent[0]}",
            "the cohort has no such column",
            f"columns: {', '.join(map(str, table.columns))}",
        )
    return list(options.subgroups)


def subgroup_tables(
    outcome: Outcome, point: OperatingPoint | None, options: EvaluateOptions
) -> list[SubgroupTable]:
    """One table a column; `point` adds sensitivity and specificity at the first frozen point."""
    return [_table(outcome, column, point, options) for column in columns_to_use(outcome.table, options)]


def _table(
    outcome: Outcome, column: str, point: OperatingPoint | None, options: EvaluateOptions
) -> SubgroupTable:
    groups = np.array(subgroups.bands(list(outcome.table[column]), column))
    names = sorted(set(groups), key=natural)
    rows = [_row(outcome, groups == name, str(name), point, options) for name in names]
    shown = [row.value for row in rows if row.auroc is not None and row.auroc.value is not None]
    table = SubgroupTable(column=column, rows=rows)
    found = (
        subgroups.auroc_heterogeneity(outcome.label, outcome.prob, outcome.patient, list(groups), shown)
        if len(shown) > 1
        else None
    )
    if found is None:
        table.heterogeneity_note = "not tested: fewer than two groups are large enough"
    else:
        table.heterogeneity_q, table.heterogeneity_df = finite(found.q), found.df
        table.heterogeneity_p, table.heterogeneity_note = finite(found.p), found.note
    return table


def _row(
    outcome: Outcome, inside: np.ndarray, name: str, point: OperatingPoint | None, options: EvaluateOptions
) -> SubgroupRow:
    label, prob, patient = outcome.label[inside], outcome.prob[inside], outcome.patient[inside]
    n_positive = int(label.sum())
    row = SubgroupRow(value=name, n=label.size, n_patients=clusters(patient)[1], n_positive=n_positive)
    if label.size < options.min_group:
        row.suppressed = f"fewer than {options.min_group} cases"
        return row
    row.prevalence = Number.of(proportion(label, patient))
    if min(discrimination.patients_by_class(label, patient)) < options.min_events:
        row.suppressed = f"fewer than {options.min_events} patients with, or without, the condition"
        return row
    draws = min(options.resamples, FEW_GROUP_RESAMPLES)
    row.auroc = Number.of(discrimination.auroc_estimate(label, prob, patient, draws, options.seed))
    if outcome.is_probability:
        found = calibrate_estimates(label, prob, patient, draws // 2, options.seed)
        row.observed_expected = Number.of(found.observed_expected)
    if point is not None:
        at = operating.at_threshold(label, prob, patient, point.threshold)
        row.sensitivity, row.specificity = Number.of(at.sensitivity), Number.of(at.specificity)
    return row


def shortcuts(outcome: Outcome, options: EvaluateOptions) -> list[Shortcut]:
    """Whether the label can be told from an acquisition column alone."""
    if not outcome.both_classes:
        return []
    found = []
    for column in SHORTCUT_COLUMNS:
        if column not in outcome.table.columns:
            continue
        groups = subgroups.bands(list(outcome.table[column]), column)
        if not 2 <= len(set(groups)) <= subgroups.MOST_GROUPS:
            continue
        test = subgroups.shortcut(outcome.label, groups, outcome.patient, seed=options.seed)
        note = f"shuffled columns reach {test.by_chance:.2f} on average"
        warning = ""
        if test.p < SHORTCUT_P:
            warning = (
                f"the label can be told from '{column}' alone: a model may have learned '{column}' instead"
            )
        found.append(
            Shortcut(
                column=column, auroc=Number.of(test.auroc.with_note(note)), p=finite(test.p), warning=warning
            )
        )
    return found


def natural(name: str) -> tuple[int, float, str]:
    """Sort key: bands in the order of their numbers, words by the alphabet, 'unknown' last."""
    if name == subgroups.UNKNOWN:
        return (2, 0.0, name)
    first = name.replace("<", "").replace(">=", "").split()
    try:
        return (0, float(first[0]) - (0.5 if name.startswith("<") else 0.0), name)
    except (ValueError, IndexError):
        return (1, 0.0, name)
