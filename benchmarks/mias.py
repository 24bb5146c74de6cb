"""mini-MIAS from scratch on a CPU: malignant against the rest, five folds by patient; do maps find lesions?

    python benchmarks/mias.py --data ../shared/data/mammo/mias512 --out benchmarks/results/mias.json

161 women, two oblique films each (left, right) at 400 um/px: a case is both films. Every fold is a test set
once; the next fold is the tuning split (early stopping, calibration), the other three train. Predictions of
the five test folds are pooled: AUROC with the interval of DeLong, beside what mean intensities alone give.
Pointing: the highest positive token of the map of a malignant film, judged against `lesions.csv`, beside the
share of the breast that is lesion (what a random pointer hits). Films are read as any user's would be: a
folder with a `mammograms.csv`. Short check: --run-folds 1 --epochs 2.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from atlas_path import __version__
from atlas_path.config import load_train_config
from atlas_path.results import read_predictions
from atlas_path.slides.mammo import open_mammogram
from atlas_path.stats.discrimination import auroc_estimate
from atlas_path.store import PreprocessOptions
from pipelines.cluster import available_cores
from pipelines.exams import ExamOptions, make_exams
from pipelines.heatmap import HeatmapOptions, heatmap
from pipelines.preprocess import preprocess
from pipelines.score import ScoreOptions, score
from pipelines.train import train

MPP = 400.0
STUDY = """\
name: fold{fold}
cohort: fold{fold}.csv
out: runs
task: {{kind: binary, label: cancer}}
data: {{stores: stores, mpp: {mpp}, voi: minmax, image_kinds: [view, laterality]}}
model: {{preset: tiny, options: {{drop_path: 0.1}}}}
augment: {{dihedral: true, brightness: 0.03, contrast: 0.1, keep_windows: [0.8, 1.0]}}
optim: {{epochs: {epochs}, lr: 1.0e-3, warmup_epochs: 2, cases_per_step: 8, cases_per_pass: 4,
         balance: sampling, window_epochs: {window_epochs}}}
runtime: {{seed: {seed}, threads: {threads}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mammo/mias512"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mias.json"))
    parser.add_argument("--work", type=Path, help="keep stores, runs and maps here")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--run-folds", type=int, help="only the first so many folds")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--window-epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=available_cores())
    arguments = parser.parse_args()
    os.environ.setdefault("ATLAS_PATH_ID_SALT", "mini-MIAS is public")
    work = arguments.work or Path(tempfile.mkdtemp(prefix="mias-"))
    try:
        result = run(arguments, work)
    finally:
        if arguments.work is None:
            shutil.rmtree(work)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def run(arguments: argparse.Namespace, work: Path) -> dict:
    manifest = read(arguments.data / "manifest.csv")
    films = lay_out(arguments.data, work, manifest)
    cohort = make_exams([films], work / "exams", ExamOptions(labels=work / "labels.csv")).cohort
    started = time.monotonic()
    stored = preprocess([films], work / "stores", PreprocessOptions(mpp="native", workers=0))
    ingest_s = time.monotonic() - started
    assert not stored.failures, stored.failures[:3]
    rows = read(cohort)
    fold_of = folds(rows, arguments.folds, arguments.seed)
    n_run = arguments.run_folds or arguments.folds
    pooled, pointing, seconds = [], [], []
    for fold in range(n_run):
        started = time.monotonic()
        write_fold(work / f"fold{fold}.csv", rows, fold_of, fold, arguments.folds)
        cases = run_fold(arguments, work, fold)
        pooled += [(c, p, fold) for c, p in cases.items()]
        pointing += point(arguments.data, work, fold, rows, fold_of)
        seconds.append(round(time.monotonic() - started, 1))
    truth = {row["case_id"]: int(row["cancer"]) for row in rows}
    label = np.array([truth[c] for c, _, _ in pooled])
    prob = np.array([p for _, p, _ in pooled])
    estimate = auroc_estimate(label, prob, np.array([c for c, _, _ in pooled]))
    per_fold = [
        float(roc_auc_score(label[[i for i, x in enumerate(pooled) if x[2] == f]],
                            prob[[i for i, x in enumerate(pooled) if x[2] == f]]))
        for f in range(n_run)
    ]  # fmt: skip
    hits = [row for row in pointing if row["hit"] is not None]
    return {
        "benchmark": "mini-MIAS, malignant against rest, from scratch",
        "atlas_path_version": __version__,
        "machine": f"{platform.processor() or platform.machine()}, {arguments.threads} threads",
        "cases": len(pooled), "malignant": int(label.sum()),
        "folds_run": n_run, "folds": arguments.folds, "epochs": arguments.epochs, "seed": arguments.seed,
        "auroc_pooled": round(estimate.value, 4),
        "auroc_low": round(estimate.low, 4), "auroc_high": round(estimate.high, 4),
        "interval": estimate.method,
        "auroc_per_fold": [round(a, 4) for a in per_fold],
        "auroc_intensity_only": round(intensity_baseline(films, rows, arguments), 4),
        "pointing_films": len(hits),
        "pointing_hits": sum(bool(row["hit"]) for row in hits),
        "pointing_chance": round(float(np.mean([row["chance"] for row in hits])), 4) if hits else None,
        "ingest_films_per_hour": round(len(stored.records) / ingest_s * 3600),
        "seconds_per_fold": seconds,
    }  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lay_out(data: Path, work: Path, manifest: list[dict[str, str]]) -> Path:
    """The films as a hospital would hand them over: a folder with `mammograms.csv`, labels by exam."""
    films = work / "films"
    (films / "images").mkdir(parents=True, exist_ok=True)
    with (films / "mammograms.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "view", "laterality", "mpp", "image_id", "exam_id", "patient_id"])
        for row in manifest:
            link = films / row["file"]
            if not link.exists():
                link.symlink_to((data / row["file"]).absolute())
            name = Path(row["file"]).stem
            writer.writerow([row["file"], row["view"], row["side"], MPP, name, row["group"], row["group"]])
    malignant = {row["group"] for row in manifest if row["label"] == "malignant"}
    lines = [f"{group},{int(group in malignant)}" for group in sorted({row["group"] for row in manifest})]
    (work / "labels.csv").write_text("study_uid,cancer\n" + "\n".join(lines) + "\n")
    return films


def folds(rows: list[dict[str, str]], n: int, seed: int) -> dict[str, int]:
    """Case -> fold, stratified; a case is a patient here."""
    truth = {row["case_id"]: row["cancer"] for row in rows}
    names = np.array(sorted(truth))
    split = StratifiedKFold(n, shuffle=True, random_state=seed).split(names, [truth[c] for c in names])
    return {str(names[i]): fold for fold, (_, test) in enumerate(split) for i in test}


def write_fold(path: Path, rows: list[dict[str, str]], fold_of: dict[str, int], fold: int, n: int) -> None:
    split = {fold: "test", (fold + 1) % n: "tune"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "split"])
        writer.writeheader()
        writer.writerows({**row, "split": split.get(fold_of[row["case_id"]], "train")} for row in rows)


def run_fold(arguments: argparse.Namespace, work: Path, fold: int) -> dict[str, float]:
    """Train on a fold's training cases; probabilities of its test cases."""
    study = work / f"fold{fold}.yaml"
    study.write_text(STUDY.format(
        fold=fold, mpp=MPP, epochs=arguments.epochs, seed=arguments.seed, threads=arguments.threads,
        window_epochs=min(arguments.window_epochs, arguments.epochs - 1),
    ))  # fmt: skip
    train(load_train_config(study))
    test = read(work / f"fold{fold}.csv")
    kept = [row for row in test if row["split"] == "test"]
    table = work / f"test{fold}.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    stores = [work / "stores" / f"{row['image_id']}.ome.zarr" for row in kept]
    score(stores, work / "runs" / f"fold{fold}", work / f"scores{fold}", ScoreOptions(cohort=table))
    done = read_predictions(work / f"scores{fold}").to_dict("records")
    return {str(row["case_id"]): float(row["prob_1"]) for row in done}


def point(
    data: Path, work: Path, fold: int, rows: list[dict[str, str]], fold_of: dict[str, int]
) -> list[dict]:
    """Pointing on the malignant films of the fold's test cases."""
    lesions = [row for row in read(data / "lesions.csv") if row["severity"] == "M" and row["x512"]]
    films = {Path(row["file"]).stem for row in lesions}
    shown = {row["case_id"] for row in rows if fold_of[row["case_id"]] == fold and row["image_id"] in films}
    if not shown:
        return []
    truth = work / "malignant.csv"
    lines = [f"{Path(row['file']).stem},{row['x512']},{row['y512']},{row['r512']}" for row in lesions]
    truth.write_text("image_id,x,y,radius\n" + "\n".join(lines) + "\n")
    options = HeatmapOptions(
        truth=truth, cases=tuple(sorted(shown)), formats=("png",), faithfulness_seconds=0, label="1"
    )
    heatmap(work / f"scores{fold}", options)
    table = read(work / f"scores{fold}" / "heatmaps" / "heatmaps.csv")
    return [
        {
            "image_id": row["image_id"],
            "hit": {"True": True, "False": False}.get(row.get("pointing_hit", "")),
            "chance": float(row["pointing_chance"]) if row.get("pointing_chance") else None,
        }
        for row in table
        if row["image_id"] in films
    ]


def intensity_baseline(films: Path, rows: list[dict[str, str]], arguments: argparse.Namespace) -> float:
    """Cross-validated AUROC of mean, spread and percentiles of grey values in both breasts: no morphology."""
    features: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda one: (one["case_id"], one["laterality"])):
        with open_mammogram(films / "images" / f"{row['image_id']}.png") as film:
            level = film.levels[0]
            pixels = film.read_region(0, 0, 0, level.height_px, level.width_px)[..., 0]
            values = pixels[film.tissue_mask(*pixels.shape)]
        stats = [values.mean(), values.std(), *np.percentile(values, (10, 50, 90, 99))]
        features.setdefault(row["case_id"], []).extend(float(v) for v in stats)
    truth = {row["case_id"]: int(row["cancer"]) for row in rows}
    names = [name for name in sorted(features) if len(features[name]) == 12]
    x, y = np.array([features[n] for n in names]), np.array([truth[n] for n in names])
    prob = np.zeros(len(y))
    for fit, test in StratifiedKFold(arguments.folds, shuffle=True, random_state=arguments.seed).split(x, y):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
        prob[test] = model.fit(x[fit], y[fit]).predict_proba(x[test])[:, 1]
    return float(roc_auc_score(y, prob))


if __name__ == "__main__":
    main()
