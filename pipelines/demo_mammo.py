"""The main job on mammograms the demo makes itself: exams as DICOM files, in; predictions and maps, out.

    exams -> preprocess -> train -> score -> heatmap -> evaluate

Every stage is called as a user would call it. Half of the exams show a spiculated mass with calcifications in
one breast, half of the others a smooth round one; one exam lacks a view, one has a spot view, a file is cut.
"""

from __future__ import annotations

import csv
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from atlas_path.errors import ExitCode
from atlas_path.progress import progress, say
from pipelines.demo import DemoError, DemoResult
from pipelines.demo_mammo_dicom import ExamHeader, compress, mammogram_dataset, write
from pipelines.demo_mammo_paint import (
    BITS,
    DENSITY_RANGE,
    SPACING_MM,
    Finding,
    density_letter,
    paint_view,
)

N_EXAMS = 40
EXAMS_PER_WOMAN = 2  # a prior and a current exam of some women: splits must keep them together
SPLITS = ("train", "tune", "train", "test")
MAKERS = ("one", "two")
SYNTAXES = (None, JPEG2000Lossless, JPEGLSLossless, RLELossless)
STUDY = """\
# The demo's study: which exams hold a cancer? Four views a case, each told to the model by view and side.
name: demo
cohort: exams/cohort.csv
out: runs
task: {{kind: binary, label: cancer}}
data: {{stores: stores, mpp: {mpp}, min_tissue: 0.1, voi: minmax, image_kinds: [view, laterality]}}
model: {{preset: tiny, normalise: window}}
augment: {{dihedral: true}}
optim:
  {{epochs: {epochs}, window_epochs: {window_epochs}, warmup_epochs: 1, lr: 2.0e-3,
   cases_per_step: 4, cases_per_pass: 4}}
runtime: {{seed: {seed}}}
"""


@dataclass(frozen=True)
class MadeExam:
    """One exam to be painted."""

    number: int
    header: ExamHeader
    split: str
    cancer: bool
    side: str
    kind: str | None
    density: float


def run_mammo_demo(out: Path, seed: int = 0, n_exams: int = N_EXAMS, epochs: int = 24) -> DemoResult:
    """Run all stages under `out`.

    Raises:
        DemoError: a stage did not end as the demo's files were made to let it end.
    """
    from atlas_path.config import load_train_config
    from atlas_path.store.options import PreprocessOptions
    from pipelines.evaluate import EvaluateOptions, evaluate
    from pipelines.exams import ExamOptions, make_exams
    from pipelines.heatmap import HeatmapOptions, heatmap
    from pipelines.preprocess import preprocess
    from pipelines.score import ScoreOptions, score
    from pipelines.train import train

    started = time.monotonic()
    dicom, exams = out / "dicom", out / "exams"
    stores, run, scores, report = out / "stores", out / "runs" / "demo", out / "scores", out / "report"
    say(f"\n$ painting {n_exams} exams into {dicom}")
    labels = make_dicom_exams(out, n_exams, seed)
    say(f"\n$ atlas-path exams {dicom} --labels {labels} --label cancer -o {exams}")
    made = make_exams([dicom], exams, ExamOptions(labels=labels, label="cancer"))
    _expect("exams", made.exit_code, ExitCode.SOME_FAILED)  # the cut file
    say(f"\n$ atlas-path preprocess {dicom} --mpp native -o {stores}")
    stored = preprocess([dicom], stores, PreprocessOptions(mpp="native"))
    _expect("preprocess", stored.exit_code, ExitCode.SOME_FAILED)
    study = out / "study.yaml"
    study.write_text(
        STUDY.format(seed=seed, epochs=epochs, window_epochs=epochs * 2 // 3, mpp=SPACING_MM * 1000)
    )
    say(f"\n$ atlas-path train {study}")
    train(load_train_config(study))
    say(f"\n$ atlas-path score {stores} --model {run} --cohort {study} -o {scores}")
    _expect("score", score([stores], run, scores, ScoreOptions(cohort=made.cohort)).exit_code, ExitCode.OK)
    shown = _test_exams(made.cohort)
    say(f"\n$ atlas-path heatmap {scores} --truth {out / 'findings.csv'} --case ...")
    options = HeatmapOptions(
        truth=out / "findings.csv", cases=shown, formats=("png", "geojson"), faithfulness_seconds=3.0
    )
    _expect("heatmap", heatmap(scores, options).exit_code, ExitCode.OK)
    say(f"\n$ atlas-path evaluate {scores} --cohort {study} -o {report}")
    evaluate(scores, study, report, EvaluateOptions())
    metrics = json.loads((report / "metrics.json").read_text())
    return DemoResult(
        predictions=scores / "predictions.csv",
        overlays=scores / "heatmaps",
        report=report / "report.html",
        test_auroc=float(metrics["primary"]["number"]["value"]),
        seconds=time.monotonic() - started,
    )


def make_dicom_exams(out: Path, n_exams: int, seed: int) -> Path:
    """Write `dicom/<study>/<file>`, the hospital's `labels.csv` (returned) and the truth, `findings.csv`."""
    plans = plan_exams(n_exams, seed)
    with (
        ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool,
        progress("paint", len(plans)) as advance,
    ):
        truth: list[dict[str, object]] = []
        for plan, found in zip(
            plans, pool.map(_paint_exam, [(out, plan, seed) for plan in plans]), strict=True
        ):
            truth += found
            advance(f"exam {plan.number}", 1)
    _add_oddities(out / "dicom", plans)
    rows: list[dict[str, object]] = [
        {
            "study_uid": plan.header.study_uid,
            "cancer": int(plan.cancer),
            "cancer_left": int(plan.cancer and plan.side == "L"),
            "cancer_right": int(plan.cancer and plan.side == "R"),
            "years_to_cancer": 0 if plan.cancer else 100,
            "years_to_last_followup": 2 + plan.number % 5,
            "density": density_letter(plan.density),
            "split": plan.split,
        }
        for plan in plans
    ]
    _write_table(out / "findings.csv", truth)
    return _write_table(out / "labels.csv", rows)


def plan_exams(n_exams: int, seed: int) -> list[MadeExam]:
    """Who has what: every other exam a cancer, a woman in one split, both makers in both classes."""
    rng = np.random.default_rng([seed, 77])
    plans = []
    for number in range(n_exams):
        woman = number // EXAMS_PER_WOMAN
        cancer = number % 2 == 1
        kind = "malignant" if cancer else ("benign" if number % 4 == 0 else None)
        header = ExamHeader(
            patient_id=f"DEMO-{woman:03d}",
            patient_name=f"DEMO^WOMAN {woman:03d}",
            study_uid=generate_uid(entropy_srcs=["demo", str(seed), str(number)]),
            study_date=f"20{10 + number % 10}0{1 + number % 9}15",
            accession=f"ACC{number:05d}",
            maker=MAKERS[(woman // len(SPLITS) + woman // 2) % 2],
        )
        side = "L" if rng.random() < 0.5 else "R"
        density = float(rng.uniform(*DENSITY_RANGE))
        plans.append(MadeExam(number, header, SPLITS[woman % len(SPLITS)], cancer, side, kind, density))
    return plans


def _paint_exam(task: tuple[Path, MadeExam, int]) -> list[dict[str, object]]:
    out, plan, seed = task
    rng = np.random.default_rng([seed, plan.number])
    truth: list[dict[str, object]] = []
    for index, (side, view) in enumerate((s, v) for s in "LR" for v in ("CC", "MLO")):
        painted = paint_view(rng, side, view, plan.density, plan.kind if side == plan.side else None)
        dataset = mammogram_dataset(painted.pixels, side, view, plan.header, SPACING_MM, BITS)
        syntax = SYNTAXES[(plan.number + index) % len(SYNTAXES)]
        if syntax is not None:
            compress(dataset, syntax)
        write(
            dataset, out / "dicom" / f"study{plan.number:03d}" / f"IM{index:04d}"
        )  # archives write no suffix
        if painted.finding is not None:
            truth.append(_truth(dataset, painted.finding))
    return truth


def _truth(dataset: Dataset, finding: Finding) -> dict[str, object]:
    from atlas_path.dicom import Pseudonyms

    return {
        "image_id": Pseudonyms.of_site().image_id(str(dataset.SOPInstanceUID)),
        "y_px": round(finding.y_px, 1), "x_px": round(finding.x_px, 1),
        "radius_px": round(finding.radius_px, 1), "malignant": int(finding.malignant),
    }  # fmt: skip


def _add_oddities(dicom: Path, plans: list[MadeExam]) -> None:
    """What every archive holds: a missing view, a spot view, a cut file."""
    (dicom / "study000" / "IM0003").unlink()
    plan = plans[2]
    painted = paint_view(np.random.default_rng(5), "L", "CC", 0.3)
    spot = mammogram_dataset(painted.pixels, "L", "CC", plan.header, SPACING_MM, BITS)
    spot.SOPInstanceUID = generate_uid(entropy_srcs=[plan.header.study_uid, "spot"])
    modifier = Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator, modifier.CodeMeaning = "399055006", "SCT", "Spot"
    spot.ViewCodeSequence[0].ViewModifierCodeSequence = DicomSequence([modifier])
    write(spot, dicom / "study002" / "IM0004")
    extra = mammogram_dataset(painted.pixels, "L", "CC", plans[3].header, SPACING_MM, BITS)
    extra.SOPInstanceUID = generate_uid(entropy_srcs=[plans[3].header.study_uid, "cut"])
    cut = write(extra, dicom / "study003" / "IM0004.dcm")
    cut.write_bytes(cut.read_bytes()[:-100_000])


def _write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _test_exams(cohort: Path) -> tuple[str, ...]:
    with cohort.open(newline="", encoding="utf-8") as file:
        return tuple(dict.fromkeys(row["case_id"] for row in csv.DictReader(file) if row["split"] == "test"))


def _expect(stage: str, exit_code: ExitCode, wanted: ExitCode) -> None:
    if exit_code != wanted:
        raise DemoError(
            stage, f"ended with exit code {int(exit_code)}", "see failures.csv in the demo's folder"
        )
