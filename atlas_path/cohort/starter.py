"""`atlas-path init`: look at a cohort table and write the run file a person would have started from."""

from __future__ import annotations

import os
from pathlib import Path

from atlas_path.cohort.table import ALIASES, is_missing, read_cohort, table_columns
from atlas_path.errors import CohortError

MAX_CLASSES = 10


def starter_yaml(table: Path, beside: Path, label: str | None = None, stores: Path | None = None) -> str:
    """Commented YAML for `table`.

    Args:
        table: the cohort table.
        beside: folder the YAML will lie in; paths are written relative to it.
        label: label column; when None the only column with 2 to 10 values that is no known column.
        stores: folder of stores, if known.

    Raises:
        CohortError: the label column cannot be told, or the table cannot be read.
    """
    columns = table_columns(table)
    names = list(columns)
    if label is None:
        label = _guess_label(table, columns)
    elif label not in columns:
        raise CohortError(table, f"no column '{label}'", f"the columns are: {', '.join(names)}")
    values = sorted({v for v in columns[label] if not is_missing(v)})
    kind = _guess_kind(values)
    cohort = read_cohort(table, [label])
    given = sorted({case.split for case in cohort.cases if case.split})
    splits = f"the table has: {', '.join(given)}" if given else "made by patient, stratified by label"
    classes = f"  classes: [{', '.join(values)}]   # in this order; the last one is 'positive'\n"
    lines = [
        f"# {cohort.n_images} images, {len(cohort.cases)} cases, "
        f"{len({c.patient_id for c in cohort.cases})} patients in {table.name}",
        f"name: {table.stem}",
        f"cohort: {_relative(table, beside)}",
        "out: runs                  # the run's folder is runs/<name>",
        "",
        "task:",
        f"  kind: {kind:<18} # binary | multiclass | multilabel | ordinal | regression | survival",
        f"  label: {label}",
        classes.rstrip("\n") if kind in ("binary", "multiclass", "ordinal") else "  # a number per case",
        "",
        f"split:                     # {splits}",
        "  tune: 0.2                # for early stopping, calibration and thresholds",
        "  test: 0.2                # used only when the table has no split column",
        "",
        "data:",
        f"  stores: {_relative(stores, beside) if stores else 'stores'}",
        "  mpp: 1.0                 # micrometres per pixel the model sees",
        "",
        "model:",
        "  preset: tiny             # tiny (CPU) | S | B | B-slim (GPU)",
        "",
        "optim:",
        "  epochs: 30",
        "  lr: 1e-3",
        "  patience: 10",
        "",
    ]
    return "\n".join(lines)


def _guess_label(table: Path, columns: dict[str, list[str]]) -> str:
    known = {name for ours, aliases in ALIASES.items() for name in (ours, *aliases)} | {
        "view",
        "laterality",
        "age",
    }
    candidates = [
        name
        for name, cells in columns.items()
        if name.lower() not in known and 2 <= len({c for c in cells if not is_missing(c)}) <= MAX_CLASSES
    ]
    named = [name for name in candidates if name.lower() in ("label", "target", "class", "diagnosis", "y")]
    if len(named) == 1:
        return named[0]
    if len(candidates) != 1:
        shown = ", ".join(candidates) or "none"
        raise CohortError(table, f"cannot tell the label column (candidates: {shown})", "give --label COLUMN")
    return candidates[0]


def _guess_kind(values: list[str]) -> str:
    if len(values) == 2:
        return "binary"
    try:
        numbers = [float(v) for v in values]
    except ValueError:
        return "multiclass"
    whole = all(n.is_integer() for n in numbers)
    return "ordinal" if whole and len(values) <= MAX_CLASSES else "regression"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
