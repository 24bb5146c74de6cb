"""Ingest side by side: this project's stores, libvips, the pure decoder and a naive OpenSlide loop.

    python benchmarks/ingest.py                       # 40000 x 30000, median of 5, about 8 minutes
    python benchmarks/ingest.py --size 12000x10000 --reps 1
    python benchmarks/ingest.py --memory              # peak memory at 1.2 and 10 Gpx only

Needs `pip install atlas-path[bench]` (pyvips) and the slide generator of the shared material, which
ATLAS_PATH_SHARED points to.
Every conversion runs in a fresh process that has done one small conversion before; the clock runs from the
open call to the last byte on disk (ours are fsynced; libvips' are not). All variants of a repetition run one
after the other, so that other load on the machine meets all of them; CPU seconds used by others are recorded.

20x: the slide as it is (0.499 um/px). 40x: the same pixels taken as 0.25 um/px and brought to 0.5.
    floor            every tile decoded (40x: at half size) on all cores, result thrown away; floor_libjpeg by
                     libjpeg-turbo instead of this project's decoder
    vips             tiffsave, pyramid, tiled, JPEG Q89 (40x: shrunk 2x before)
    openslide_naive  OpenSlide read_region, zarr-python chunks, 2x numpy means, one thread (fewer repetitions)
    portable         default store, lz4; also zstd, with background kept (--tissue none), and decoded by
                     libjpeg-turbo
    compact          --codec jpeg; at 40x the tiles are copied, too, and 0.5 um/px is answered on reading by a
                     half-size decode; compact_recoded (--recode) encodes 0.5 um/px anew
    j2k              a JPEG 2000 slide against its decoder
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ATLAS_PATH_SHARED", ROOT.parent / "shared"))
THREADS = len(os.sched_getaffinity(0))
NAIVE_REPS = 1

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "20x": {
        "floor": {"engine": "floor", "shrink": 1},
        "floor_libjpeg": {"engine": "floor", "shrink": 1, "libjpeg": True},
        "vips": {"engine": "vips", "shrink": 1},
        "portable_lz4": {"engine": "store"},
        "portable_libjpeg": {"engine": "store", "libjpeg": True},
        "portable_zstd": {"engine": "store", "codec": "zstd"},
        "portable_lz4_all": {"engine": "store", "tissue": "none"},
        "compact": {"engine": "store", "codec": "jpeg"},
        "compact_all": {"engine": "store", "codec": "jpeg", "tissue": "none"},
        "compact_check_decode": {"engine": "store", "codec": "jpeg", "check_tiles": "decode"},
        "openslide_naive": {"engine": "naive", "shrink": 1},
    },
    "40x": {
        "floor": {"engine": "floor", "shrink": 2},
        "floor_libjpeg": {"engine": "floor", "shrink": 2, "libjpeg": True},
        "vips": {"engine": "vips", "shrink": 2},
        "portable_lz4": {"engine": "store", "given": 0.25},
        "portable_libjpeg": {"engine": "store", "given": 0.25, "libjpeg": True},
        "portable_lz4_all": {"engine": "store", "given": 0.25, "tissue": "none"},
        "compact": {"engine": "store", "given": 0.25, "codec": "jpeg"},
        "compact_recoded": {"engine": "store", "given": 0.25, "codec": "jpeg", "recode": True},
    },
    "j2k": {
        "floor": {"engine": "j2k_floor"},
        "portable_lz4_all": {"engine": "store", "tissue": "none"},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="40000x30000", help="WIDTHxHEIGHT of the slide")
    parser.add_argument("--tissue", default="0.4", help="fraction of tissue of the slide")
    parser.add_argument("--color", default="rgb", help="of the slide's JPEG tiles: rgb, ycc422 or ycc420")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--groups", default="20x,40x,j2k")
    parser.add_argument("--variants", help="only these, separated by commas")
    parser.add_argument("--memory", action="store_true", help="only peak memory, at 1.2 and 10 Gpx")
    parser.add_argument("--scratch", type=Path, help="folder for slides and stores; removed at the end")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/ingest.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(json.loads(arguments.one))))
        return
    scratch = Path(tempfile.mkdtemp(prefix="ingest-", dir=arguments.scratch))
    try:
        content = memory(scratch) if arguments.memory else compare(arguments, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    out = arguments.out.with_stem("ingest_memory") if arguments.memory else arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine(), **content}, indent=1) + "\n")
    print("\n".join(content["table"]))
    print(f"written: {out}")


def compare(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All variants, `reps` times, interleaved."""
    slide = scratch / "slide.svs"
    make_slide(slide, arguments.size, arguments.tissue, arguments.color)
    inputs = {"20x": slide, "40x": slide}
    groups = arguments.groups.split(",")
    if "j2k" in groups:
        inputs["j2k"] = make_j2k(scratch / "j2k.tif")
    runs: list[dict[str, Any]] = []
    for rep in range(arguments.reps):
        for group in groups:
            for name, variant in VARIANTS[group].items():
                if variant["engine"] == "naive" and rep >= NAIVE_REPS:
                    continue
                if arguments.variants and name not in arguments.variants.split(","):
                    continue
                job = {"slide": str(inputs[group]), "scratch": str(scratch), "color": arguments.color}
                result = in_process({**variant, **job})
                runs.append({"group": group, "variant": name, "rep": rep, **result})
                print(
                    group, name, rep, {k: result[k] for k in ("wall_s", "cpu_s", "other_cpu_s")}, flush=True
                )
    slide_is = {"size": arguments.size, "tissue": arguments.tissue, "color": arguments.color}
    return {**slide_is, "table": table(runs), "runs": runs}


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Medians and ratios to libvips (to the decoder for JPEG 2000) as a Markdown table."""
    lines = [
        "| slide | variant | wall s (n) | CPU s | vips / wall | vips / CPU | MPix/s | MB | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for group in dict.fromkeys(run["group"] for run in runs):
        of_group = [run for run in runs if run["group"] == group]
        peer = "floor" if group == "j2k" else "vips"
        base = [run for run in of_group if run["variant"] == peer]
        base_wall = statistics.median(run["wall_s"] for run in base)
        base_cpu = statistics.median(run["cpu_s"] for run in base)
        for name in dict.fromkeys(run["variant"] for run in of_group):
            some = [run for run in of_group if run["variant"] == name]
            wall, cpu = (statistics.median(run[key] for run in some) for key in ("wall_s", "cpu_s"))
            lines.append(
                f"| {group} | {name} | {wall:.2f} ({len(some)}) | {cpu:.2f} | {base_wall / wall:.2f} | "
                f"{base_cpu / cpu:.2f} | {some[0]['mpix'] / wall:.0f} | {some[0]['out_mb']:.0f} | "
                f"{max(run['rss_mb'] for run in some):.0f} |"
            )
    return lines


def memory(scratch: Path) -> dict[str, Any]:
    """Peak resident memory of one worker with all threads, at 1.2 and 10 Gpx."""
    runs = []
    for size in ("40000x30000", "100000x100000"):
        slide = scratch / f"{size}.svs"
        make_slide(slide, size, "0.4")
        for name, options in (
            ("portable_lz4", {}),
            ("portable_lz4 at 40x", {"given": 0.25}),
            ("compact", {"codec": "jpeg"}),
        ):
            job = {"engine": "store", **options, "slide": str(slide), "scratch": str(scratch)}
            runs.append({"group": size, "variant": name, "rep": 0, **in_process(job)})
            print(size, name, runs[-1], flush=True)
        slide.unlink()
    lines = ["| slide | variant | peak MB | wall s | CPU s | MB written |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['group']} | {r['variant']} | {r['rss_mb']:.0f} | {r['wall_s']:.1f} | {r['cpu_s']:.1f} | "
        f"{r['out_mb']:.0f} |"
        for r in runs
    ]
    return {"table": lines, "runs": runs}


def in_process(job: dict[str, Any]) -> dict[str, Any]:
    """One conversion in a fresh process, after the disk has come to rest; its stores are removed."""
    os.sync()
    time.sleep(1)
    before = cpu_of_machine()
    command = [sys.executable, __file__, "--one", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["other_cpu_s"] = round(max(0.0, cpu_of_machine() - before - result.pop("process_cpu_s")), 2)
    for leftover in Path(job["scratch"]).glob("out*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return result


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """Warm up, then measure one conversion in this process."""
    if job.get("libjpeg"):
        os.environ["ATLAS_PATH_JPEG"] = "libjpeg"
    engine: Callable[[dict[str, Any], Path, Path], float] = ENGINES[job["engine"]]
    scratch, slide = Path(job["scratch"]), Path(job["slide"])
    engine(job, warm_up_slide(slide, scratch, job.get("color", "rgb")), scratch / "out_warm")
    out = scratch / "out"
    started, cpu = time.perf_counter(), time.process_time()
    mpix = engine(job, slide, out)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_s": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "mpix": round(mpix, 1),
        "rss_mb": round(usage.ru_maxrss / 1024, 1),
        "out_mb": round(size_of(out) / 1e6, 1),
        "process_cpu_s": usage.ru_utime + usage.ru_stime,
    }


def with_store(job: dict[str, Any], slide: Path, out: Path) -> float:
    """This project."""
    from atlas_path.store import PreprocessOptions, open_store
    from pipelines.preprocess_image import convert_image
    from pipelines.preprocess_inputs import Item

    chosen = {k: job[k] for k in ("codec", "tissue", "recode", "check_tiles") if k in job}
    item = Item(slide, "image", "image", job.get("given"))
    record = convert_image(item, out, PreprocessOptions(**chosen), THREADS)
    assert record.ok, record.error
    source = open_store(out / record.store).meta.source
    return source.height_px * source.width_px / 1e6


def with_vips(job: dict[str, Any], slide: Path, out: Path) -> float:
    """libvips, as its documentation recommends: sequential access, pyramidal tiled TIFF."""
    import pyvips

    image = pyvips.Image.new_from_file(str(slide), page=0, access="sequential")
    mpix = image.width * image.height / 1e6
    if job["shrink"] > 1:
        image = image.shrink(job["shrink"], job["shrink"])
    out.mkdir(exist_ok=True)
    image.tiffsave(
        str(out / "image.tif"),
        tile=True,
        pyramid=True,
        compression="jpeg",
        Q=89,
        tile_width=256,
        tile_height=256,
        bigtiff=True,
    )
    return float(mpix)


def floor(job: dict[str, Any], slide: Path, out: Path) -> float:
    """Decode every tile of level 0 and throw it away: no decoding design can be faster."""
    from atlas_path.slides import open_slide

    out.mkdir(exist_ok=True)
    with open_slide(slide, 0.5) as source:
        tiles = source.jpeg_tiles(0)
        assert tiles is not None

        def row_of_tiles(row: int) -> None:
            for col in range(tiles.cols):
                tiles.decode(row, col, job["shrink"])

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(row_of_tiles, range(tiles.rows)))
        return tiles.height_px * tiles.width_px / 1e6


def j2k_floor(job: dict[str, Any], slide: Path, out: Path) -> float:
    """Decode every JPEG 2000 tile and throw it away."""
    import imagecodecs
    import tifffile

    out.mkdir(exist_ok=True)
    with tifffile.TiffFile(slide) as tif:
        page = tif.pages[0]
        where = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        fd = os.open(slide, os.O_RDONLY)
        with ThreadPoolExecutor(THREADS) as pool:
            work = lambda at: imagecodecs.jpeg2k_decode(os.pread(fd, at[1], at[0])).nbytes  # noqa: E731
            list(pool.map(work, where))
        os.close(fd)
        return page.imagelength * page.imagewidth / 1e6


def naive(job: dict[str, Any], slide: Path, out: Path) -> float:
    """What a first script does: OpenSlide, zarr-python, one chunk after the other, 2x means in numpy."""
    import openslide
    import zarr

    with openslide.OpenSlide(slide) as source:
        width, height = source.dimensions
        level = 0
        group = zarr.open_group(out, mode="w")
        array = group.create_array("0", shape=(3, height, width), chunks=(3, 256, 256), dtype="uint8")
        for y in range(0, height, 256):
            for x in range(0, width, 1024):
                h, w = min(256, height - y), min(1024, width - x)
                tile = np.asarray(source.read_region((x, y), 0, (w, h)))[:, :, :3]
                array[:, y : y + h, x : x + w] = tile.transpose(2, 0, 1)
        while max(height, width) > 1024:
            level, height, width = level + 1, height // 2, width // 2
            finer = array
            array = group.create_array(
                str(level), shape=(3, height, width), chunks=(3, 256, 256), dtype="uint8"
            )
            for y in range(0, height, 256):
                h = min(256, height - y)
                fine = finer[:, 2 * y : 2 * (y + h), : 2 * width].astype(np.uint16)
                array[:, y : y + h, :] = fine.reshape(3, h, 2, width, 2).mean(axis=(2, 4)).astype(np.uint8)
        return source.dimensions[0] * source.dimensions[1] / 1e6


ENGINES: dict[str, Callable[[dict[str, Any], Path, Path], float]] = {
    "store": with_store,
    "vips": with_vips,
    "floor": floor,
    "j2k_floor": j2k_floor,
    "naive": naive,
}


def make_slide(path: Path, size: str, tissue: str, color: str = "rgb") -> None:
    """An Aperio-like slide of real tiles, by the shared generator: as they are (rgb) or encoded anew."""
    generator = SHARED / "tools/make_gigaslide.py"
    if not generator.is_file():
        sys.exit(f"{generator} is not here: set ATLAS_PATH_SHARED")
    command = [sys.executable, str(generator), "--size", size, "--tissue", tissue, "--out", str(path)]
    command += ["--color", color]
    subprocess.run(command, check=True, capture_output=True)


def make_j2k(path: Path, copies: int = 3) -> Path:
    """A JPEG 2000 slide of real tissue with levels at 1/4 and 1/16, as scanners write them."""
    import cv2
    import tifffile

    pixels = tifffile.imread(SHARED / "data/wsi/CMU-1-Small-Region.svs", key=0)
    pixels = np.tile(pixels[:2304, :2048], (copies, copies, 1))
    with tifffile.TiffWriter(path) as tif:
        for k, shrink in enumerate((1, 4, 16)):
            level = cv2.resize(pixels, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
            tif.write(
                level,
                subfiletype=int(k > 0),
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg2000",
                compressionargs={"level": 80},
                resolution=(20000.0 / shrink, 20000.0 / shrink),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def warm_up_slide(slide: Path, scratch: Path, color: str = "rgb") -> Path:
    """A smaller slide of the same kind, made once."""
    small = scratch / f"warm_{slide.name}"
    if not small.exists():
        if slide.suffix == ".svs":
            make_slide(small, "9600x9600", "0.4", color)
        else:
            make_j2k(small, copies=1)
    return small


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def cpu_of_machine() -> float:
    """Seconds that all cores together have worked since boot."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = (int(field) for field in fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    from importlib.metadata import version

    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    names = ("zarr", "simplejpeg", "imagecodecs", "opencv-python-headless", "openslide-bin", "pyvips-binary")
    return {
        "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": THREADS,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
