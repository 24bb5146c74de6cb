"""Reading back: 256 px tissue windows at random, and whole-slide sweeps, from stores and from the slide.

    python benchmarks/readback.py                     # 40000 x 30000, median of 5, about 4 minutes
    python benchmarks/readback.py --size 12000x10000 --reps 1 --reads 300

One process; the page cache is made warm before each reader's turn. `random` reads one window a call,
positions shuffled; `batch` 64 random windows a call, as a loader does; `sweep` every tissue window once,
row by row, 64 a call into the same array, which stays in the processor's cache; all on one thread. `whole
slide` reads all tissue windows by one call on as many threads as there are cores, as scoring does. Every
reader fills an array (n, 3, 256, 256); OpenSlide by `read_region(...).convert("RGB")`, as its users do. At
40x the slide's pixels are taken as 0.25 um/px and windows are read at 0.5: OpenSlide reads 512 px and
shrinks them, the portable store has them, the compact one decodes its 0.25 um/px tiles at half size.
`memcpy` copies windows that lie uncompressed in main memory, more of them than any cache holds: no reader
can beat it. `copy` makes new arrays of them, 48 MiB each, one a core at a time, by numpy's `copy()`: memory
is asked for, cleared and filled. `portable lz4, new` reads such arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ingest import ROOT, THREADS, machine, make_slide

BATCH = 64
COPIED = 256  # windows of 48 MiB
WHOLE = "whole slide"
NOT_WHOLE, ONLY_WHOLE = ("openslide", "zarr portable"), ("copy", "portable lz4, new")
Read = Callable[[np.ndarray, np.ndarray, int], object]  # (row_col, out, threads)
Reader = tuple[Read, Path | np.ndarray]  # and what it reads from


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="40000x30000")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--reads", type=int, default=2000, help="windows of each random measurement")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/readback.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    scratch = Path(tempfile.mkdtemp(prefix="readback-", dir=arguments.scratch))
    try:
        runs = measure(arguments, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    lines = table(runs)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "size": arguments.size, "table": lines, "runs": runs}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(lines))
    print(f"written: {arguments.out}")


def measure(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """All readers, `reps` times, interleaved."""
    slide = scratch / "slide.svs"
    make_slide(slide, arguments.size, "0.4")
    readers = {"20x": readers_20x(slide, scratch), "40x": readers_40x(slide, scratch)}
    rng = np.random.default_rng(0)
    runs = []
    for rep in range(arguments.reps):
        for group, (windows, by_name) in readers.items():
            chosen = rng.permutation(windows)[: arguments.reads]
            for name, (read, source) in by_name.items():
                make_warm(source)
                for how, row_col, step, threads in (
                    ("random", chosen, 1, 1),
                    ("batch", chosen, BATCH, 1),
                    ("sweep", windows, BATCH, 1),
                    (WHOLE, windows, len(windows), THREADS),
                ):
                    if how == "sweep" and name in ("openslide", "zarr portable"):
                        row_col = row_col[: arguments.reads]
                    if name in (NOT_WHOLE if how == WHOLE else ONLY_WHOLE):
                        continue
                    seconds, cpu = timed(read, row_col, step, threads)
                    runs.append(
                        {
                            "group": group,
                            "reader": name,
                            "how": how,
                            "rep": rep,
                            "windows": len(row_col),
                            "windows_per_s": round(len(row_col) / seconds, 1),
                            "windows_per_cpu_s": round(len(row_col) / cpu, 1),
                        }
                    )
                    print(group, name, how, rep, runs[-1]["windows_per_s"], flush=True)
    return runs


def make_warm(source: Path | np.ndarray) -> None:
    """Touch all of a reader's source: what nobody used for a minute may have been taken out of memory."""
    if isinstance(source, np.ndarray):
        source.max()
        return
    for file in [source] if source.is_file() else filter(Path.is_file, source.rglob("*")):
        with open(file, "rb") as stream:
            while stream.read(1 << 24):
                pass


def timed(read: Read, row_col: np.ndarray, step: int, threads: int) -> tuple[float, float]:
    """(wall, CPU) seconds to read all windows, `step` a call, into the same array."""
    out = np.zeros((step, 3, 256, 256), np.uint8)
    read(row_col[:step], out[: len(row_col)], threads)
    started, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(row_col), step):
        part = row_col[start : start + step]
        read(part, out[: len(part)], threads)
    return time.perf_counter() - started, max(time.process_time() - cpu, 1e-9)


def readers_20x(slide: Path, scratch: Path) -> tuple[np.ndarray, dict[str, Reader]]:
    """Tissue windows of level 0 and the readers of them."""
    import openslide
    import zarr

    portable, compact = convert(slide, scratch / "p20"), convert(slide, scratch / "c20", codec="jpeg")
    zstd = convert(slide, scratch / "z20", codec="zstd")
    source = openslide.OpenSlide(slide)
    array = zarr.open_group(portable.path, mode="r")["0"]

    def from_slide(row_col: np.ndarray, out: np.ndarray, _: int) -> None:
        for (row, col), window in zip(row_col.tolist(), out, strict=True):
            region = source.read_region((col * 256, row * 256), 0, (256, 256))
            window[...] = np.asarray(region.convert("RGB")).transpose(2, 0, 1)

    def from_zarr(row_col: np.ndarray, out: np.ndarray, _: int) -> None:
        for (row, col), window in zip(row_col.tolist(), out, strict=True):
            part = array[:, row * 256 : (row + 1) * 256, col * 256 : (col + 1) * 256]
            window[:, : part.shape[1], : part.shape[2]] = part

    memory = Memory()
    return portable.kept_windows(0), {
        "openslide": (from_slide, slide),
        "zarr portable": (from_zarr, portable.path),
        "portable lz4": (windows_of(portable, 0), portable.path),
        "portable zstd": (windows_of(zstd, 0), zstd.path),
        "compact": (windows_of(compact, 0), compact.path),
        "portable lz4, new": (new_arrays_of(portable), portable.path),
        "memcpy": (memory, memory.source),
        "copy": (memory.copies, memory.source),
    }


def windows_of(store: Any, level: int) -> Read:
    """This project's reader."""
    return lambda row_col, out, threads: store.read_windows(level, row_col, out, threads)


def new_arrays_of(store: Any) -> Read:
    """The same, into new arrays of `COPIED` windows, one a thread at a time."""

    def read(row_col: np.ndarray, _: np.ndarray, threads: int) -> None:
        parts = [row_col[start : start + COPIED] for start in range(0, len(row_col), COPIED)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: store.read_windows(0, part).nbytes, parts))

    return read


class Memory:
    """Copies windows out of main memory, the next ones at every call."""

    def __init__(self, windows: int = 4096) -> None:
        self.source = np.random.default_rng(0).integers(0, 255, (BATCH, 3, 256, 256), np.uint8)
        self.source = np.tile(self.source, (windows // BATCH, 1, 1, 1))
        self._at = 0
        self._pool = ThreadPoolExecutor(THREADS)

    def __call__(self, row_col: np.ndarray, out: np.ndarray, threads: int) -> None:
        for start in range(0, len(out), len(self.source)):
            some = out[start : start + len(self.source)]
            if self._at + len(some) > len(self.source):
                self._at = 0
            part = self.source[self._at : self._at + len(some)]
            self._at += len(some)
            if threads == 1:
                np.copyto(some, part)
            else:
                list(self._pool.map(np.copyto, np.array_split(some, threads), np.array_split(part, threads)))

    def copies(self, row_col: np.ndarray, _: np.ndarray, threads: int) -> None:
        """New arrays, as many as there are windows asked for."""
        starts = [k * COPIED % (len(self.source) - COPIED) for k in range(-(-len(row_col) // COPIED))]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda start: self.source[start : start + COPIED].copy().nbytes, starts))


def readers_40x(slide: Path, scratch: Path) -> tuple[np.ndarray, dict[str, Reader]]:
    """Tissue windows at 0.5 um/px of a slide of 0.25, and the readers of them."""
    import openslide

    portable = convert(slide, scratch / "p40", given=0.25)
    compact = convert(slide, scratch / "c40", given=0.25, codec="jpeg")
    recoded = convert(slide, scratch / "r40", given=0.25, codec="jpeg", recode=True)
    source = openslide.OpenSlide(slide)

    def from_slide(row_col: np.ndarray, out: np.ndarray, _: int) -> None:
        for (row, col), window in zip(row_col.tolist(), out, strict=True):
            region = source.read_region((col * 512, row * 512), 0, (512, 512))
            pixels = np.asarray(region.convert("RGB"))
            small = cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_AREA)
            window[...] = small.transpose(2, 0, 1)

    return portable.kept_windows(0), {
        "openslide": (from_slide, slide),
        "portable lz4": (windows_of(portable, 0), portable.path),
        "compact": (windows_of(compact, 1), compact.path),
        "compact recoded": (windows_of(recoded, 0), recoded.path),
    }


def convert(slide: Path, out: Path, given: float | None = None, **options: Any) -> Any:
    """The store of the slide."""
    from atlas_path.store import PreprocessOptions, open_store
    from pipelines.preprocess_image import convert_image
    from pipelines.preprocess_inputs import Item

    item = Item(slide, "image", "image", given)
    record = convert_image(item, out, PreprocessOptions(**options), len(os.sched_getaffinity(0)))
    assert record.ok, record.error
    return open_store(out / record.store)


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Medians and ratios to OpenSlide as a Markdown table."""
    lines = [
        "| slide | reader | how | windows/s (n) | windows / CPU s | x OpenSlide |",
        "|---|---|---|---|---|---|",
    ]
    for group in dict.fromkeys(run["group"] for run in runs):
        for how in ("random", "batch", "sweep", WHOLE):
            some = [run for run in runs if run["group"] == group and run["how"] == how]
            base = statistics.median(
                run["windows_per_s"]
                for run in runs
                if (run["group"], run["reader"], run["how"])
                == (group, "openslide", "sweep" if how == WHOLE else how)
            )
            for name in dict.fromkeys(run["reader"] for run in some):
                of_one = [run for run in some if run["reader"] == name]
                speed = statistics.median(run["windows_per_s"] for run in of_one)
                cpu = statistics.median(run["windows_per_cpu_s"] for run in of_one)
                measured = f"{speed:.0f} ({len(of_one)}) | {cpu:.0f} | {speed / base:.2f}"
                lines.append(f"| {group} | {name} | {how} | {measured} |")
    return lines


if __name__ == "__main__":
    main()
