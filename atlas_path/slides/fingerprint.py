"""What tells one file's content from another's without reading all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypedDict

from atlas_path.slides.dicom_files import series_files
from atlas_path.slides.find import is_zarr_folder

HEAD_BYTES = 64 * 1024
SAMPLE_BYTES = 16 * 1024
N_SAMPLES = 16
_BLOCK_BYTES = 2**22


class Fingerprint(TypedDict):
    """`size` and `sha256` say whether content is the same; `mtime_ns` (newest file) is kept for people."""

    size: int
    mtime_ns: int
    n_files: int
    hash: str
    sha256: str


def fingerprint(path: Path, full: bool = False) -> Fingerprint:
    """Size, time and SHA-256 of a slide: of head, tail and 16 ranges between them, or of everything.

    All files of a multi-file slide count (MRXS and VMS companions, the files of a DICOM series' folder, all
    of an OME-Zarr). Names relative to the slide and sizes are hashed too.

    Raises:
        OSError: a file cannot be read.
    """
    files = slide_files(path)
    digest = hashlib.sha256()
    size = newest = 0
    for file in files:
        status = file.stat()
        size += status.st_size
        newest = max(newest, status.st_mtime_ns)
        name = "" if file == path else os.path.relpath(file, path.parent)
        digest.update(f"{name}\0{status.st_size}\0".encode())
        _hash_file(digest, file, status.st_size, full)
    return {
        "size": size,
        "mtime_ns": newest,
        "n_files": len(files),
        "hash": "full" if full else "sampled",
        "sha256": digest.hexdigest(),
    }


def slide_files(path: Path) -> list[Path]:
    """Every file a slide is made of, sorted."""
    if is_zarr_folder(path):
        return sorted(file for file in path.rglob("*") if file.is_file())
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        parts = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
        return sorted([path, *parts])
    if suffix in (".vms", ".vmu"):
        lines = path.read_text("latin-1").splitlines()
        named = {path.parent / line.partition("=")[2].strip() for line in lines if "=" in line}
        return sorted({path, *(file for file in named if file.is_file())})
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    return series_files(path)


def _hash_file(digest: hashlib._Hash, file: Path, size: int, full: bool) -> None:
    with file.open("rb") as stream:
        if full or size <= 2 * HEAD_BYTES + N_SAMPLES * SAMPLE_BYTES:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
            return
        digest.update(stream.read(HEAD_BYTES))
        step = (size - 2 * HEAD_BYTES) // N_SAMPLES
        for number in range(N_SAMPLES):
            stream.seek(HEAD_BYTES + number * step)
            digest.update(stream.read(SAMPLE_BYTES))
        stream.seek(size - HEAD_BYTES)
        digest.update(stream.read(HEAD_BYTES))
