"""What this machine offers: versions, decoders, processors, memory and disk, and whether they suffice.

Every line is measured here and now. A check that fails says what to do; nothing is installed or changed,
but for one small file written to and removed from the folder that was named.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

PACKAGES = (
    "torch",
    "monai",
    "numpy",
    "zarr",
    "tifffile",
    "imagecodecs",
    "openslide-python",
    "openslide-bin",
    "dask",
    "distributed",
    "scikit-learn",
    "pydicom",
)
OLDEST_SAFE_PIXMAN = (0, 40, 0)
WRITE_TEST_BYTES = 64 * 2**20
LOW_DISK_GB = 20
REINSTALL = "install atlas-path again with its constraints file"

Verdict = Literal["ok", "warning", "fault", "fact"]


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and how to judge it."""

    topic: str
    found: str
    verdict: Verdict = "fact"
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def examine(folder: Path) -> list[Finding]:
    """All findings, with the write test made in `folder`."""
    return [
        *_versions(),
        *_openslide(),
        *_codecs(),
        _fast_jpeg(),
        *_processors(),
        *_disk(folder),
    ]


def _versions() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    for name in ("atlas-path", *PACKAGES):
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                name, "not installed", "fault", "install atlas-path again with its constraints file"
            )


def _openslide() -> Iterator[Finding]:
    import openslide

    yield Finding("OpenSlide library", openslide.__library_version__)
    version = _loaded_pixman()
    if version is None and _mapped_libraries("openslide_bin"):
        yield Finding("pixman", "inside openslide-bin, which never shipped one older than 0.42", "ok")
    elif version is None:
        yield Finding("pixman", "version not readable", "warning", "install openslide-bin to be sure of it")
    elif version < OLDEST_SAFE_PIXMAN:
        remedy = "0.38 damages MRXS and BIF silently; install openslide-bin, or pixman >= 0.40"
        yield Finding("pixman", ".".join(map(str, version)), "fault", remedy)
    else:
        yield Finding("pixman", ".".join(map(str, version)), "ok")


def _loaded_pixman() -> tuple[int, int, int] | None:
    """The version of the pixman library in this process, as OpenSlide loaded it."""
    import ctypes

    for candidate in _mapped_libraries("pixman") + _mapped_libraries("openslide"):
        try:
            version = ctypes.CDLL(candidate).pixman_version
        except (OSError, AttributeError):
            continue
        version.restype = ctypes.c_int
        number = int(version())
        return number // 10_000, number // 100 % 100, number % 100
    return None


def _mapped_libraries(word: str) -> list[str]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    return sorted({line.split(maxsplit=5)[5] for line in lines if word in line and line.count(" ") >= 5})


def _fast_jpeg() -> Finding:
    from atlas_path.slides.jpeg_fast import available

    if available():
        return Finding("fast JPEG decoder", "compiled", "ok")
    remedy = "tiles are decoded by libjpeg-turbo, a third slower; install again where there is a C compiler"
    return Finding("fast JPEG decoder", "not compiled, turned off, or no AVX2 here", "warning", remedy)


def _codecs() -> Iterator[Finding]:
    import imagecodecs

    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None], (64, 64, 3)).copy()
    raw = ramp.tobytes()
    trials: dict[str, Callable[[], np.ndarray]] = {
        "JPEG": lambda: imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(ramp, level=95)),
        "JPEG 2000": lambda: imagecodecs.jpeg2k_decode(imagecodecs.jpeg2k_encode(ramp, level=0)),
        "JPEG-LS": lambda: imagecodecs.jpegls_decode(imagecodecs.jpegls_encode(ramp)),
        "LZ4": lambda: _unpacked(
            imagecodecs.lz4_decode(imagecodecs.lz4_encode(raw, header=True), header=True)
        ),
        "Zstandard": lambda: _unpacked(imagecodecs.zstd_decode(imagecodecs.zstd_encode(raw))),
    }
    for name, round_trip in trials.items():
        try:
            difference = int(np.abs(round_trip().astype(int) - ramp).max())
        except (imagecodecs.DelayedImportError, RuntimeError, ValueError) as error:
            yield Finding(
                f"codec {name}", str(error), "fault", "install the imagecodecs wheel for this platform"
            )
            continue
        good = difference <= (4 if name == "JPEG" else 0)
        yield Finding(
            f"codec {name}",
            f"round trip differs by {difference} of 255",
            "ok" if good else "fault",
            "" if good else REINSTALL,
        )


def _unpacked(data: bytes | bytearray) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(64, 64, 3)


def _processors() -> Iterator[Finding]:
    import psutil
    import torch

    yield Finding("cores", str(len(os.sched_getaffinity(0))))
    yield Finding("memory", f"{psutil.virtual_memory().total / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        yield Finding("GPU", "none; small studies run on the CPU", "fact")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        yield Finding(f"GPU {index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {bf16}", "ok")


def _disk(folder: Path) -> Iterator[Finding]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free_gb = shutil.disk_usage(folder).free / 1e9
        low = free_gb < LOW_DISK_GB
        yield Finding(
            "free disk",
            f"{free_gb:.0f} GB in {folder}",
            "warning" if low else "ok",
            "a portable store needs about 1 GB for each gigapixel of tissue" if low else "",
        )
        yield Finding("write test", f"{_write_speed_mb_s(folder):.0f} MB/s with fsync", "ok")
    except OSError as error:
        yield Finding(
            "write test", f"{folder}: {error.strerror}", "fault", "choose a folder you may write to"
        )


def _write_speed_mb_s(folder: Path) -> float:
    block = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".atlas-path-doctor-") as file:
        started = time.perf_counter()
        for _ in range(WRITE_TEST_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return WRITE_TEST_BYTES / 1e6 / (time.perf_counter() - started)
