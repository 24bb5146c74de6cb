"""Is a store still what was completed? Files, sizes, indices, chunk counts and checksums are compared."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import google_crc32c
import numpy as np

from atlas_path.errors import AtlasPathError, StoreError
from atlas_path.store.chunks import Chunks
from atlas_path.store.commit import COMPLETE, LOCK, read_completion
from atlas_path.store.reader import open_store

SAMPLED_FILES = 8
READ_BYTES = 8 << 20


@dataclass
class Verdict:
    """What was found out about one store.

    Attributes:
        path: the store.
        faults: one line each; empty when the store is whole.
        n_files: files in the completion record.
        n_checksums: files that were read to the end and compared.
        n_chunks: chunks that the indices of all shards hold.
        n_decoded: chunks that were decoded (with `full`).
    """

    path: Path
    faults: list[str] = field(default_factory=list)
    n_files: int = 0
    n_checksums: int = 0
    n_chunks: int = 0
    n_decoded: int = 0

    @property
    def ok(self) -> bool:
        """Nothing wrong."""
        return not self.faults


def verify_store(path: Path, full: bool = False) -> Verdict:
    """Compare a store with its completion record.

    Always: every file is there with its size, nothing else is, every shard index is whole and its chunks lie
    inside the file. Checksums of all small files and of 8 shards, chosen by the store's fingerprint; with
    `full` of every file, and every chunk is decoded.
    """
    verdict = Verdict(path)
    try:
        completion = read_completion(path)
        store = open_store(path)
    except AtlasPathError as error:
        verdict.faults.append(error.fault)
        return verdict
    rows: list[tuple[str, int, int, int]] = [tuple(row) for row in completion["files"]]
    verdict.n_files = len(rows)
    _compare_listing(verdict, rows)
    if verdict.ok:
        _compare_checksums(verdict, rows, full, str(completion["fingerprint"].get("sha256")))
        for level in store.meta.levels:
            if level.path is not None:
                _compare_chunks(verdict, level.path, {key: n for key, _, _, n in rows}, full)
    return verdict


def _compare_listing(verdict: Verdict, rows: list[tuple[str, int, int, int]]) -> None:
    sizes = {key: n_bytes for key, n_bytes, _, _ in rows}
    found = {
        file.relative_to(verdict.path).as_posix(): file.stat().st_size
        for file in verdict.path.rglob("*")
        if file.is_file()
    }
    for key, n_bytes in sizes.items():
        if key not in found:
            verdict.faults.append(f"{key} is missing")
        elif found[key] != n_bytes:
            verdict.faults.append(f"{key} has {found[key]} bytes instead of {n_bytes}")
    extra = sorted(set(found) - set(sizes) - {COMPLETE, LOCK})
    verdict.faults += [f"{key} does not belong to the store" for key in extra]


def _compare_checksums(
    verdict: Verdict, rows: list[tuple[str, int, int, int]], full: bool, seed: str
) -> None:
    shards = [row for row in rows if row[3]]
    if not full and len(shards) > SAMPLED_FILES:
        shards = random.Random(seed).sample(shards, SAMPLED_FILES)
    for key, _, crc, _ in [row for row in rows if not row[3]] + shards:
        verdict.n_checksums += 1
        if _crc_of(verdict.path / key) != crc:
            verdict.faults.append(f"{key} has another content than was written")


def _compare_chunks(verdict: Verdict, level: str, counts: dict[str, int], full: bool) -> None:
    """Indices, number and position of the chunks of one level; with `full` their content, too."""
    chunks = Chunks(verdict.path / level)
    _, n_y, n_x = chunks.layout.chunks_per_shard
    buffer = np.empty(chunks.layout.chunk, chunks.layout.dtype)
    rows, cols = chunks.layout.shard_grid
    for row in range(rows):
        for col in range(cols):
            key = f"{level}/{chunks.layout.shard_key(row, col)}"
            try:
                index = chunks.shard_index(row, col)
                stored = 0 if index is None else int((index[:, 1] != np.iinfo(np.uint64).max).sum())
                verdict.n_chunks += stored
                if stored != counts.get(key, 0):
                    verdict.faults.append(f"{key} holds {stored} chunks instead of {counts.get(key, 0)}")
                if full and index is not None:
                    at = [(row * n_y + y, col * n_x + x) for y in range(n_y) for x in range(n_x)]
                    for _, _, payload in chunks.payloads(at):
                        if payload is not None:
                            chunks.layout.codec.decode_into(payload, buffer)
                            verdict.n_decoded += 1
            except StoreError as error:
                verdict.faults.append(f"{key}: {error.fault}")
            except ValueError as error:
                verdict.faults.append(f"{key}: {error}")


def _crc_of(path: Path) -> int:
    crc = 0
    with path.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            crc = google_crc32c.extend(crc, block)
    return crc
