"""Images grouped into exams, and exams written as cohort rows: one row an image, labels on every row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from atlas_path.exams.images import ExamImage, Excluded
from atlas_path.slides.mammo.codes import STANDARD_VIEWS

STANDARD = tuple((side, view) for side in ("L", "R") for view in STANDARD_VIEWS)
KIND_ORDER = ("ffdm", "synthetic_2d", "cr", "film", "secondary_capture", "tomosynthesis")
Views = Literal["standard", "all"]
Unit = Literal["exam", "breast"]


@dataclass(frozen=True)
class Exam:
    """All usable images of one study of one woman."""

    exam_id: str
    patient_id: str
    images: tuple[ExamImage, ...]
    n_extra: int = 0
    n_left_out: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def coverage(self) -> str:
        """How many of the four standard views are there, e.g. '3/4'."""
        present = {(image.laterality, image.view) for image in self.images}
        return f"{sum(view in present for view in STANDARD)}/{len(STANDARD)}"


def group_exams(
    images: Iterable[ExamImage], views: Views = "standard", one_per_view: bool = False
) -> tuple[list[Exam], list[Excluded]]:
    """Exams, ordered by id, and the images left out with their reason.

    Args:
        images: all images that could be read.
        views: 'standard' leaves out work-up views (spot, magnification, ...), whose presence gives the answer
            away, and views other than CC and MLO; 'all' keeps everything.
        one_per_view: of several images of one view keep one: implant displaced before not, digital before
            synthetic, then the latest, then by id. Otherwise all are kept: the model reads a set.
    """
    left_out: list[Excluded] = []
    seen: set[str] = set()
    by_exam: dict[str, list[ExamImage]] = {}
    removed: dict[str, int] = {}
    for image in sorted(images, key=lambda one: (one.exam_id, one.image_id, str(one.keys.path))):
        reason = _why_not(image, views, seen)
        seen.add(image.image_id)
        by_exam.setdefault(image.exam_id, [])
        if reason:
            left_out.append(_excluded(image, *reason))
            removed[image.exam_id] = removed.get(image.exam_id, 0) + 1
        else:
            by_exam[image.exam_id].append(image)
    exams = []
    for exam_id, members in by_exam.items():
        if not members:
            continue
        best = _best_per_view(members)
        n_extra = len(members) - len(best)
        if one_per_view:
            left_out += [
                _excluded(image, "extra_view", "another image of this view was taken")
                for image in members
                if image not in best
            ]
            members = best
        patients = sorted({image.patient_id for image in members})
        exams.append(Exam(exam_id, patients[0], tuple(members), n_extra, removed.get(exam_id, 0)))
    return exams, left_out


def cohort_rows(exams: Sequence[Exam], unit: Unit = "exam") -> list[dict[str, Any]]:
    """Rows of a cohort table, one an image; per breast, a case is one side of an exam.

    The column is `pixel_um`, not `mpp`, which would override what the file says. Labels named `<name>_left`
    and `<name>_right` become `<name>` of the breast.
    """
    rows: list[dict[str, Any]] = []
    for exam in exams:
        for image in exam.images:
            labels = dict(exam.labels)
            case_id = exam.exam_id
            if unit == "breast":
                case_id = f"{exam.exam_id}-{image.laterality}"
                labels = _of_side(labels, image.laterality)
            rows.append(
                {
                    "case_id": case_id,
                    "patient_id": exam.patient_id,
                    "image_id": image.image_id,
                    "exam_id": exam.exam_id,
                    "view": image.view,
                    "laterality": image.laterality,
                    "modifiers": " ".join(image.modifiers),
                    "image_kind": image.image_kind,
                    "vendor": image.manufacturer,
                    "scanner": image.model,
                    "pixel_um": "" if image.mpp is None else image.mpp,
                    "mpp_source": image.mpp_source,
                    "implant": "yes" if "implant" in image.flags else "no",
                    "age": image.age,
                    "exam_day": "" if image.exam_day is None else image.exam_day,
                    "coverage": exam.coverage,
                    "n_extra_views": exam.n_extra,
                    "n_workup_views": exam.n_left_out,
                    "flags": " ".join(image.flags),
                    **labels,
                }
            )
    return rows


def _why_not(image: ExamImage, views: Views, seen: set[str]) -> tuple[str, str] | None:
    if image.image_id in seen:
        return "duplicate_file", "another file holds the same image"
    if views == "standard" and image.is_diagnostic:
        return "workup_view", "a spot, magnification or rolled view: taken because of a finding"
    if views == "standard" and image.view not in STANDARD_VIEWS:
        return "other_view", f"view {image.view or 'unknown'} is not a screening view"
    return None


def _best_per_view(members: Sequence[ExamImage]) -> list[ExamImage]:
    def rank(image: ExamImage) -> tuple[bool, int, float, str]:
        kind = KIND_ORDER.index(image.image_kind) if image.image_kind in KIND_ORDER else len(KIND_ORDER)
        return "implant_displaced" not in image.modifiers, kind, -image.taken_at, image.image_id

    best: dict[tuple[str, str], ExamImage] = {}
    for image in sorted(members, key=rank):
        best.setdefault((image.laterality, image.view), image)
    return [image for image in members if image in best.values()]


def _excluded(image: ExamImage, reason: str, message: str) -> Excluded:
    return Excluded(image.image_id, reason, f"mammogram {image.image_id}: {message}", image.keys.path)


def _of_side(labels: Mapping[str, str], laterality: str) -> dict[str, str]:
    from atlas_path.exams.labels import breast_labels

    return breast_labels(labels, laterality)
