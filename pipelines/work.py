"""What every stage over many images shares: a bounded loop, one record an image, tables on disk.

A failing image never stops a batch: it becomes a row with a reason. Tables are rewritten whole and put in
place by rename, so that a reader (or a second run on the same folder) never sees half of one.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from atlas_path.errors import AtlasPathError, ExitCode

Status = Literal["done", "no_tissue", "failed"]
Item = TypeVar("Item")
Result = TypeVar("Result")

FAILURE_COLUMNS = ("image_id", "status", "reason", "error")


@dataclass
class ImageRecord:
    """One row of `manifest.csv`.

    Attributes:
        image_id: names the store.
        case_id: from the cohort table, else the image id.
        status: 'done', 'no_tissue' or 'failed'.
        reason: 'written', 'up_to_date', or the short code of the error.
        source: path of the slide as it was given.
        store: path of the store relative to the folder of stores; empty when there is none.
        mpp: um per px of level 0 of the store.
        mpp_source: where the slide's own mpp comes from.
        height_px: height of level 0 of the store.
        width_px: width of level 0 of the store.
        tissue_mm2: area of tissue.
        windows: windows of level 0 that are stored.
        bad_windows: those of them with unreadable pixels.
        flags: what tissue finding noticed, e.g. 'pen'.
        seconds: wall time.
        mpix_per_s: megapixels of the slide at the store's resolution a second.
        error: the line a person reads.
    """

    image_id: str
    case_id: str = ""
    status: Status = "failed"
    reason: str = ""
    source: str = ""
    store: str = ""
    mpp: float | None = None
    mpp_source: str = ""
    height_px: int | None = None
    width_px: int | None = None
    tissue_mm2: float | None = None
    windows: int | None = None
    bad_windows: int | None = None
    flags: str = ""
    seconds: float | None = None
    mpix_per_s: float | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """True when the image can be used by the next stage."""
        return self.status == "done"

    @classmethod
    def failure(cls, image_id: str, error: BaseException, **known: Any) -> ImageRecord:
        """The record of an image that could not be processed."""
        reason = error.reason if isinstance(error, AtlasPathError) else "internal"
        text = str(error) if isinstance(error, AtlasPathError) else f"{type(error).__name__}: {error}"
        status: Status = "no_tissue" if reason == "no_tissue" else "failed"
        return cls(image_id, status=status, reason=reason, error=" ".join(text.split()), **known)


@dataclass
class BatchResult:
    """What became of a batch."""

    records: list[ImageRecord] = field(default_factory=list)
    exit_code: ExitCode = ExitCode.OK

    @classmethod
    def of(cls, records: Sequence[ImageRecord]) -> BatchResult:
        """With the exit code that follows from the records: 0, 3 or 4."""
        n_ok = sum(record.ok for record in records)
        return cls(list(records), ExitCode.of_batch(n_ok, len(records) - n_ok))

    @property
    def failures(self) -> list[ImageRecord]:
        """The records that are not done."""
        return [record for record in self.records if not record.ok]


def bounded(
    submit: Callable[[Item], Future[Result]], items: Iterable[Item], in_flight: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Submit items so that at most `in_flight` are under way; yield (item, finished future) as they end."""
    todo = iter(items)
    running: dict[Future[Result], Item] = {}
    exhausted = False
    while running or not exhausted:
        while not exhausted and len(running) < in_flight:
            try:
                item = next(todo)
            except StopIteration:
                exhausted = True
                break
            running[submit(item)] = item
        if running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future


def read_manifest(path: Path) -> list[ImageRecord]:
    """The rows of a manifest; none when there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [_from_row(row) for row in csv.DictReader(stream)]


def update_manifest(out: Path, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Put records into `manifest.csv` (replacing those of the same image) and rewrite `failures.csv`.

    Two runs on one folder take turns. Returns all rows.
    """
    with locked(out):
        rows = {record.image_id: record for record in read_manifest(out / "manifest.csv")}
        rows.update({record.image_id: record for record in records})
        merged = [rows[image_id] for image_id in sorted(rows)]
        write_csv(out / "manifest.csv", [asdict(record) for record in merged], _columns())
        failures = [asdict(record) for record in merged if not record.ok]
        write_csv(
            out / "failures.csv", [{k: row[k] for k in FAILURE_COLUMNS} for row in failures], FAILURE_COLUMNS
        )
    return merged


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock file while its tables are rewritten."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".tables.lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write a table and put it in place by rename."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if row[k] is None else row[k] for k in columns} for row in rows)
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file and put it in place by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file and put it in place by rename."""
    write_text(path, json.dumps(content, indent=2, sort_keys=False, default=str) + "\n")


def _columns() -> tuple[str, ...]:
    return tuple(f.name for f in fields(ImageRecord))


def _from_row(row: dict[str, str]) -> ImageRecord:
    """A record from CSV text; unknown columns are ignored, empty cells are None where a number belongs."""
    values: dict[str, Any] = {}
    for f in fields(ImageRecord):
        text = row.get(f.name) or ""
        if "float" in str(f.type):
            values[f.name] = float(text) if text else None
        elif "int" in str(f.type):
            values[f.name] = int(text) if text else None
        else:
            values[f.name] = text
    return ImageRecord(**values)
