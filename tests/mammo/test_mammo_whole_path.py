"""Exams through every stage at the smallest scale: nothing identifying comes out, letters never get in."""

from __future__ import annotations

import csv
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from scipy.stats import spearmanr

from atlas_path.config import load_train_config
from atlas_path.errors import ExitCode
from atlas_path.store import PreprocessOptions, open_store
from pipelines.demo_mammo_dicom import ExamHeader, mammogram_dataset, write
from pipelines.demo_mammo_paint import BITS, DENSITY_RANGE, density_letter, paint_view
from pipelines.exams import ExamOptions, make_exams
from pipelines.heatmap import HeatmapOptions, heatmap
from pipelines.preprocess import preprocess
from pipelines.score import ScoreOptions, score
from pipelines.train import train

HEIGHT_PX, WIDTH_PX, SPACING_MM = 384, 300, 0.6
STUDY = """\
name: small
cohort: exams/cohort.csv
out: runs
task: {kind: KIND}
data: {stores: stores, mpp: 600, voi: VOI, image_kinds: [view, laterality]}
model: {preset: tiny, options: {head: local_evidence}}
optim: {epochs: 1, warmup_epochs: 0, cases_per_step: 2, cases_per_pass: 2}
runtime: {seed: 0, threads: 1}
"""
CANARIES = ("CANARY", "19660606", "1.2.826.0.1.3680043.8.498.77")


def _study(folder: Path, task: str, voi: str) -> Path:
    path = folder / "study.yaml"
    text = (
        STUDY.replace("kind: KIND", task).replace("VOI", voi).replace(", options: {head: local_evidence}", "")
    )
    path.write_text(text)
    return path


def _make(folder: Path) -> Path:
    """Six exams of three views each, identifiers and file names full of canaries; returns their labels."""
    lines = ["study_uid,cancer,years_to_cancer,years_to_last_followup,split"]
    rng = np.random.default_rng(1)
    for number, split in enumerate(("train", "train", "tune", "tune", "test", "test")):
        uid = f"1.2.826.0.1.3680043.8.498.77{number}"
        exam = ExamHeader(
            f"CANARY-{number}",
            f"CANARY^{number}",
            uid,
            "19660606",
            "CANARYACC",
            "two" if number % 3 else "one",
        )
        for side, view in (("L", "CC"), ("L", "MLO"), ("R", "CC")):
            finding = "malignant" if number % 2 and side == "L" else None
            painted = paint_view(rng, side, view, 0.3, finding, HEIGHT_PX, WIDTH_PX)
            made = mammogram_dataset(painted.pixels, side, view, exam, SPACING_MM, BITS)
            made.InstitutionName = made.ImageComments = "CANARY HOSPITAL"
            made.private_block(0x0011, "CANARY MAKER", create=True).add_new(1, "LO", "CANARY")
            write(made, folder / f"CANARY^{number}" / f"CANARY {side}{view}.dcm")
        lines.append(f"{uid},{number % 2},{2 if number % 2 else 100},{3 + number % 2},{split}")
    labels = folder.parent / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    return labels


def _assert_clean(folder: Path) -> None:
    for path in folder.rglob("*"):
        for canary in CANARIES:
            assert canary not in str(path.relative_to(folder))
            if path.is_file():
                assert canary.encode() not in path.read_bytes(), path.relative_to(folder)


@pytest.mark.slow
def test_exams_from_dicom_to_maps_without_an_identifier(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    dicom, out = tmp_path / "CANARY input" / "dicom", tmp_path / "out"
    labels = _make(dicom)
    made = make_exams([dicom], out / "exams", ExamOptions(labels=labels))
    private = made.private.rename(tmp_path / "private.csv")
    (out / "exams.excluded.private.csv").unlink()
    assert "CANARY-0" in private.read_text()
    stored = preprocess([dicom], out / "stores", PreprocessOptions(mpp="native"))
    assert stored.exit_code == ExitCode.OK
    run = train(load_train_config(_study(out, "kind: binary, label: cancer", "header")))
    assert (
        score([dicom], run, out / "scores", ScoreOptions(cohort=made.cohort, threads=1)).exit_code
        == ExitCode.OK
    )
    shown = HeatmapOptions(formats=("png",), faithfulness_seconds=0)
    assert heatmap(out / "scores", shown).exit_code == ExitCode.OK
    printed = capfd.readouterr()
    for canary in CANARIES:
        assert canary not in printed.out + printed.err
    _assert_clean(out)
    rows = _rows(out / "scores" / "predictions.csv")
    assert len(rows) == 6
    assert {row["n_images"] for row in rows} == {"3"}
    assert {row["status"] for row in rows} == {"done"}


@pytest.mark.slow
def test_years_of_risk_as_hazards(tmp_path: Path) -> None:
    """Discrete hazards over years; the predicted cumulative risk never falls."""
    torch.set_num_threads(1)
    labels = _make(tmp_path / "dicom")
    made = make_exams([tmp_path / "dicom"], tmp_path / "exams", ExamOptions(labels=labels))
    preprocess([tmp_path / "dicom"], tmp_path / "stores", PreprocessOptions(mpp="native"))
    study = _study(tmp_path, "kind: survival, time: time_years, event: event, n_bins: 2", "minmax")
    run = train(load_train_config(study))
    score([tmp_path / "stores"], run, tmp_path / "scores", ScoreOptions(cohort=made.cohort, threads=1))
    rows = _rows(tmp_path / "scores" / "predictions.csv")
    assert len(rows) == 6
    assert {row["status"] for row in rows} == {"done"}
    survival = [name for name in rows[0] if name.startswith("survival_")]
    assert len(survival) == 2
    for row in rows:
        free_of_cancer = [1.0, *(float(row[name]) for name in survival)]
        assert all(later <= earlier for earlier, later in itertools.pairwise(free_of_cancer))


@pytest.mark.slow
def test_density_is_learned_as_an_ordinal_task(tmp_path: Path) -> None:
    """Four ordered classes: probabilities add up, and denser breasts of unseen women are called denser."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(3)
    lines = ["study_uid,density,split"]
    for number in range(36):
        exam = ExamHeader(f"W{number}", f"W^{number}", f"1.2.3.{number}", "20200101", "A")
        density = float(rng.uniform(*DENSITY_RANGE))
        for side in "LR":
            painted = paint_view(rng, side, "CC", density, None, HEIGHT_PX, WIDTH_PX)
            made = mammogram_dataset(painted.pixels, side, "CC", exam, SPACING_MM, BITS)
            write(made, tmp_path / "dicom" / str(number) / f"{side}.dcm")
        split = "train" if number < 24 else "test"
        lines.append(f"1.2.3.{number},{density_letter(density)},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    options = ExamOptions(labels=tmp_path / "labels.csv", label="density")
    made = make_exams([tmp_path / "dicom"], tmp_path / "exams", options)
    preprocess([tmp_path / "dicom"], tmp_path / "stores", PreprocessOptions(mpp="native"))
    study = _study(tmp_path, "kind: ordinal, label: density, classes: [A, B, C, D]", "none")
    study.write_text(study.read_text().replace("epochs: 1,", "epochs: 30, window_epochs: 15, lr: 1.0e-2,"))
    run = train(load_train_config(study))
    score([tmp_path / "stores"], run, tmp_path / "scores", ScoreOptions(cohort=made.cohort, threads=1))
    truth = {row["case_id"]: "ABCD".index(row["density"]) for row in _rows(made.cohort)}
    test = {row["case_id"] for row in _rows(made.cohort) if row["split"] == "test"}
    predicted = {row["case_id"]: row for row in _rows(tmp_path / "scores" / "predictions.csv")}
    expected = []
    for case_id in sorted(test):
        chances = [float(predicted[case_id][f"prob_{letter}"]) for letter in "ABCD"]
        assert sum(chances) == pytest.approx(1, abs=1e-5)
        assert predicted[case_id]["pred_label"] in "ABCD"
        expected.append(float(np.dot(chances, range(4))))
    assert spearmanr(expected, [truth[case_id] for case_id in sorted(test)]).statistic > 0.6


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_store_gives_brightness_by_rule_and_stored_values_without(tmp_path: Path) -> None:
    exam = ExamHeader("P", "N", "1.2.3", "20200101", "A", "two")
    painted = paint_view(np.random.default_rng(0), "R", "MLO", 0.3, None, HEIGHT_PX, WIDTH_PX)
    write(mammogram_dataset(painted.pixels, "R", "MLO", exam, SPACING_MM, BITS), tmp_path / "dicom/a.dcm")
    result = preprocess([tmp_path / "dicom"], tmp_path / "stores", PreprocessOptions(mpp="native", workers=0))
    path = tmp_path / "stores" / result.records[0].store
    raw = open_store(path)
    where = raw.kept_windows(0)
    stored = raw.read_windows(0, where)
    assert stored.max() < 1 << BITS, "no VOI is baked in"
    assert raw.meta.facts["photometric"] == "MONOCHROME1"
    assert raw.meta.facts["laterality"] == "R"
    shown = open_store(path, voi="header").read_windows(0, where)
    assert shown.dtype == np.uint16
    assert shown.max() > 1 << 15
    order = np.argsort(stored[0, 0].ravel(), kind="stable")
    assert (np.diff(shown[0, 0].ravel()[order].astype(int)) >= 0).all(), "tissue stays brighter than fat"
    region = raw.read_region(0, 0, 0, HEIGHT_PX, WIDTH_PX)[0]
    mask, _ = raw.tissue_mask()
    assert mask.any()
    letters = painted.pixels == 4095
    letters[:, WIDTH_PX // 2 :] = False
    assert letters.any()
    assert not region[letters].any()


def test_a_batch_goes_on_and_every_file_is_one_row(tmp_path: Path) -> None:
    """No spacing, a cut file, a report, a raw image, a copy and a text file beside one good image."""
    folder = tmp_path / "dicom"
    exam = ExamHeader("CANARY", "CANARY^1", "1.2.826.0.1.3680043.8.498.77", "19660606", "CANARYACC")
    painted = paint_view(np.random.default_rng(0), "L", "CC", 0.3, None, HEIGHT_PX, WIDTH_PX)

    def made(number: int) -> Dataset:
        dataset = mammogram_dataset(painted.pixels, "L", "CC", exam, SPACING_MM, BITS)
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        return dataset

    write(made(0), folder / "CANARY good.dcm")
    shutil.copy(folder / "CANARY good.dcm", folder / "CANARY copy.dcm")
    unknown = made(1)
    del unknown.ImagerPixelSpacing
    write(unknown, folder / "CANARY spacing.dcm")
    cut = write(made(2), folder / "CANARY cut.dcm")
    cut.write_bytes(cut.read_bytes()[:-9000])
    report = made(3)
    del report.PixelData
    write(report, folder / "CANARY report.dcm")
    raw = made(4)
    raw.PresentationIntentType = "FOR PROCESSING"
    write(raw, folder / "CANARY raw.dcm")
    (folder / "CANARY text.dcm").write_text("CANARY")
    result = preprocess([folder], tmp_path / "stores", PreprocessOptions(mpp="native", workers=0))
    assert result.exit_code == ExitCode.SOME_FAILED
    reasons = sorted(record.reason for record in result.records)
    assert reasons == ["for_processing", "no_mpp", "not_an_image", "not_dicom", "truncated", "written"]
    _assert_clean(tmp_path / "stores")
    again = preprocess([folder], tmp_path / "stores", PreprocessOptions(mpp="native", workers=0))
    assert sorted(r.reason for r in again.records if r.ok) == ["up_to_date"]
