"""`exams`: folders of mammograms (or a Mirai table) to a de-identified cohort, and what is wrong with it.

cohort.csv        one row an image: pseudonyms, view, side, kind, coverage, labels; the input of `train`
exclusions.csv    every image left out, with a code and a line
flow.json         how many files, images, exams and women there are at each step
leaks.csv         what could leak (see atlas_path.exams.leaks)
<out>.private.csv, <out>.excluded.private.csv    beside the folder, for its owner's eyes (0600): the way back
                  from pseudonyms to paths and identifiers
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from atlas_path.dicom import Pseudonyms
from atlas_path.errors import CohortError, ExitCode, UsageError
from atlas_path.exams import (
    Exam,
    ExamImage,
    Excluded,
    Leak,
    cohort_rows,
    describe_image,
    find_leaks,
    group_exams,
    read_mirai,
)
from atlas_path.exams.labels import read_labels, with_labels
from atlas_path.exams.tables import Unit, Views
from atlas_path.progress import progress, say
from atlas_path.slides import find_slides
from atlas_path.slides.find import may_be_mammogram
from atlas_path.slides.mammo_options import MammoOptions
from pipelines.work import write_text

HEADER_THREADS = 8
PRIVATE_COLUMNS = (
    "image_id", "case_id", "patient_id", "path", "view", "laterality", "mpp", "their_patient_id",
    "study_uid", "accession", "study_date",
)  # fmt: skip


@dataclass(frozen=True)
class ExamOptions:
    """What `exams` is told; see its `--help`."""

    labels: Path | None = None
    label: str | None = None
    views: Views = "standard"
    one_per_view: bool = False
    unit: Unit = "exam"
    stores: Path | None = None
    mammo: MammoOptions = field(default_factory=MammoOptions)


@dataclass(frozen=True)
class ExamsResult:
    """What was made of the files."""

    cohort: Path
    private: Path
    exams: list[Exam]
    excluded: list[Excluded]
    leaks: list[Leak]
    flow: dict[str, Any]
    exit_code: ExitCode


def make_exams(
    inputs: Sequence[Path], out: Path, options: ExamOptions, mirai: Path | None = None
) -> ExamsResult:
    """Write the tables listed at the top of this file.

    Raises:
        UsageError: there is no mammogram in the inputs.
        CohortError: a label table cannot be used, or a woman, exam or picture is in two splits.
    """
    pseudonyms = Pseudonyms.of_site()
    if mirai is not None:
        table = read_mirai(mirai, pseudonyms)
        found: list[ExamImage | Excluded] = list(table.images)
    else:
        found = list(_describe_all(_mammograms(inputs), options.mammo, pseudonyms))
    images = [one for one in found if isinstance(one, ExamImage)]
    excluded = [one for one in found if isinstance(one, Excluded)]
    exams, left_out = group_exams(images, options.views, options.one_per_view)
    excluded += left_out
    if mirai is not None:
        exams = _labelled(exams, table.labels)
    elif options.labels is not None:
        exams = with_labels(exams, *read_labels(options.labels))
    rows = cohort_rows(exams, options.unit)
    leaks = find_leaks(rows, options.label, _pixel_hashes(options.stores))
    flow = _flow(len(found), images, exams, excluded)
    private = out.with_name(f"{out.name}.private.csv")
    _write(out, rows, excluded, leaks, flow)
    _write_private(private, exams, options.unit)
    lost = [{"image_id": one.image_id, "path": str(one.path)} for one in excluded]
    _write_for_owner(out.with_name(f"{out.name}.excluded.private.csv"), _csv(["image_id", "path"], lost))
    exit_code = ExitCode.of_batch(len(images), len(found) - len(images))
    result = ExamsResult(out / "cohort.csv", private, exams, excluded, leaks, flow, exit_code)
    _refuse_leaks(result)
    return result


def _mammograms(inputs: Sequence[Path]) -> list[Path]:
    paths = [source.path for source in find_slides(inputs) if source.private or may_be_mammogram(source.path)]
    if not paths:
        names = ", ".join(str(given) for given in inputs)
        raise UsageError(names, "holds no mammograms", "give DICOM files, or films with a mammograms.csv")
    return paths


def _describe_all(
    paths: Sequence[Path], options: MammoOptions, pseudonyms: Pseudonyms
) -> Iterator[ExamImage | Excluded]:
    with ThreadPoolExecutor(HEADER_THREADS) as pool, progress("exams", len(paths)) as advance:
        for one in pool.map(lambda path: describe_image(path, options, pseudonyms), paths):
            advance(one.image_id, 1)
            yield one


def _labelled(exams: Sequence[Exam], labels: Mapping[str, Mapping[str, str]]) -> list[Exam]:
    return [replace(exam, labels=labels.get(exam.exam_id, {})) for exam in exams]


def _pixel_hashes(stores: Path | None) -> dict[str, str]:
    """Hash of decoded pixels of every store, where there are stores."""
    if stores is None:
        return {}
    from atlas_path.store import find_stores, open_store

    metas = [open_store(path).meta for path in find_stores(stores)]
    return {meta.image_id: str(meta.facts["pixel_sha256"]) for meta in metas if "pixel_sha256" in meta.facts}


def _flow(
    n_files: int, images: Sequence[ExamImage], exams: Sequence[Exam], excluded: Sequence[Excluded]
) -> dict[str, Any]:
    return {
        "files": n_files,
        "readable_images": len(images),
        "images": sum(len(exam.images) for exam in exams),
        "exams": len(exams),
        "patients": len({exam.patient_id for exam in exams}),
        "coverage": dict(sorted(Counter(exam.coverage for exam in exams).items())),
        "image_kinds": dict(sorted(Counter(i.image_kind for e in exams for i in e.images).items())),
        "excluded": dict(sorted(Counter(one.reason for one in excluded).items())),
    }


def _write(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    excluded: Sequence[Excluded],
    leaks: Sequence[Leak],
    flow: Mapping[str, Any],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_text(out / "cohort.csv", _csv(columns, rows))
    left = [{"image_id": one.image_id, "reason": one.reason, "error": one.message} for one in excluded]
    write_text(out / "exclusions.csv", _csv(["image_id", "reason", "error"], left))
    write_text(out / "leaks.csv", _csv(["code", "severity", "message"], [asdict(leak) for leak in leaks]))
    write_text(out / "flow.json", json.dumps(flow, indent=1) + "\n")


def _write_private(path: Path, exams: Sequence[Exam], unit: Unit) -> None:
    """The way back from pseudonyms to files and people; readable by its owner alone.

    It also is a cohort for `preprocess --cohort` and a film table for `preprocess --films`.
    """
    case_of = {str(row["image_id"]): str(row["case_id"]) for row in cohort_rows(exams, unit)}
    rows = [
        {
            "image_id": image.image_id, "case_id": case_of[image.image_id], "patient_id": exam.patient_id,
            "path": str(image.keys.path), "view": image.view, "laterality": image.laterality,
            "mpp": image.mpp if image.mpp_source == "table" else "",
            "their_patient_id": image.keys.patient_id,
            "study_uid": image.keys.study_uid, "accession": image.keys.accession,
            "study_date": image.keys.study_date,
        }
        for exam in exams
        for image in exam.images
    ]  # fmt: skip
    _write_for_owner(path, _csv(PRIVATE_COLUMNS, rows))


def _write_for_owner(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _refuse_leaks(result: ExamsResult) -> None:
    for leak in result.leaks:
        say(f"{leak.severity}: {leak.code}: {leak.message}")
    errors = [leak for leak in result.leaks if leak.severity == "error"]
    if errors:
        raise CohortError(
            result.cohort, "; ".join(leak.message for leak in errors), "correct the splits or the table"
        )
