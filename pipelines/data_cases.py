"""Which windows training reads: every image of the cohort matched with its store, level and kept windows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atlas_path.cohort import Cohort, ImageRow
from atlas_path.cohort.table import stem_of
from atlas_path.config import DataConfig
from atlas_path.errors import AtlasPathError, CohortError, NoTissueError
from atlas_path.geometry import WINDOW_PX
from atlas_path.progress import say

FILE_LEVEL = -1


@dataclass(frozen=True)
class ImageRef:
    """One image as training sees it: a level of a store and the windows kept on it."""

    image_id: str
    store: Path
    level: int
    size_px: tuple[int, int]
    mpp: tuple[float, float]
    row_col: np.ndarray = field(repr=False)
    n_channels: int = 3
    dtype: str = "uint8"
    kind: int = 0
    voi: str | None = None
    vendor: str | None = None
    compression: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether this is a plain image file, decoded without a store."""
        return self.level == FILE_LEVEL

    @property
    def n_windows(self) -> int:
        return len(self.row_col)

    @property
    def n_bytes(self) -> int:
        """Bytes of all kept windows when decoded."""
        return self.n_windows * self.n_channels * WINDOW_PX**2 * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class CaseRef:
    """All images of a case that can be read."""

    case_id: str
    images: tuple[ImageRef, ...]

    @property
    def n_windows(self) -> int:
        return sum(image.n_windows for image in self.images)


@dataclass(frozen=True)
class FoundCases:
    """Cases by id, images left out with the reason, and facts for `cohort.lock.csv`."""

    cases: dict[str, CaseRef]
    left_out: list[dict[str, str]]
    facts: dict[str, dict[str, str]]
    kinds: list[str]


def find_cases(cohort: Cohort, config: DataConfig) -> FoundCases:
    """Match every image of the cohort with its store and list its kept windows.

    A store belongs to an image when its id is the image's id, the path without suffix, or the file's stem.

    Raises:
        CohortError: more than `max_missing` of the images have no usable store.
    """
    locate = _store_locator(cohort, config.stores)
    kinds = sorted(
        {_kind(image, config.image_kinds) for case in cohort.cases for image in case.images} - {""}
    )
    found: dict[str, CaseRef] = {}
    facts: dict[str, dict[str, str]] = {}
    left_out: list[dict[str, str]] = []
    for case in cohort.cases:
        refs = []
        for image in case.images:
            store_path = locate(image)
            if store_path is None:
                left_out.append(_left_out(case.case_id, image, *_why_missing(cohort, image, config)))
                continue
            kind = _kind(image, config.image_kinds)
            try:
                ref, fact = _open_ref(image, store_path, config, kinds.index(kind) + 1 if kind else 0)
            except AtlasPathError as error:
                left_out.append(_left_out(case.case_id, image, error.reason, str(error)))
                continue
            refs.append(ref)
            facts[image.image_id] = fact
        if refs:
            found[case.case_id] = CaseRef(case.case_id, tuple(refs))
    _judge_missing(cohort, left_out, config.max_missing)
    return FoundCases(found, left_out, facts, kinds)


def _kind(image: ImageRow, columns: Sequence[str]) -> str:
    values = [image.attributes.get(column, "") for column in columns]
    return " ".join(values) if all(values) else ""


def _left_out(case_id: str, image: ImageRow, reason: str, error: str) -> dict[str, str]:
    return {"case_id": case_id, "image_id": image.image_id, "reason": reason, "error": error}


def _why_missing(cohort: Cohort, image: ImageRow, config: DataConfig) -> tuple[str, str]:
    source = cohort.file(image)
    if source is not None and not source.exists():
        return "missing_file", f"row {image.row}: no such file {image.path}; correct the path"
    where = config.stores.name if config.stores else "data.stores (not set)"
    return (
        "no_store",
        f"row {image.row}: image {image.image_id} has no store in {where}; run preprocess on it",
    )


def _judge_missing(cohort: Cohort, left_out: Sequence[Mapping[str, str]], max_missing: float) -> None:
    for row in left_out[:20]:
        say(f"left out: {row['error']}")
    if len(left_out) > 20:
        say(f"left out: ... and {len(left_out) - 20} more images")
    if len(left_out) > max_missing * cohort.n_images:
        raise CohortError(
            cohort.source,
            f"{len(left_out)} of {cohort.n_images} images cannot be used (first: {left_out[0]['error']})",
            f"mend them, or raise data.max_missing (now {max_missing:g})",
        )


def _store_locator(cohort: Cohort, folder: Path | None) -> Callable[[ImageRow], Path | None]:
    from atlas_path.store import find_stores

    by_id: dict[str, Path] = {}
    by_stem: dict[str, list[Path]] = {}
    for path in find_stores([folder]) if folder else ():
        image_id = path.relative_to(folder).as_posix() if folder and path != folder else path.name
        image_id = image_id.removesuffix(".zarr").removesuffix(".ome")
        by_id[image_id] = path
        by_stem.setdefault(image_id.rsplit("/", 1)[-1], []).append(path)

    def locate(image: ImageRow) -> Path | None:
        source = cohort.file(image)
        if source is not None and source.name.endswith(".zarr") and source.is_dir():
            return source
        names = [image.image_id]
        if image.path:
            names.append(str(Path(image.path).parent / stem_of(image.path)))
        for name in names:
            if name in by_id:
                return by_id[name]
        alone = by_stem.get(names[-1].rsplit("/", 1)[-1], [])
        return alone[0] if len(alone) == 1 else None

    return locate


def _open_ref(image: ImageRow, path: Path, config: DataConfig, kind: int) -> tuple[ImageRef, dict[str, str]]:
    from atlas_path.store import open_store

    store = open_store(path, config.voi)
    level = store.level_for(config.mpp)
    shape = store.levels[level]
    row_col = np.asarray(store.kept_windows(level, config.min_tissue), dtype=np.int32)
    if not len(row_col):
        raise NoTissueError(
            image.image_id, f"no window has {config.min_tissue:.0%} tissue", "lower data.min_tissue"
        )
    ref = ImageRef(
        image_id=image.image_id,
        store=path,
        level=level,
        size_px=(shape.height_px, shape.width_px),
        mpp=(shape.mpp.y, shape.mpp.x),
        row_col=row_col,
        n_channels=store.n_channels,
        dtype=np.dtype(store.dtype).name,
        kind=kind,
        voi=config.voi,
        vendor=store.meta.source.vendor,
        compression=store.meta.source.compression,
    )
    pixels = hashlib.sha256(np.ascontiguousarray(store.thumbnail(256)).tobytes()).hexdigest()
    fact = {
        "mpp": f"{shape.mpp.mean:.6g}",
        "level": str(level),
        "store_mpp": str(store.meta.mpp_requested),
        "windows": str(len(row_col)),
        **({"voi": store.shown_as} if store.shown_as else {}),
        "fingerprint": str(store.meta.source.fingerprint.get("sha256", "")),
        "pixel_sha256": pixels,
    }
    return ref, fact
