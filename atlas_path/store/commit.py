"""A store is either complete or not visible.

It is written beside its place as `.<name>.<random>.part`, every file is fsynced, `complete.json` (what was
made from what, and the checksum of every file) is written last, and one rename puts it in its place. A
killed writer leaves only a hidden `.part` folder, which the next run sweeps: the writer holds a lock on it,
and the kernel drops that lock when the process dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c

from atlas_path.errors import IncompleteStoreError, StoreError
from atlas_path.store.shard import FileRecord

STORE_SUFFIX = ".ome.zarr"
COMPLETE = "complete.json"
LOCK = ".writing"
PART_SUFFIX = ".part"


def store_path(out: Path, image_id: str) -> Path:
    """Where the store of an image lies; ids with slashes lie in folders."""
    return out / f"{image_id}{STORE_SUFFIX}"


class PartFolder:
    """A store that is being written. Files are recorded as they are written; `commit` makes it visible."""

    def __init__(self, final: Path) -> None:
        name = final.name.removesuffix(STORE_SUFFIX)
        unlocked = final.parent / f".{name}.{uuid.uuid4().hex[:12]}.new"
        unlocked.mkdir(parents=True)
        self._lock_fd = os.open(unlocked / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        self.final = final
        self.path = unlocked.with_suffix(PART_SUFFIX)
        os.rename(unlocked, self.path)  # a .part folder that nobody has locked is never a living one

    def commit(self, files: Iterable[FileRecord], replace: bool, **facts: Any) -> bool:
        """Make the store visible; False when another run put one in its place meanwhile.

        Args:
            files: record of every shard; the small files are recorded here.
            replace: take the place of a store that is there now.
            facts: JSON facts for the completion record.
        """
        recorded = {record.key: record for record in files}
        for path in _files_below(self.path):
            key = path.relative_to(self.path).as_posix()
            if key != LOCK and key not in recorded:
                content = path.read_bytes()
                recorded[key] = FileRecord(key, len(content), google_crc32c.value(content))
        _fsync_all(self.path)
        rows = [[r.key, r.n_bytes, r.crc32c, r.n_chunks] for _, r in sorted(recorded.items())]
        completion = {**facts, "files": rows}
        with open(self.path / COMPLETE, "w", encoding="utf-8") as stream:
            json.dump(completion, stream, separators=(",", ":"))
            stream.flush()
            os.fsync(stream.fileno())
        _fsync(self.path)
        placed = _place(self.path, self.final, replace)
        if placed:
            (self.final / LOCK).unlink(missing_ok=True)  # gone when another run replaced the store already
        else:
            # Once its lock file is gone, the sweep of another run may remove the same folder beside us.
            shutil.rmtree(self.path, ignore_errors=True)
        self._release()
        return placed

    def abandon(self) -> None:
        """Remove what was written."""
        self._release()
        shutil.rmtree(self.path, ignore_errors=True)

    def _release(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def read_completion(path: Path) -> dict[str, Any]:
    """The completion record of a store.

    Raises:
        IncompleteStoreError: there is none: not a store, or one that was interrupted.
        StoreError: it cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads((path / COMPLETE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise IncompleteStoreError(
            path, "no completed store is here", "run `atlas-path preprocess` on the slide first"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(
            path,
            f"its completion record cannot be read ({error})",
            "delete the store and run preprocess again",
        ) from error
    return record


def sweep(out: Path) -> list[Path]:
    """Remove the `.part` folders below `out` whose writer is dead; they are returned."""
    swept = []
    for folder in _part_folders(out):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
    return swept


def part_folders(out: Path) -> list[tuple[Path, bool]]:
    """(folder, is it being written now) of every `.part` folder below `out`."""
    return [(folder, not _is_abandoned(folder)) for folder in _part_folders(out)]


def _part_folders(out: Path) -> list[Path]:
    found = []
    for parent, folders, _ in os.walk(out):
        found += [Path(parent, f) for f in folders if f.startswith(".") and f.endswith(PART_SUFFIX)]
        folders[:] = [f for f in folders if not f.startswith(".") and not f.endswith(".zarr")]
    return found


def _is_abandoned(folder: Path) -> bool:
    """True when nobody holds the lock, or there is none (an old store on its way out)."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _place(part: Path, final: Path, replace: bool) -> bool:
    """Rename `part` to `final`; False when a store is there already and must stay."""
    aside = part.with_name(f"{part.name.removesuffix(PART_SUFFIX)}.old{PART_SUFFIX}")
    while True:
        try:
            os.rename(part, final)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not replace:
                return False
        with suppress(FileNotFoundError):  # another run may be moving it out of the way, too
            os.rename(final, aside)
    _fsync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _files_below(folder: Path) -> list[Path]:
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def _fsync_all(folder: Path) -> None:
    """Flush every file, then every folder. Several at a time: a device merges them."""
    folders = [Path(parent) for parent, _, _ in os.walk(folder)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(_fsync, _files_below(folder)))
        list(pool.map(_fsync, folders))


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
