"""Which images a run is about: what was found in the folders, what the cohort lists, and the mpp given."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from atlas_path.cohort import read_cohort
from atlas_path.errors import CohortError, UsageError
from atlas_path.progress import say
from atlas_path.slides import find_slides
from atlas_path.slides.find import mammogram_pseudonym
from atlas_path.store.options import PreprocessOptions


@dataclass(frozen=True)
class Item:
    """One image of a run."""

    path: Path
    image_id: str
    case_id: str
    mpp_given: float | None = None
    private: bool = False

    @property
    def shown(self) -> str:
        """What tables and errors may say of where it lies."""
        return self.image_id if self.private else str(self.path)


def collect(inputs: Sequence[Path], out: Path, options: PreprocessOptions) -> list[Item]:
    """The images of a run, in order of their ids.

    Slides below `out` are left out: a second run on the same folders must not convert its own stores. With a
    cohort table its rows are images too (their files need not lie in `inputs`); `--mpp-csv` beats its mpp.

    Raises:
        UsageError: nothing to convert, or a table that cannot be read.
        CohortError: none of the files that the cohort names exist.
    """
    items = _from_cohort(options.cohort, options.mammo.films) if options.cohort else []
    if inputs:
        known = {item.path.resolve() for item in items}
        items += [
            Item(source.path, source.image_id, source.image_id, private=source.private)
            for source in find_slides(inputs)
            if out.resolve() not in source.path.resolve().parents and source.path.resolve() not in known
        ]
    if not items:
        raise UsageError(out, "no slides to convert were given", "name slides, folders of slides or --cohort")
    items = _without_copies(items)
    doubles = [image_id for image_id, n in Counter(item.image_id for item in items).items() if n > 1]
    if doubles:
        raise UsageError(
            doubles[0], "two images have this id", "give the rows of the cohort an image_id each, or rename"
        )
    if options.mpp_csv:
        items = _with_mpp(items, options.mpp_csv)
    items.sort(key=lambda item: item.image_id)
    return items[: options.limit]


def _without_copies(items: list[Item]) -> list[Item]:
    """Archives often hold one mammogram in several files: the largest is taken (a cut copy is smaller)."""
    kept: dict[str, Item] = {}
    others: list[Item] = []
    for item in items:
        if not item.private:
            others.append(item)
            continue
        known = kept.get(item.image_id)
        if known is None or item.path.stat().st_size > known.path.stat().st_size:
            kept[item.image_id] = item
    copies = len(items) - len(others) - len(kept)
    if copies:
        say(f"{copies} files are copies of other mammograms and are left alone")
    return others + list(kept.values())


def _from_cohort(table: Path, films: Path | None) -> list[Item]:
    cohort = read_cohort(table)
    items, missing = [], []
    for case in cohort.cases:
        for image in case.images:
            path = cohort.file(image)
            if path is None or not path.exists():
                missing.append(f"row {image.row}: {image.path or 'no path'}")
            if path is not None:  # a missing file becomes a row of failures.csv
                private = path.exists() and mammogram_pseudonym(path, films) is not None
                items.append(Item(path, image.image_id, case.case_id, image.mpp, private))
    if len(missing) >= max(1, len(items)):
        raise CohortError(
            table, f"none of its files exist ({'; '.join(missing[:5])})", "correct the path column"
        )
    return items


def read_mpp_table(table: Path) -> dict[str, float]:
    """The `--mpp-csv` table: slide (file name, stem or image id) -> um per px.

    Raises:
        UsageError: the file or its columns wsi and mpp are missing, or a value is not a positive number.
    """
    if not table.is_file():
        raise UsageError(table, "no such file", "give a CSV with the columns wsi and mpp")
    values: dict[str, float] = {}
    with table.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        if not {"wsi", "mpp"} <= set(reader.fieldnames or ()):
            raise UsageError(
                table,
                f"has the columns {', '.join(reader.fieldnames or ()) or 'none'}",
                "name two wsi and mpp",
            )
        for row in reader:
            try:
                mpp = float(row["mpp"])
            except (TypeError, ValueError):
                mpp = -1.0
            if not 0.01 <= mpp <= 1000:
                raise UsageError(
                    f"{table} line {reader.line_num}",
                    f"mpp of {row['wsi']!r} is {row['mpp']!r}",
                    "give um per px, for example 0.25",
                )
            values[row["wsi"].strip()] = mpp
    return values


def _with_mpp(items: list[Item], table: Path) -> list[Item]:
    values = read_mpp_table(table)
    given = []
    for item in items:
        names = (item.image_id, item.path.name, item.path.stem)
        found = next((values[name] for name in names if name in values), item.mpp_given)
        given.append(replace(item, mpp_given=found))
    return given
