"""Slides an hour of `score`, where the time goes, and the same model in an OpenSlide patch loop.

    python benchmarks/score.py --slides 8 --side 6144 --out benchmarks/results/score.json

Both score the same slides with the same (random) model and the same windows:

    patch loop   one process: for every window OpenSlide `read_region` at the level above the model's mpp,
                 resize with Pillow, stack, forward pass. How most published pipelines read.
    score        from raw slides (background preprocessing included), from stores, and again when all is done.

Shares of time: `read` and `preprocess` run in the background beside `model`; `waiting` is the time the model
stood still for them; `write` is maps and records. The slides are procedural tissue written as JPEG pyramids.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import openslide
import tifffile
import torch
from PIL import Image

from atlas import Atlas, WindowBatch, preset, save_model
from atlas_path import __version__
from atlas_path.geometry import WINDOW_PX
from atlas_path.results import read_predictions, read_scores_info
from atlas_path.store import PreprocessOptions, open_store
from pipelines.cluster import available_cores
from pipelines.preprocess import preprocess
from pipelines.score import ScoreOptions, score

SLIDE_MPP, MODEL_MPP = 0.25, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--side", type=int, default=8192, help="side of a slide in pixels of level 0")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), args)
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


def run(folder: Path, args: argparse.Namespace) -> dict:
    slides = folder / "slides"
    for i in range(args.slides):
        write_slide(slides / f"slide_{i:02d}.tif", args.side, i)
    model_dir = write_model(folder / "run", args.preset)
    options = ScoreOptions(device=args.device, workers=args.workers)
    from_stores = folder / "stores"
    preprocess([slides], from_stores, PreprocessOptions(mpp=MODEL_MPP / 2))
    rows: dict[str, list[dict]] = {"patch loop": [], "score, stores": [], "score, raw slides": []}
    for repeat in range(args.repeats):
        rows["patch loop"].append(patch_loop(slides, from_stores, model_dir, args.device))
        rows["score, stores"].append(timed(from_stores, model_dir, folder / f"a{repeat}", options))
        rows["score, raw slides"].append(timed(slides, model_dir, folder / f"b{repeat}", options))
        rows.setdefault("score, again", []).append(timed(slides, model_dir, folder / f"b{repeat}", options))
        shutil.rmtree(folder / f"b{repeat}/stores")
    same = agreement(folder / "a0", rows["patch loop"][0].pop("probability"))
    for row in rows["patch loop"][1:]:
        row.pop("probability")
    return {
        "atlas_path": __version__,
        "machine": machine(args.device),
        "slides": args.slides,
        "side_px": args.side,
        "slide_mpp": SLIDE_MPP,
        "model_mpp": MODEL_MPP,
        "preset": args.preset,
        "windows_per_slide": rows["score, stores"][0].pop("windows_per_slide"),
        "largest_difference_of_probability": same,
        "median": {name: median(found, args.slides) for name, found in rows.items()},
        "runs": rows,
    }


def timed(source: Path, model: Path, out: Path, options: ScoreOptions) -> dict:
    """Wall seconds of one `score` and the parts it reports."""
    started = time.perf_counter()
    result = score([source], model, out, options)
    assert result.exit_code == 0, result.records
    row = {"total": time.perf_counter() - started}
    seconds = read_scores_info(out).seconds
    row |= {k: v for k, v in seconds.items() if k != "total"}
    windows = read_predictions(out)["n_windows"]
    return row | {"windows_per_slide": float(windows.mean())}


def patch_loop(slides: Path, stores: Path, model_dir: Path, device: str) -> dict:
    """The common way: one process, a window at a time, decode and resize, then the model."""
    from pipelines.ensemble import load_ensemble

    name = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    torch.set_num_threads(available_cores())
    started = time.perf_counter()
    ensemble = load_ensemble(model_dir, torch.device(name), name == "cuda")
    seconds = {"read": 0.0, "model": 0.0}
    probability = {}
    for path in sorted(slides.glob("*.tif")):
        store = open_store(stores / f"{path.stem}.ome.zarr")  # for the list of windows only
        level = store.level_for(MODEL_MPP)
        row_col = store.kept_windows(level)
        clock = time.perf_counter()
        pixels = read_patches(path, row_col)
        seconds["read"] += time.perf_counter() - clock
        shape = store.levels[level]
        zero = torch.zeros(len(row_col), dtype=torch.int64)
        batch = WindowBatch(
            torch.from_numpy(pixels),
            torch.from_numpy(row_col[:, 0].copy()),
            torch.from_numpy(row_col[:, 1].copy()),
            zero,
            torch.tensor([[shape.height_px, shape.width_px]]),
            torch.tensor([[shape.mpp.y, shape.mpp.x]], dtype=torch.float32),
            torch.zeros(1, dtype=torch.int64),
        )
        clock = time.perf_counter()
        results, _ = ensemble.run(batch, maps=True)[0]
        seconds["model"] += time.perf_counter() - clock
        probability[path.stem] = float(results[0].values[1])
    return {"total": time.perf_counter() - started, **seconds, "probability": probability}


def read_patches(path: Path, row_col: np.ndarray) -> np.ndarray:
    """Windows (n, 3, 256, 256) at the model's resolution through OpenSlide."""
    out = np.empty((len(row_col), 3, WINDOW_PX, WINDOW_PX), np.uint8)
    with openslide.OpenSlide(path) as slide:
        level = slide.get_best_level_for_downsample(MODEL_MPP / SLIDE_MPP)
        factor = MODEL_MPP / SLIDE_MPP
        read_px = round(WINDOW_PX * factor / slide.level_downsamples[level])
        for i, (row, col) in enumerate(row_col):
            at = int(col * WINDOW_PX * factor), int(row * WINDOW_PX * factor)
            patch = slide.read_region(at, level, (read_px, read_px)).convert("RGB")
            if read_px != WINDOW_PX:
                patch = patch.resize((WINDOW_PX, WINDOW_PX), Image.Resampling.BOX)
            out[i] = np.moveaxis(np.asarray(patch), -1, 0)
    return out


def agreement(scores: Path, probability: dict[str, float]) -> float:
    """Largest difference between the two ways (they resample differently, so it is not zero)."""
    table = read_predictions(scores).set_index("case_id")["prob_tumour"]
    return max(abs(float(table[name]) - value) for name, value in probability.items())


def median(rows: list[dict], n_slides: int) -> dict:
    names = [k for k in rows[0] if k != "windows_per_slide"]
    middle = {k: round(float(np.median([row[k] for row in rows])), 3) for k in names}
    return {"slides_per_hour": round(3600 * n_slides / middle["total"], 1), "seconds": middle}


def write_slide(path: Path, side: int, seed: int) -> None:
    """Procedural tissue as a JPEG pyramid at 0.25 um/px (levels at 1, 1/4, 1/16 as scanners write)."""
    rng = np.random.default_rng(seed)
    small = side // 16
    y, x = np.mgrid[0:small, 0:small] / small
    inside = ((y - 0.5) ** 2 / 0.16 + (x - 0.5) ** 2 / 0.12) < 1 + 0.15 * np.sin(9 * x + seed)
    mask = np.kron(inside, np.ones((16, 16), bool))
    image = np.full((side, side, 3), 242, np.uint8)
    texture = rng.normal(0, 26, (512, 512, 1)).astype(np.float32)
    noise = np.tile(texture, (side // 512, side // 512, 1))
    painted = np.clip(np.array([190, 115, 165], np.float32) + noise, 0, 255).astype(np.uint8)
    image[mask] = painted[mask]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for index, factor in enumerate((1, 4, 16)):
            size = side // factor
            level = image.reshape(size, factor, size, factor, 3).mean(axis=(1, 3)).astype(np.uint8)
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 85},
                subfiletype=int(index > 0),
                resolution=(1e4 / (SLIDE_MPP * factor),) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def write_model(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    info = {
        "task": {"kind": "binary", "name": "tumour", "classes": ["benign", "tumour"]},
        "mpp": MODEL_MPP,
        "min_tissue": 0.01,
        "calibration": {"method": "none", "parameters": {}},
    }
    return save_model(folder, Atlas(preset(name)), info)


def machine(device: str) -> dict:
    gpu = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": available_cores(),
        "gpu": gpu,
        "torch": torch.__version__,
        "peak_memory_gb": round(peak, 2),
    }


if __name__ == "__main__":
    main()
