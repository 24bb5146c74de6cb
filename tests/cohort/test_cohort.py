"""Cohort tables: spellings, faults, splits by patient, leaks, targets, lock file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_path.cohort import (
    assign_splits,
    encode_targets,
    fold_view,
    read_cohort,
    read_lock,
    split_table,
    write_lock,
)
from atlas_path.cohort.checks import duplicate_pixels, shortcuts
from atlas_path.config import SplitConfig, TaskConfig
from atlas_path.errors import CohortError


def table(tmp_path: Path, text: str, name: str = "cohort.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def many(tmp_path: Path, n_patients=20, per_patient=2, **columns) -> Path:
    rows = []
    for p in range(n_patients):
        for k in range(per_patient):
            row = {"slide_id": f"s{p}_{k}", "PATIENT": f"p{p}", "path": f"{p}_{k}.svs", "label": p % 2}
            rows.append(row | {name: make(p, k) for name, make in columns.items()})
    path = tmp_path / "many.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def divided(path: Path, task: TaskConfig | None = None, seed=0, **split):
    task = task or TaskConfig()
    cohort = read_cohort(path, task.label_columns)
    return assign_splits(cohort, SplitConfig(**split), encode_targets(cohort, task), seed)


@pytest.mark.parametrize(
    "header",
    [
        "image_id,patient_id,path,mpp",
        "slide_id,PATIENT,wsi,spacing_at_level_0",
        "sample_id,Patient,image_path,MPP",
    ],
)
def test_aliases_of_the_field(tmp_path, header):
    cohort = read_cohort(table(tmp_path, f"{header}\na,p1,x/a.svs,0.25\nb,p1,x/b.svs,\n"))
    assert [(c.case_id, c.patient_id) for c in cohort.cases] == [("a", "p1"), ("b", "p1")]
    assert [c.images[0].mpp for c in cohort.cases] == [0.25, None]
    assert cohort.file(cohort.cases[0].images[0]) == tmp_path / "x/a.svs"


def test_clam_style_file_name_is_path_and_id(tmp_path):
    cohort = read_cohort(table(tmp_path, "FILENAME,label\nd/a.ome.tiff,1\n"), ["label"])
    image = cohort.cases[0].images[0]
    assert (image.image_id, image.path) == ("a", "d/a.ome.tiff")


def test_own_column_names_win(tmp_path):
    path = table(tmp_path, "case,slide,woman\n1,a,W\n1,b,W\n2,c,W\n")
    cohort = read_cohort(path, columns={"patient_id": "woman"})
    assert {c.patient_id for c in cohort.cases} == {"W"}
    assert [len(c.images) for c in cohort.cases] == [2, 1]


def test_parquet_reads_like_csv(tmp_path):
    frame = pd.DataFrame({"slide_id": ["a", "b"], "path": ["a.svs", "b.svs"], "label": [1.0, float("nan")]})
    frame.to_parquet(tmp_path / "c.parquet")
    cohort = read_cohort(tmp_path / "c.parquet", ["label"])
    assert [c.labels["label"] for c in cohort.cases] == ["1", None]


def test_all_faults_are_named(tmp_path):
    header, rows = "case_id,image_id,path,label,mpp", ["A,1,a,0,0.5", "A,2,b,1,x", "B,2,c,1,-1", "C,,,1,1"]
    with pytest.raises(CohortError) as error:
        read_cohort(table(tmp_path, "\n".join([header, *rows])), ["label"])
    text = str(error.value)
    assert "case A: label differs between its rows (0, 1)" in text
    assert "row 3: mpp 'x' is not a number" in text
    assert "row 4: image '2' is already in row 3" in text
    assert "row 5: neither path nor image_id is given" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\n1\n", "no column names the images"),
        ("path,label\n", "no rows"),
        ("path\na\n", "no column 'label'"),
        ("path,label,split\na,1,somewhere\n", "split 'somewhere' is none of train, tune, test"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(CohortError, match=message):
        read_cohort(table(tmp_path, text), ["label"])


def test_missing_table_is_one_line(tmp_path):
    with pytest.raises(CohortError, match="no such file"):
        read_cohort(tmp_path / "none.csv")


def test_splits_keep_patients_and_balance(tmp_path):
    cohort = divided(many(tmp_path))
    by_split = {s: {c.patient_id for c in cohort.of_split(s)} for s in ("train", "tune", "test")}
    assert not by_split["train"] & by_split["tune"]
    assert not (by_split["train"] | by_split["tune"]) & by_split["test"]
    assert {s: len(p) for s, p in by_split.items()} == {"train": 12, "tune": 4, "test": 4}
    for split in by_split:
        labels = Counter(c.labels["label"] for c in cohort.of_split(split))
        assert labels["0"] == labels["1"]


def test_splits_depend_on_seed_only(tmp_path):
    path = many(tmp_path)
    assert divided(path, seed=3) == divided(path, seed=3)
    assert divided(path, seed=3) != divided(path, seed=4)


def test_given_train_and_test_get_a_tuning_split_out_of_train(tmp_path):
    path = many(tmp_path, split=lambda p, k: "test" if p < 6 else "train")
    cohort = divided(path)
    assert {c.patient_id for c in cohort.of_split("test")} == {f"p{i}" for i in range(6)}
    assert cohort.of_split("tune")


def test_leak_names_patients_and_files(tmp_path):
    path = many(tmp_path, split=lambda p, k: "test" if p == 3 and k else "train")
    with pytest.raises(CohortError, match=r"patient p3 is in splits test, train.*leak"):
        divided(path)
    path = table(tmp_path, "image_id,path,label,split\na,x.svs,0,train\nb,x.svs,1,test\n")
    with pytest.raises(CohortError, match=r"file .*x.svs is in splits test, train"):
        divided(path)


def test_half_filled_split_column_is_refused(tmp_path):
    path = many(tmp_path, split=lambda p, k: "" if p == 3 else "train")
    with pytest.raises(CohortError, match="2 cases have no split"):
        divided(path)


def test_folds_cover_every_patient_once(tmp_path):
    cohort = divided(many(tmp_path), folds=4)
    tuned: Counter[str] = Counter()
    for fold in range(4):
        view = fold_view(cohort, fold)
        assert not {c.patient_id for c in view.of_split("tune")} & {
            c.patient_id for c in view.of_split("train")
        }
        tuned.update(c.case_id for c in view.of_split("tune"))
    assert set(tuned.values()) == {1}
    assert len(tuned) == len([c for c in cohort.cases if c.split != "test"])


def test_sites_are_left_out_and_kept_together(tmp_path):
    path = many(tmp_path, site=lambda p, k: "ABCDE"[p % 5])
    cohort = divided(path, test_sites=["B"])
    assert {c.site for c in cohort.of_split("test")} == {"B"}
    with pytest.raises(CohortError, match="no case of site Z"):
        divided(path, test_sites=["Z"])
    folds = divided(path, folds=5, test=0.0, group_by="site")
    assert all(len({c.fold for c in folds.cases if c.site == s}) == 1 for s in "ABCDE")


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=4, max_size=30),
    seed=st.integers(0, 1000),
    folds=st.one_of(st.none(), st.integers(2, 4)),
)
def test_no_patient_is_ever_divided(tmp_path_factory, sizes, seed, folds):
    rows = [f"p{p}_{k},p{p},{p % 2}" for p, n in enumerate(sizes) for k in range(n)]
    path = table(tmp_path_factory.mktemp("h"), "image_id,patient_id,label\n" + "\n".join(rows) + "\n")
    cohort = divided(path, seed=seed, folds=folds, test=0.0 if folds else 0.2)
    places: dict[str, set] = {}
    for case in cohort.cases:
        places.setdefault(case.patient_id, set()).add((case.split, case.fold))
    assert all(len(found) == 1 for found in places.values())


def test_missing_labels_are_masked(tmp_path):
    path = table(tmp_path, "image_id,er,pr\na,1,\nb,NA,0\nc,?,nan\n")
    task = TaskConfig(kind="multilabel", label=["er", "pr"])
    targets = encode_targets(read_cohort(path, task.label_columns), task)
    assert targets.known["a"].tolist() == [True, False]
    assert targets.known["b"].tolist() == [False, True]
    assert not targets.is_labelled("c")


@pytest.mark.parametrize(
    ("task", "cells", "outputs", "classes"),
    [
        (TaskConfig(), ["0", "1.0", "1"], 1, ["0", "1"]),
        (TaskConfig(classes=["well", "ill"]), ["ill", "well", "ill"], 1, ["well", "ill"]),
        (TaskConfig(kind="multiclass"), ["b", "a", "c"], 3, ["a", "b", "c"]),
        (TaskConfig(kind="ordinal"), ["1", "2", "10"], 2, ["1", "2", "10"]),
    ],
)
def test_class_targets(tmp_path, task, cells, outputs, classes):
    path = table(tmp_path, "image_id,label\n" + "".join(f"i{k},{c}\n" for k, c in enumerate(cells)))
    targets = encode_targets(read_cohort(path, ["label"]), task)
    assert (targets.n_outputs, targets.classes) == (outputs, classes)
    assert classes[int(targets.value["i0"])] == str(cells[0])


def test_survival_bins_come_from_training_events(tmp_path):
    rows = [f"i{k},{k},{1 if k < 16 else 0},{'train' if k < 16 else 'test'}" for k in range(20)]
    path = table(tmp_path, "image_id,months,dead,split\n" + "\n".join(rows) + "\n")
    task = TaskConfig(kind="survival", time="months", event="dead", n_bins=4)
    targets = encode_targets(read_cohort(path, task.label_columns), task)
    assert targets.n_outputs == 4
    assert targets.bin_edges == pytest.approx([3.75, 7.5, 11.25])
    assert targets.value["i19"].tolist() == [3, 0]


@pytest.mark.parametrize(
    ("task", "cells", "message"),
    [
        (TaskConfig(), "0,1,2", "has 3 classes"),
        (TaskConfig(), "1,1,1", "has 1 class"),
        (TaskConfig(classes=["a", "b"]), "a,b,c", "label 'c' is none of a, b"),
        (TaskConfig(kind="regression"), "1,2,tall", "'tall' is not a number"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, task, cells, message):
    path = table(
        tmp_path, "image_id,label\n" + "".join(f"i{k},{c}\n" for k, c in enumerate(cells.split(",")))
    )
    with pytest.raises(CohortError, match=message):
        encode_targets(read_cohort(path, ["label"]), task)


def test_label_by_site_is_told(tmp_path):
    told = many(tmp_path, site=lambda p, k: "AB"[p % 2], scanner=lambda p, k: "XY"[(p // 2) % 2])
    cohort = read_cohort(told, ["label"])
    warnings = shortcuts(cohort, encode_targets(cohort, TaskConfig()))
    assert len(warnings) == 1
    assert "'site'" in warnings[0]
    assert "V 1.00" in warnings[0]


def test_same_pixels_twice(tmp_path):
    pixels = {"a": ("h1", "A", "train"), "b": ("h1", "B", "train"), "c": ("h2", "C", "test")}
    assert duplicate_pixels(tmp_path, pixels) == ["images a, b have the same pixels"]
    with pytest.raises(CohortError, match="images a, b, d have the same pixels but are in test and train"):
        duplicate_pixels(tmp_path, pixels | {"d": ("h1", "D", "test")})


def test_split_table_counts(tmp_path):
    cohort = divided(many(tmp_path))
    rows = split_table(cohort, encode_targets(cohort, TaskConfig()))
    assert rows[0] == {
        "split": "train",
        "patients": 12,
        "cases": 24,
        "images": 24,
        "unlabelled": 0,
        "labels": "0: 12, 1: 12",
    }


def test_lock_holds_every_image(tmp_path):
    cohort = divided(many(tmp_path, site=lambda p, k: "A"))
    write_lock(tmp_path / "lock.csv", cohort, {"s0_0": {"fingerprint": "abc"}})
    rows = read_lock(tmp_path / "lock.csv")
    assert len(rows) == 40
    first = next(r for r in rows if r["image_id"] == "s0_0")
    assert (first["patient_id"], first["label"], first["fingerprint"], first["site"]) == (
        "p0",
        "0",
        "abc",
        "A",
    )
