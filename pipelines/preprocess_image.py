"""One image: is its store up to date, and if not, make it."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from atlas_path.errors import (
    AtlasPathError,
    DiskFullError,
    StaleStoreError,
    StoreError,
    UnreadableSlideError,
)
from atlas_path.slides import fingerprint
from atlas_path.store import StoreMeta, open_store
from atlas_path.store.aside import Aside
from atlas_path.store.commit import PartFolder, read_completion, store_path
from atlas_path.store.convert import commit, copy_levels, finish, whole, write_rows
from atlas_path.store.options import PreprocessOptions, parameter_hash
from atlas_path.store.prepare import Request, prepare
from pipelines.preprocess_inputs import Item
from pipelines.work import ImageRecord


def up_to_date(item: Item, out: Path, options: PreprocessOptions) -> ImageRecord | None:
    """The record of an image whose store needs no work; None when it must be made.

    A store is kept when the slide's fingerprint and the parameters are those it was made with. When only the
    slide changed it is made anew; when the parameters changed it is refused, because stores of two kinds in
    one folder would be mixed without anybody noticing, unless `options.force`.
    """
    final = store_path(out, item.image_id)
    if options.force or not final.exists():
        return None
    known = {"case_id": item.case_id, "source": item.shown}
    try:
        completion = read_completion(final)
        current = fingerprint(item.path, full=completion["fingerprint"].get("hash") == "full")
        if not same_content(completion["fingerprint"], dict(current)):
            return None
        wanted = parameter_hash(options.parameters(item.mpp_given, options.outline_of(item.image_id)))
        if completion["parameters_sha256"] != wanted:
            raise StaleStoreError(
                final,
                f"was made with other parameters ({_difference(final, item, options)})",
                "use another output folder, or --force to make it anew",
            )
        return record_of(open_store(final).meta, item, out, "up_to_date")
    except StaleStoreError as error:
        return failed(item, error, **known)
    except (StoreError, KeyError):
        return None  # incomplete or unreadable: made anew
    except (AtlasPathError, OSError) as error:
        return failed(item, error, **known)


def same_content(before: dict[str, object], now: dict[str, object]) -> bool:
    """True when two fingerprints are of the same content; the time of the file does not count."""
    return all(before.get(key) == now.get(key) for key in ("size", "n_files", "hash", "sha256"))


def convert_image(item: Item, out: Path, options: PreprocessOptions, threads: int) -> ImageRecord:
    """Make the store of one image. A slide that cannot be converted becomes a record with its reason."""
    return recorded(item, out, lambda: _convert(item, out, options, threads))


def recorded(item: Item, out: Path, convert: Callable[[], tuple[StoreMeta, bool]]) -> ImageRecord:
    """Run a conversion; its record, whatever happens."""
    started = time.monotonic()
    try:
        meta, placed = convert()
    except (AtlasPathError, OSError, ValueError, MemoryError, RuntimeError) as error:
        seconds = round(time.monotonic() - started, 2)
        return failed(item, _said(error, out), case_id=item.case_id, source=item.shown, seconds=seconds)
    record = record_of(meta, item, out, "written" if placed else "written_by_another_run")
    seconds = time.monotonic() - started
    record.seconds = round(seconds, 2)
    record.mpix_per_s = round(meta.levels[0].height_px * meta.levels[0].width_px / 1e6 / seconds, 1)
    return record


def _said(error: Exception, out: Path) -> Exception:
    """A full disk, said as an error a user can act on."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            out, "there is no space left on this disk", "free some and run the command again"
        )
    return error


def _convert(item: Item, out: Path, options: PreprocessOptions, threads: int) -> tuple[StoreMeta, bool]:
    cv2.setNumThreads(threads)  # while the slide is looked at; the pixels are written by threads of ours
    request = request_for(item, out, options)
    final = store_path(out, item.image_id)
    replace = final.exists()  # stale, or --force; one that another run makes meanwhile is kept
    part = PartFolder(final)
    try:
        with Aside() as aside:
            prepared = prepare(request, options, part.path, threads, aside)
            written = copy_levels(prepared.job, threads)
            if prepared.job.levels[0].origin == "decoded":
                written.add(write_rows(prepared.job, whole(prepared.job), threads))
            meta, written = finish(prepared, written, threads)
        return meta, commit(part, meta, written, replace)
    except BaseException:
        part.abandon()
        raise


def request_for(item: Item, out: Path, options: PreprocessOptions) -> Request:
    """The request, with the fingerprint taken now, before a pixel is read.

    Raises:
        UnreadableSlideError: there is no such file.
        OSError: the slide cannot be read.
    """
    if not item.path.exists():
        raise UnreadableSlideError(item.path, "does not exist", "correct the path")
    taken = dict(fingerprint(item.path, full=options.hash == "full"))
    if item.private:
        taken["mtime_ns"] = 0  # the day of a file may be the day of the examination
    return Request(item.path, item.image_id, out, taken, item.mpp_given)


def record_of(meta: StoreMeta, item: Item, out: Path, reason: str) -> ImageRecord:
    """The manifest row of a complete store."""
    return ImageRecord(
        image_id=item.image_id,
        case_id=item.case_id,
        status="done",
        reason=reason,
        source=item.shown,
        store=store_path(out, item.image_id).relative_to(out).as_posix(),
        mpp=round((meta.mpp.y * meta.mpp.x) ** 0.5, 6),
        mpp_source=meta.source.mpp_source or "",
        height_px=meta.levels[0].height_px,
        width_px=meta.levels[0].width_px,
        tissue_mm2=meta.tissue.area_mm2,
        windows=meta.counts.stored,
        bad_windows=meta.counts.bad,
        flags=" ".join(meta.tissue.flags),
    )


def failed(item: Item, error: BaseException, **known: Any) -> ImageRecord:
    """The record of an image that could not be made, without the name of a private file."""
    record = ImageRecord.failure(item.image_id, error, **known)
    if item.private:
        for text in (str(item.path), str(item.path.absolute()), item.path.name):
            record.error = record.error.replace(text, item.image_id)
    return record


def _difference(final: Path, item: Item, options: PreprocessOptions) -> str:
    """Which parameters differ, as 'name before -> now'."""
    before = open_store(final).meta.parameters
    now = options.parameters(item.mpp_given, options.outline_of(item.image_id))
    changed = [f"{k} {before.get(k)!r} -> {now.get(k)!r}" for k in now if before.get(k) != now.get(k)]
    return ", ".join(changed) or "its format"
