"""What is to be scored: slides and stores found in the inputs, gathered into cases.

Without a cohort table every image is a case (and a patient) of its own. With one, the table says which images
form a case; images of the inputs that are not in the table are left alone, and said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atlas_path.cohort import Case, Cohort, ImageRow, read_cohort
from atlas_path.config import load_train_config
from atlas_path.errors import UsageError
from atlas_path.progress import say
from atlas_path.slides import SlideSource, find_slides

STORE_SUFFIX = ".ome.zarr"


@dataclass(frozen=True)
class PlannedImage:
    """One image: a finished store, or a slide that has to be preprocessed first (`fault`: neither)."""

    image_id: str
    store: Path | None
    slide: Path | None
    mpp: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True)
class PlannedCase:
    """The images that are scored together."""

    case_id: str
    patient_id: str
    images: tuple[PlannedImage, ...]


def plan_cases(inputs: Sequence[Path], cohort: Path | None, out: Path) -> list[PlannedCase]:
    """Find the images and gather them into cases, in a fixed order.

    Args:
        inputs: slides, stores, or folders of them.
        cohort: optional table with case_id, patient_id and image_id or path, or the YAML of a study.
        out: the scores folder; what lies in it is never an input.

    Raises:
        UsageError: an input does not exist or holds nothing.
        CohortError: the table is faulty.
    """
    images = find_images(inputs, out)
    if cohort is None:
        return [PlannedCase(image.image_id, image.image_id, (image,)) for image in images]
    return _cases_of(_read(cohort), images)


def _read(path: Path) -> Cohort:
    """A cohort table, or that of a study's YAML (with the study's names of columns)."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return read_cohort(path)
    study = load_train_config(path)
    return read_cohort(study.cohort, (), study.columns)


def find_images(inputs: Sequence[Path], out: Path) -> list[PlannedImage]:
    """All stores and slides of the inputs; a slide whose store is there too appears once, as the store."""
    outside = [source for source in find_slides(inputs) if not _is_output(source.path, inputs, out)]
    if not outside:
        names = ", ".join(str(path) for path in inputs)
        raise UsageError(names, "holds no slides and no stores", "give slides, stores or folders of them")
    stores = {_store_id(s): s.path for s in outside if is_store(s.path)}
    images = [PlannedImage(image_id, path, None) for image_id, path in stores.items()]
    images += [
        PlannedImage(s.image_id, None, s.path)
        for s in outside
        if not is_store(s.path) and s.image_id not in stores
    ]
    return sorted(images, key=lambda image: image.image_id)


def is_store(path: Path) -> bool:
    """Whether a folder was written by `preprocess` (finished or not)."""
    if not path.name.endswith(STORE_SUFFIX):
        return False
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError):
        return False
    return "atlas_path" in attributes and "image_id" in attributes["atlas_path"]


def _store_id(source: SlideSource) -> str:
    attributes = json.loads((source.path / "zarr.json").read_text())["attributes"]
    return str(attributes["atlas_path"]["image_id"])


def _is_output(path: Path, inputs: Sequence[Path], out: Path) -> bool:
    """Pictures and maps that an earlier stage wrote beside its results are not slides."""
    if path.is_relative_to(out.resolve()):
        return True
    if is_store(path):
        return False
    roots = {given.resolve() for given in inputs}
    for folder in path.parents:
        if (folder / "manifest.csv").is_file() and (folder / "runs").is_dir():
            return True  # a folder of stores: its thumbnails
        if (folder / "scores.json").is_file():
            return True
        if folder in roots:
            return False
    return False


def _cases_of(cohort: Cohort, images: Sequence[PlannedImage]) -> list[PlannedCase]:
    finder = _Finder(cohort, images)
    cases = [
        PlannedCase(case.case_id, case.patient_id, tuple(finder.find(case, row) for row in case.images))
        for case in cohort.cases
    ]
    unused = sorted({image.image_id for image in images} - finder.used)
    if unused:
        shown = ", ".join(unused[:5]) + (", ..." if len(unused) > 5 else "")
        say(f"{len(unused)} images are not in {cohort.source.name} and are left alone: {shown}")
    return cases


class _Finder:
    """Matches rows of a cohort with found images: by id, by path, or by a file name that occurs once."""

    def __init__(self, cohort: Cohort, images: Sequence[PlannedImage]) -> None:
        self.cohort = cohort
        self.by_id = {image.image_id: image for image in images}
        self.by_path = {image.slide: image for image in images if image.slide}
        self.by_name: dict[str, list[PlannedImage]] = {}
        for image in images:
            self.by_name.setdefault(image.image_id.rsplit("/", 1)[-1], []).append(image)
        self.used: set[str] = set()

    def find(self, case: Case, row: ImageRow) -> PlannedImage:
        """The image of a row, under the id the cohort gives it."""
        found = self._match(row)
        if found is not None:
            self.used.add(found.image_id)
            return PlannedImage(row.image_id, found.store, found.slide, row.mpp, row.attributes)
        file = self.cohort.file(row)
        if file is not None and file.exists():
            store = file if is_store(file) else None
            slide = None if store else file.resolve()
            return PlannedImage(row.image_id, store, slide, row.mpp, row.attributes)
        fault = f"row {row.row} of {self.cohort.source.name}: no slide and no store for case {case.case_id}"
        return PlannedImage(row.image_id, None, None, row.mpp, row.attributes, fault)

    def _match(self, row: ImageRow) -> PlannedImage | None:
        if row.image_id in self.by_id:
            return self.by_id[row.image_id]
        file = self.cohort.file(row)
        if file is not None and file.resolve() in self.by_path:
            return self.by_path[file.resolve()]
        names = [row.image_id.rsplit("/", 1)[-1]]
        if file is not None:
            names += [file.stem, file.name.removesuffix(STORE_SUFFIX)]
        for name in names:
            alone = self.by_name.get(name, [])
            if len(alone) == 1:
                return alone[0]
        return None
