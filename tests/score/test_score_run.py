"""`score` end to end on small slides: contract, equality, resume, ensembles, guard, faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atlas_path.errors import ExitCode, ModelError, UsageError
from atlas_path.results import read_predictions, read_scores_info, read_table
from pipelines import score_case
from pipelines.attribution_store import attribution_path, read_attribution
from pipelines.ensemble import Ensemble
from pipelines.guard import training_statistics
from pipelines.score import ScoreOptions, score, training_store_mpp


def options(**changes: object) -> ScoreOptions:
    return ScoreOptions(**{"workers": 0, "threads": 1, "mpp": 1.0, "device": "cpu", **changes})


def probabilities(folder: Path) -> dict[str, float]:
    table = read_predictions(folder)
    return dict(zip(table["case_id"], table["prob_tumour"], strict=True))


def test_tables_hold_the_contract(scored: Path) -> None:
    table = pd.read_csv(scored / "predictions.csv")
    assert list(table.columns) == [
        "case_id", "patient_id", "task", "pred_label", "prob_benign", "prob_tumour", "threshold",
        "calibrated",
        "n_images", "n_windows", "in_distribution", "model_sha256", "status", "reason",
    ]  # fmt: skip
    assert list(table["case_id"]) == ["a", "b", "sub/c"]
    assert np.allclose(table["prob_benign"] + table["prob_tumour"], 1)
    assert set(table["status"]) == {"done"}
    same = pd.read_parquet(scored / "predictions.parquet")
    assert list(same.columns) == list(table.columns)
    assert np.array_equal(same["prob_tumour"], table["prob_tumour"])
    info = read_scores_info(scored)
    assert info.task.kind == "binary"
    assert info.operating_point == "youden"
    assert info.n_cases == 3
    text = (scored / "scores.json").read_text()
    assert str(scored.parent.parent) not in text, "no absolute path in scores.json"
    assert not Path(info.model_path).is_absolute()


def test_map_and_score_are_one_forward_pass(scored: Path) -> None:
    members = read_table(scored / "members.csv")
    for row in members.to_dict("records"):
        stored = read_attribution(attribution_path(scored, row["case_id"]))
        total = stored.contribution_NTO.sum(dtype=np.float64) + stored.info.bias[0]
        assert total == pytest.approx(row["logit_0"], abs=1e-5)
        assert stored.contribution_NTO.shape[1:] == (256, 1)
        assert stored.attention_NT.sum() == pytest.approx(1.0, abs=1e-4)
        assert row["completeness_error"] < 1e-5


def test_a_map_that_does_not_add_up_is_refused(
    stores: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Ensemble._forward

    def tampered(self, member, batch, maps):
        out = honest(self, member, batch, maps)
        out.logits_BO += 0.5
        return out

    monkeypatch.setattr(Ensemble, "_forward", tampered)
    result = score([stores / "a.ome.zarr"], run, tmp_path / "s", options())
    assert result.exit_code == ExitCode.ALL_FAILED
    assert result.records[0].reason == "incomplete_map"
    assert read_predictions(tmp_path / "s").loc[0, "status"] == "failed"


@pytest.mark.parametrize("changes", [{}, {"pack_windows": 400}, {"memory_gb": 0.001}])
def test_numbers_do_not_depend_on_company(
    scored: Path, stores: Path, run: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    """Alone, packed with others, with a reader that may hold one case at a time."""
    reference = probabilities(scored)
    if changes:
        score([stores], run, tmp_path / "all", options(**changes))
        tolerance = 1e-6 if "pack_windows" in changes else 0.0
        for case_id, value in probabilities(tmp_path / "all").items():
            assert value == pytest.approx(reference[case_id], abs=tolerance)
    else:
        for name in ("a", "sub/c"):
            score([stores / f"{name}.ome.zarr"], run, tmp_path / name, options())
            assert next(iter(probabilities(tmp_path / name).values())) == reference[name]


def test_raw_slides_give_the_numbers_of_their_stores_whatever_the_workers(
    scored: Path, slides: Path, stores: Path, run: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(stores / "a.ome.zarr", mixed / "a.ome.zarr")
    shutil.copy(slides / "b.tif", mixed / "b.tif")
    (mixed / "sub").mkdir()
    shutil.copy(slides / "sub/c.tif", mixed / "sub/c.tif")
    result = score([mixed], run, tmp_path / "s", options(workers=2))
    assert result.exit_code == ExitCode.OK
    assert probabilities(tmp_path / "s") == probabilities(scored)
    assert {p.name for p in (tmp_path / "s/stores").rglob("*.ome.zarr")} == {"b.ome.zarr", "c.ome.zarr"}
    assert (tmp_path / "s/stores/manifest.csv").is_file()
    again = score([mixed], run, tmp_path / "s", options(workers=2))
    assert again.exit_code == ExitCode.OK, "its own stores and maps are not taken for slides"
    assert len(again.records) == 3


def test_resume_scores_only_what_is_missing(
    stores: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    passes = []
    honest = Ensemble.run

    def counted(self, batch, maps):
        passes.append(batch.n_cases)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return honest(self, batch, maps)

    monkeypatch.setattr(Ensemble, "run", counted)
    stopped = score([stores], run, out, options())
    assert stopped.exit_code == ExitCode.INTERRUPTED
    assert len(read_predictions(out)) == 2
    passes.extend([0, 0])
    whole = score([stores], run, out, options())
    assert whole.exit_code == ExitCode.OK
    assert len(passes) == 6, "one more pass after the interrupt"
    monkeypatch.setattr(Ensemble, "run", honest)
    fresh = tmp_path / "fresh"
    score([stores], run, fresh, options())
    assert probabilities(out) == probabilities(fresh)


def test_a_changed_model_is_scored_again(stores: Path, make_run, tmp_path: Path) -> None:
    first, second = make_run(seed=1), make_run(seed=2)
    score([stores / "b.ome.zarr"], first, tmp_path / "s", options())
    before = probabilities(tmp_path / "s")
    score([stores / "b.ome.zarr"], second, tmp_path / "s", options())
    assert probabilities(tmp_path / "s") != before
    shutil.rmtree(attribution_path(tmp_path / "s", "b"))
    score([stores / "b.ome.zarr"], second, tmp_path / "s", options())
    assert attribution_path(tmp_path / "s", "b").is_dir(), "a lost map is made again"


def test_folds_average_calibrated_probabilities(stores: Path, make_run, tmp_path: Path) -> None:
    run = tmp_path / "cv"
    folds = [
        make_run(seed=s, folder=run / f"fold_{s}", calibration={"method": "platt", "parameters": p})
        for s, p in ((0, {"scale": 0.5, "shift": 0.3}), (1, {"scale": 2.0, "shift": -0.2}))
    ]
    score([stores / "a.ome.zarr"], run, tmp_path / "both", options())
    for i, fold in enumerate(folds):
        score([stores / "a.ome.zarr"], fold, tmp_path / f"one{i}", options())
    single = [probabilities(tmp_path / f"one{i}")["a"] for i in range(2)]
    assert probabilities(tmp_path / "both")["a"] == pytest.approx(np.mean(single), abs=1e-12)
    members = read_table(tmp_path / "both/members.csv")
    assert list(members["member"]) == ["fold_0", "fold_1"]
    stored = read_attribution(attribution_path(tmp_path / "both", "a"))
    total = stored.contribution_NTO.sum(dtype=np.float64) + stored.info.bias[0]
    assert total == pytest.approx(members["logit_0"].mean(), abs=1e-5)


def test_folds_must_agree(make_run, stores: Path, tmp_path: Path) -> None:
    make_run(folder=tmp_path / "cv/fold_0")
    make_run(folder=tmp_path / "cv/fold_1", mpp=2.0)
    with pytest.raises(ModelError, match="differ in 'mpp'"):
        score([stores], tmp_path / "cv", tmp_path / "s", options())


def test_cases_of_several_images_and_patients(stores: Path, run: Path, tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("case_id,patient_id,slide_id\nx,P1,a\nx,P1,b\ny,P1,c\n")
    score([stores], run, tmp_path / "s", options(cohort=table, patient_rule="max"))
    cases = read_predictions(tmp_path / "s").set_index("case_id")
    assert cases.loc["x", "n_images"] == 2
    patients = read_table(tmp_path / "s/patients.csv")
    assert list(patients["patient_id"]) == ["P1"]
    assert patients.loc[0, "prob_tumour"] == cases["prob_tumour"].max()
    assert patients.loc[0, "n_cases"] == 2
    study = tmp_path / "study.yaml"
    study.write_text(f"cohort: {table.name}\ntask: {{kind: binary, label: label}}\n")
    score([stores], run, tmp_path / "y", options(cohort=study))
    assert probabilities(tmp_path / "y") == probabilities(tmp_path / "s")
    maps = [read_attribution(attribution_path(tmp_path / "s", i)) for i in ("a", "b")]
    logit = read_table(tmp_path / "s/members.csv").set_index("case_id").loc["x", "logit_0"]
    total = sum(m.contribution_NTO.sum(dtype=np.float64) for m in maps) + maps[0].info.bias[0]
    assert total == pytest.approx(logit, abs=1e-5), "the maps of both images add up to the case's logit"


def test_bad_slides_are_recorded_and_the_others_scored(slides: Path, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(slides / "b.tif", folder / "good.tif")
    (folder / "empty.svs").write_bytes(b"")
    (folder / "text.tif").write_text("not a slide")
    result = score([folder], run, tmp_path / "s", options())
    assert result.exit_code == ExitCode.SOME_FAILED
    rows = read_predictions(tmp_path / "s").set_index("case_id")
    assert rows.loc["good", "status"] == "done"
    assert rows.loc["empty", "status"] == "failed"
    assert np.isnan(rows.loc["empty", "prob_tumour"])
    failures = read_table(tmp_path / "s/failures.csv").set_index("image_id")
    assert failures.loc["empty", "reason"] == "unreadable"
    assert len(failures) == 2


def test_a_case_with_a_lost_image_says_so(stores: Path, run: Path, tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("case_id,patient_id,slide_id\nx,P1,a\nx,P1,gone\n")
    result = score([stores], run, tmp_path / "s", options(cohort=table))
    row = read_predictions(tmp_path / "s").iloc[0]
    assert result.exit_code == ExitCode.SOME_FAILED
    assert row["status"] == "done"
    assert row["n_images"] == 1
    assert "gone left out: missing_file" in row["reason"]


def test_guard_names_what_is_unlike_and_may_abstain(
    scored: Path, stores: Path, make_run, tmp_path: Path
) -> None:
    images = read_table(scored / "images.csv").to_dict("records")
    names = ("mpp", "tissue_mm2", "sharpness", "mean_0", "mean_1", "stain_0", "stain_1", "saturation")
    like = [{n: float(row[n]) for n in names} | {"scanner": row["scanner"]} for row in images] * 2
    unlike = [measures | {"stain_1": measures["stain_1"] + 0.5, "scanner": "other"} for measures in like]
    good = make_run(training_statistics=training_statistics(like))
    score([stores], good, tmp_path / "in", options(abstain=True))
    assert read_predictions(tmp_path / "in")["in_distribution"].all()
    bad = make_run(training_statistics=training_statistics(unlike))
    score([stores], bad, tmp_path / "out", options())
    rows = read_predictions(tmp_path / "out")
    assert not rows["in_distribution"].any()
    assert rows["prob_tumour"].notna().all(), "without --abstain the prediction stays"
    assert "stain_1" in rows.loc[0, "reason"]
    assert "scanner generic-tiff; training images have other" in rows.loc[0, "reason"].replace(
        images[0]["scanner"], "generic-tiff"
    )
    score([stores], bad, tmp_path / "out", options(abstain=True))
    rows = read_predictions(tmp_path / "out")
    assert set(rows["status"]) == {"abstained"}
    assert rows["prob_tumour"].isna().all()
    assert (rows["pred_label"] == "").all()


def test_training_cases_raise_the_alarm(
    stores: Path, make_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from atlas_path.store import open_store

    content = open_store(stores / "a.ome.zarr").meta.source.fingerprint["sha256"]
    run = make_run(training_cases={"case_ids": ["other name"], "image_fingerprints": [content]})
    score([stores], run, tmp_path / "s", options())
    assert read_scores_info(tmp_path / "s").leaked_training_cases == ["a"]
    assert "LEAK: 1 cases were used for training" in capsys.readouterr().err
    rows = read_predictions(tmp_path / "s").set_index("case_id")
    assert "training case" in rows.loc["a", "reason"]
    assert rows.loc["b", "reason"] == ""


def test_operating_point_is_chosen_by_name(stores: Path, make_run, tmp_path: Path) -> None:
    points = [
        {"name": "low", "class": "tumour", "threshold": 0.0},
        {"name": "high", "class": "tumour", "threshold": 1.1},
    ]
    run = make_run(operating_points=points)
    labels = {}
    for name in ("low", "high"):
        score([stores / "a.ome.zarr"], run, tmp_path / name, options(operating_point=name))
        labels[name] = read_predictions(tmp_path / name).loc[0, "pred_label"]
    assert labels == {"low": "tumour", "high": "benign"}
    with pytest.raises(UsageError, match="it has: high, low"):
        score([stores], run, tmp_path / "x", options(operating_point="other"))


@pytest.mark.parametrize(
    ("kind", "classes", "columns"),
    [
        ("multiclass", ("x", "y", "z"), ["prob_x", "prob_y", "prob_z"]),
        ("multilabel", ("x", "y"), ["prob_x", "prob_y"]),
        ("ordinal", ("g1", "g2", "g3"), ["prob_g1", "prob_g2", "prob_g3"]),
        ("survival", ("0-1", "1-inf"), ["risk", "survival_0-1", "survival_1-inf"]),
        ("regression", ("size",), ["value_size"]),
    ],
)
def test_other_tasks(
    kind: str, classes: tuple[str, ...], columns: list[str], stores: Path, make_run, tmp_path: Path
) -> None:
    task = {"kind": kind, "name": "t", "classes": list(classes), "scale": {"mean": 10.0, "std": 2.0}}
    run = make_run(kind=kind, classes=classes, task=task, calibration={"method": "none", "parameters": {}})
    assert score([stores / "b.ome.zarr"], run, tmp_path / "s", options()).exit_code == ExitCode.OK
    row = read_predictions(tmp_path / "s").iloc[0]
    values = row[columns].astype(float)
    assert values.notna().all()
    if kind in ("multiclass", "ordinal"):
        assert values.sum() == pytest.approx(1.0, abs=1e-6)
        assert row["pred_label"] in classes
    if kind == "regression":
        logit = read_table(tmp_path / "s/members.csv").loc[0, "logit_0"]
        assert row["value_size"] == pytest.approx(logit * 2 + 10)


def test_a_reference_head_scores_without_maps(stores: Path, make_run, tmp_path: Path) -> None:
    run = make_run(architecture={"head": "reference"})
    assert score([stores / "b.ome.zarr"], run, tmp_path / "s", options()).exit_code == ExitCode.OK
    assert not read_table(tmp_path / "s/images.csv").loc[0, "has_map"]


def test_nothing_to_score(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no slides"):
        score([tmp_path / "empty"], run, tmp_path / "s", options())
    with pytest.raises(ModelError, match=r"no model\.json"):
        score([tmp_path / "empty"], tmp_path, tmp_path / "s", options())


def test_slides_are_prepared_as_the_training_stores_were(tmp_path: Path) -> None:
    assert training_store_mpp(tmp_path, 1.0) == 0.5
    assert training_store_mpp(tmp_path, 0.62) == 0.62
    (tmp_path / "cohort.lock.csv").write_text("image_id,level\na,2\nb,2\nc,0\n")
    assert training_store_mpp(tmp_path, 1.24) == 0.31
    lock = "image_id,level,store_mpp\na,1,0.5\nb,1,0.5\nc,0,native\n"  # compact stores of finer slides
    (tmp_path / "cohort.lock.csv").write_text(lock)
    assert training_store_mpp(tmp_path, 0.5) == 0.5
    (tmp_path / "cohort.lock.csv").write_text("image_id,level,store_mpp\na,2,native\n")
    assert training_store_mpp(tmp_path, 1.0) == 0.25


def test_records_are_whole(scored: Path) -> None:
    for path in (scored / "cases").glob("*.json"):
        record = score_case.CaseRecord.model_validate(json.loads(path.read_text()))
        assert record.row["status"] == "done"
