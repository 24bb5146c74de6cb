"""The cohort table: one row an image, in the field's many spellings, read into cases.

Required: something that names the image (`path`, or `image_id` of a store). Everything else has a sensible
default: an image without `case_id` is a case of its own, a case without `patient_id` a patient of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from atlas_path.errors import CohortError

ALIASES: dict[str, tuple[str, ...]] = {
    "case_id": ("case", "exam_id", "exam"),
    "patient_id": ("patient", "subject_id", "subject"),
    "image_id": ("slide_id", "sample_id", "slide", "wsi_id"),
    "path": ("image_path", "wsi", "filename", "file", "slide_path", "filepath"),
    "mpp": ("spacing_at_level_0", "spacing", "mpp_level_0"),
    "split": ("set", "partition", "subset"),
    "fold": ("cv_fold",),
    "site": ("centre", "center", "hospital", "institution"),
    "scanner": ("scanner_model", "scanner_vendor"),
}
SPLITS = ("train", "tune", "test")
SPLIT_ALIASES = {
    "training": "train", "val": "tune", "valid": "tune", "validation": "tune", "dev": "tune",
    "tuning": "tune", "testing": "test", "held-out": "test", "holdout": "test",
}  # fmt: skip
MISSING = frozenset({"", "na", "n/a", "nan", "none", "null", "?"})
MAX_LISTED = 20


@dataclass(frozen=True)
class ImageRow:
    """One row of the table. `path` is as written, resolved against the table's folder by `Cohort.file`."""

    image_id: str
    path: str | None
    mpp: float | None
    row: int
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """The unit of prediction: one slide, one patient's slides, or one exam."""

    case_id: str
    patient_id: str
    images: tuple[ImageRow, ...]
    labels: Mapping[str, str | None]
    split: str | None = None
    fold: int | None = None
    site: str | None = None
    scanner: str | None = None


@dataclass(frozen=True)
class Cohort:
    """All cases of a table, in the table's order."""

    source: Path
    cases: tuple[Case, ...]
    label_columns: tuple[str, ...]

    def file(self, image: ImageRow) -> Path | None:
        """Absolute path of an image's source file."""
        return None if image.path is None else (self.source.parent / image.path).absolute()

    def of_split(self, split: str) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.split == split)

    def with_cases(self, cases: Iterable[Case]) -> Cohort:
        return replace(self, cases=tuple(cases))

    @property
    def n_images(self) -> int:
        return sum(len(case.images) for case in self.cases)


def read_cohort(
    path: Path, label_columns: Sequence[str] = (), columns: Mapping[str, str] | None = None
) -> Cohort:
    """Read a CSV or Parquet cohort table, or a folder `train/<class>/*.jpg`.

    Args:
        path: the table; relative image paths in it are taken from its folder.
        label_columns: columns that hold labels; empty cells, NA, NaN and ? are missing labels.
        columns: our name -> name in this table, before aliases are tried.

    Raises:
        CohortError: naming every fault (up to 20): missing columns, empty or double image ids, a label or
            split that differs inside one case, unknown split names, a non-positive mpp.
    """
    if path.is_dir():
        from atlas_path.cohort.folder import read_folder_cohort

        return read_folder_cohort(path, tuple(label_columns))
    header, rows = _read_rows(path)
    names = _canonical_names(path, header, columns or {}, label_columns)
    records = [{names.get(k, k): v for k, v in row.items()} for row in rows]
    if not records:
        raise CohortError(path, "the table has no rows", "give one row an image")
    faults: list[str] = []
    grouped: dict[str, list[tuple[ImageRow, dict[str, str]]]] = {}
    seen: dict[str, int] = {}
    for number, record in enumerate(records, start=2):  # line 1 of a CSV is its header
        image = _image_row(number, record, faults, label_columns)
        if image.image_id in seen:
            faults.append(f"row {number}: image '{image.image_id}' is already in row {seen[image.image_id]}")
            continue
        seen[image.image_id] = number
        grouped.setdefault(record.get("case_id") or image.image_id, []).append((image, record))
    cases = [_case(case_id, members, label_columns, faults) for case_id, members in grouped.items()]
    if faults:
        raise cohort_faults(path, faults, "correct the rows named")
    return Cohort(path, tuple(cases), tuple(label_columns))


def table_columns(path: Path) -> dict[str, list[str]]:
    """All cells of a table as text, column by column, under the table's own names."""
    header, rows = _read_rows(path)
    return {name: [row[name] for row in rows] for name in header}


def cohort_faults(path: Path, faults: Sequence[str], remedy: str) -> CohortError:
    """One error for many faults; the list is cut after 20."""
    if len(faults) == 1:
        return CohortError(path, faults[0], remedy)
    shown = list(faults[:MAX_LISTED])
    if len(faults) > MAX_LISTED:
        shown.append(f"... and {len(faults) - MAX_LISTED} more")
    return CohortError(path, f"{len(faults)} faults\n  " + "\n  ".join(shown) + "\n", remedy)


def is_missing(value: str | None) -> bool:
    """Whether a cell counts as 'not known'."""
    return value is None or value.strip().lower() in MISSING


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    import pandas as pd

    if not path.is_file():
        raise CohortError(path, "no such file", "give the path of a CSV or Parquet table, one row an image")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = pd.read_parquet(path)
            frame = frame.astype(object).where(frame.notna(), "").map(_cell)
        else:
            separator = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig")
    except (ValueError, OSError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0] if str(error) else error.__class__.__name__
        raise CohortError(
            path, f"cannot be read as a table ({first})", "save it as CSV (UTF-8) or Parquet"
        ) from error
    frame.columns = [str(c).strip() for c in frame.columns]
    rows = [{str(k): str(v).strip() for k, v in row.items()} for row in frame.to_dict("records")]
    return list(frame.columns), rows


def _cell(value: object) -> str:
    """Parquet numbers as a CSV would show them: 1.0 is '1'."""
    return str(int(value)) if isinstance(value, float | bool) and float(value).is_integer() else str(value)


def _canonical_names(
    path: Path, header: Sequence[str], columns: Mapping[str, str], label_columns: Sequence[str]
) -> dict[str, str]:
    """Name in the table -> our name."""
    names = {theirs: ours for ours, theirs in columns.items()}
    by_lower = {h.lower(): h for h in header}
    faults = [
        f"no column '{theirs}' (for {ours})" for ours, theirs in columns.items() if theirs not in header
    ]
    for ours, aliases in ALIASES.items():
        if ours in names.values():
            continue
        found = next(
            (by_lower[a] for a in (ours, *aliases) if a in by_lower and by_lower[a] not in names), None
        )
        if found and (found not in label_columns or found == ours):
            names[found] = ours
    faults += [f"no column '{label}' (label)" for label in label_columns if label not in header]
    if "path" not in names.values() and "image_id" not in names.values():
        faults.append("no column names the images (path, image_id, or an alias such as wsi or slide_id)")
    if faults:
        raise cohort_faults(path, faults, f"the columns are: {', '.join(header)}")
    return names


def _image_row(number: int, record: dict[str, str], faults: list[str], labels: Sequence[str]) -> ImageRow:
    path = record.get("path") or None
    image_id = record.get("image_id") or (stem_of(path) if path else "")
    if not image_id:
        faults.append(f"row {number}: neither path nor image_id is given")
    mpp: float | None = None
    if not is_missing(record.get("mpp")):
        try:
            mpp = float(record["mpp"])
        except ValueError:
            mpp = -1.0
        if not 0 < mpp < 1e4:
            faults.append(f"row {number}: mpp '{record['mpp']}' is not a number of micrometres per pixel")
    known = {"case_id", "patient_id", "image_id", "path", "mpp", "split", "fold", *labels}
    attributes = {k: v for k, v in record.items() if k not in known and v != ""}
    return ImageRow(image_id, path, mpp, number, attributes)


def stem_of(path: str) -> str:
    """File name without its suffix; `.ome.zarr` and `.ome.tiff` count as one suffix."""
    stem = PurePosixPath(path.replace("\\", "/")).stem
    return stem.removesuffix(".ome")


def _case(
    case_id: str, members: list[tuple[ImageRow, dict[str, str]]], labels: Sequence[str], faults: list[str]
) -> Case:
    rows = [record for _, record in members]
    patient = _one(case_id, "patient_id", rows, faults) or case_id
    split = _one(case_id, "split", rows, faults)
    if split is not None:
        split = SPLIT_ALIASES.get(split.lower(), split.lower())
        if split not in SPLITS:
            faults.append(f"case {case_id}: split '{split}' is none of train, tune, test")
    fold_text = _one(case_id, "fold", rows, faults)
    fold = None
    if fold_text is not None:
        if fold_text.isdigit():
            fold = int(fold_text)
        else:
            faults.append(f"case {case_id}: fold '{fold_text}' is not a number")
    return Case(
        case_id=case_id,
        patient_id=patient,
        images=tuple(image for image, _ in members),
        labels={label: _one(case_id, label, rows, faults) for label in labels},
        split=split,
        fold=fold,
        site=_one(case_id, "site", rows, []),
        scanner=_one(case_id, "scanner", rows, []),
    )


def _one(case_id: str, column: str, rows: Sequence[Mapping[str, str]], faults: list[str]) -> str | None:
    """The one value of a column inside a case; rows without a value do not count."""
    values = sorted({row[column] for row in rows if not is_missing(row.get(column))})
    if len(values) > 1:
        faults.append(f"case {case_id}: {column} differs between its rows ({', '.join(values)})")
    return values[0] if values else None
