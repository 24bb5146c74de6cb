"""Exams an hour: ingest and scoring of four-view mammography exams, beside a pydicom and numpy loop.

    python benchmarks/mammo_ingest.py --exams 4 --out benchmarks/results/mammo_ingest.json
    python benchmarks/mammo_ingest.py --dicom FOLDER_OF_EXAMS --mpp 50

Both sides read the same DICOM files in one process:

    loop      pydicom `pixel_array`, MONOCHROME1 inverted, min-max to 16 bit, Otsu's largest component, one
              .npy file an image: what most published pipelines do.
    ingest    `preprocess`: header rules, decoding with end-marker checks, breast and letters, hashes of file
              and pixels, sharded lossless pyramid of kept windows, thumbnail, fsync, commit.
    score     a model with random weights on the stores: all views of an exam in one pass, with maps.

Synthetic exams have the size of a real detector (3328 x 2560, 12 bit), one view uncompressed, two JPEG 2000,
one run lengths: pydicom decodes no JPEG-LS and no lossless JPEG without GDCM or a GPL package; ingest does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pydicom
import torch
from pydicom.uid import JPEG2000Lossless, RLELossless

from atlas import Atlas, preset, save_model
from atlas_path import __version__
from atlas_path.store import PreprocessOptions
from pipelines.demo_mammo_dicom import ExamHeader, compress, mammogram_dataset, write
from pipelines.demo_mammo_paint import BITS, paint_view
from pipelines.exams import ExamOptions, make_exams
from pipelines.preprocess import preprocess
from pipelines.score import ScoreOptions, score

HEIGHT_PX, WIDTH_PX, SPACING_MM = 3328, 2560, 0.07
SYNTAXES = (None, JPEG2000Lossless, RLELossless, JPEG2000Lossless)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exams", type=int, default=4)
    parser.add_argument("--dicom", type=Path, help="real exams in the place of synthetic ones")
    parser.add_argument("--mpp", type=float, help="um per px of real films that do not say it")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mammo_ingest.json"))
    arguments = parser.parse_args()
    os.environ.setdefault("ATLAS_PATH_ID_SALT", "nothing private here")
    work = Path(tempfile.mkdtemp(prefix="mammo-"))
    try:
        result = run(arguments, work)
    finally:
        shutil.rmtree(work)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def run(arguments: argparse.Namespace, work: Path) -> dict:
    torch.set_num_threads(arguments.threads)
    dicom = arguments.dicom or write_exams(work / "dicom", arguments.exams)
    made = make_exams([dicom], work / "exams", ExamOptions())
    files = [image.keys.path for exam in made.exams for image in exam.images]
    table = work / "mpp.csv"
    if arguments.mpp:
        ids = [image.image_id for exam in made.exams for image in exam.images]
        table.write_text("wsi,mpp\n" + "".join(f"{image_id},{arguments.mpp}\n" for image_id in ids))
    for file in files:
        file.read_bytes()  # both sides find the files in memory
    started = time.perf_counter()
    loop(files, work / "loop")
    loop_s = time.perf_counter() - started
    options = PreprocessOptions(mpp="native", workers=0, mpp_csv=table if arguments.mpp else None)
    started = time.perf_counter()
    stored = preprocess([dicom], work / "stores", options)
    ingest_s = time.perf_counter() - started
    model_mpp = max(record.mpp for record in stored.records if record.mpp)
    model = Atlas(preset(arguments.preset, in_channels=1, task="binary", n_outputs=1, pixel_max=65535.0))
    extra = {
        "task": {"kind": "binary", "name": "cancer", "classes": ["0", "1"], "label_column": "cancer"},
        "mpp": model_mpp, "min_tissue": 0.01, "voi": "minmax",
    }  # fmt: skip
    save_model(work / "model", model, extra)
    started = time.perf_counter()
    score(
        [work / "stores"],
        work / "model",
        work / "scores",
        ScoreOptions(cohort=made.cohort, threads=arguments.threads),
    )
    score_s = time.perf_counter() - started
    n_images, n_exams = len(files), len(made.exams)
    return {
        "benchmark": "mammography ingest and scoring",
        "atlas_path_version": __version__,
        "machine": f"{platform.processor() or platform.machine()}, {arguments.threads} thread(s)",
        "source": "real exams" if arguments.dicom else f"synthetic {HEIGHT_PX} x {WIDTH_PX}",
        "exams": n_exams, "images": n_images, "preset": arguments.preset,
        "windows": sum(record.windows or 0 for record in stored.records),
        "loop_s_per_image": round(loop_s / n_images, 3),
        "ingest_s_per_image": round(ingest_s / n_images, 3),
        "ingest_over_loop": round(ingest_s / loop_s, 2),
        "exams_per_hour_loop": round(n_exams / loop_s * 3600),
        "exams_per_hour_ingest": round(n_exams / ingest_s * 3600),
        "exams_per_hour_score": round(n_exams / score_s * 3600),
        "failures": len(stored.failures),
    }  # fmt: skip


def loop(files: list[Path], out: Path) -> None:
    """The usual script."""
    out.mkdir(parents=True)
    for number, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        pixels = dataset.pixel_array.astype(np.float32)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            pixels = pixels.max() - pixels
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
        _, mask = cv2.threshold((255 * pixels).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        pixels[labels != 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())] = 0
        np.save(out / f"{number}.npy", (65535 * pixels).astype(np.uint16))


def write_exams(folder: Path, n_exams: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(n_exams):
        uid, maker = f"1.2.826.0.1.3680043.8.498.{number + 1}", "one" if number % 2 else "two"
        exam = ExamHeader(f"P{number}", f"DEMO^{number}", uid, "20200101", f"A{number}", maker)
        for index, (side, view) in enumerate((s, v) for s in "LR" for v in ("CC", "MLO")):
            painted = paint_view(rng, side, view, 0.3, None, HEIGHT_PX, WIDTH_PX)
            dataset = mammogram_dataset(painted.pixels, side, view, exam, SPACING_MM, BITS)
            syntax = SYNTAXES[index]
            write(compress(dataset, syntax) if syntax else dataset, folder / f"{number}_{index}.dcm")
    return folder


if __name__ == "__main__":
    main()
