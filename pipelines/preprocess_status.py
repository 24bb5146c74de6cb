"""`status` and `verify`: what each image of a folder of stores is, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atlas_path.errors import AtlasPathError, UsageError
from atlas_path.slides import fingerprint
from atlas_path.store import open_store
from atlas_path.store.commit import (
    COMPLETE,
    PART_SUFFIX,
    STORE_SUFFIX,
    part_folders,
    read_completion,
    store_path,
)
from atlas_path.store.verify import Verdict, verify_store
from pipelines.preprocess_image import same_content
from pipelines.work import ImageRecord, read_manifest

State = Literal["done", "stale", "failed", "incomplete", "being_written", "lost", "unlisted"]


@dataclass(frozen=True)
class ImageStatus:
    """One image: its state and the reason for it in words."""

    image_id: str
    state: State
    why: str

    @property
    def ok(self) -> bool:
        """True for images that the next stage can use, or soon can."""
        return self.state in ("done", "being_written")


def stores_below(folders: Sequence[Path]) -> list[Path]:
    """Every store in the folders, complete or not, sorted.

    Raises:
        UsageError: a folder does not exist.
    """
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(folder, "no such folder", "name a folder of stores, or a store")
        if folder.name.endswith(STORE_SUFFIX):
            found.add(folder)
            continue
        for parent, names, _ in os.walk(folder, followlinks=True):
            found.update(Path(parent, n) for n in names if n.endswith(STORE_SUFFIX) and not n.startswith("."))
            names[:] = [n for n in names if not n.startswith(".") and not n.endswith(".zarr")]
    return sorted(found)


def verify(folders: Sequence[Path], full: bool = False) -> Iterator[Verdict]:
    """Verify every store in the folders.

    Raises:
        UsageError: there are none.
    """
    stores = stores_below(folders)
    if not stores:
        raise UsageError(", ".join(map(str, folders)), "holds no stores", "run preprocess first")
    for store in stores:
        yield verify_store(store, full)


def status(out: Path, check_sources: bool = True) -> list[ImageStatus]:
    """The state of every image that a folder of stores knows of.

    Args:
        out: the folder that `preprocess` wrote.
        check_sources: compare fingerprints with the slides, where they can still be found.

    Raises:
        UsageError: the folder does not exist.
    """
    found = {_id_of(store, out): store for store in stores_below([out])}
    manifest = {record.image_id: record for record in read_manifest(out / "manifest.csv")}
    images = [
        _state_of(image_id, store_path(out, image_id), manifest.get(image_id), check_sources)
        for image_id in sorted(set(found) | set(manifest))
    ]
    for folder, is_live in part_folders(out):
        name = folder.relative_to(out).as_posix().removesuffix(PART_SUFFIX).rpartition(".")[0]
        image_id = f"{folder.parent.relative_to(out).as_posix()}/" if folder.parent != out else ""
        image_id += name.rpartition("/")[2].removeprefix(".")
        why = "a run is writing it" if is_live else "a run was interrupted; the next one sweeps it"
        images.append(ImageStatus(image_id, "being_written" if is_live else "incomplete", why))
    return images


def _state_of(image_id: str, store: Path, record: ImageRecord | None, check_sources: bool) -> ImageStatus:
    if record is not None and not record.ok and not store.exists():
        return ImageStatus(image_id, "failed", record.error)
    if not store.exists():
        return ImageStatus(
            image_id, "lost", "the manifest says done, but the store is gone; run preprocess again"
        )
    if not (store / COMPLETE).is_file():
        return ImageStatus(image_id, "incomplete", "it has no completion record; run preprocess again")
    try:
        meta = open_store(store).meta
        before = read_completion(store)["fingerprint"]
    except AtlasPathError as error:
        return ImageStatus(image_id, "incomplete", error.fault)
    if record is not None and record.reason == "stale":
        return ImageStatus(image_id, "stale", record.error)
    made = f"fingerprint {str(before.get('sha256'))[:12]}, parameters {meta.parameters_sha256[:12]}"
    if record is None:
        return ImageStatus(image_id, "unlisted", f"a complete store that the manifest does not know ({made})")
    slide = Path(record.source)
    if check_sources and slide.exists():
        now = fingerprint(slide, full=before.get("hash") == "full")
        if not same_content(before, dict(now)):
            return ImageStatus(image_id, "stale", "the slide has changed since; run preprocess again")
        return ImageStatus(image_id, "done", f"made from the slide as it is now ({made})")
    return ImageStatus(image_id, "done", f"the slide was not looked at ({made})")


def _id_of(store: Path, out: Path) -> str:
    return store.relative_to(out).as_posix().removesuffix(STORE_SUFFIX)
