"""`heatmap` end to end: methods, truth, options, faults, and the command line of both stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from atlas_path.cli.main import app
from atlas_path.errors import ExitCode, UsageError
from pipelines.attribution_store import attribution_path, read_attribution, read_method
from pipelines.exports.overlay import read_layout
from pipelines.heatmap import HeatmapOptions, heatmap
from pipelines.score import ScoreOptions, score


def options(**changes: object) -> HeatmapOptions:
    return HeatmapOptions(**{"device": "cpu", "formats": ("png",), "faithfulness_seconds": 0, **changes})


@pytest.fixture
def copy(scored: Path, stores: Path, run: Path, tmp_path: Path) -> Path:
    """A scores folder that may be changed, with its stores and model beside it as before."""
    for source, name in ((scored, "scores"), (stores, "stores"), (run, "run")):
        shutil.copytree(source, tmp_path / name)
    info = json.loads((tmp_path / "scores/scores.json").read_text())
    info["model_path"] = "../run"
    (tmp_path / "scores/scores.json").write_text(json.dumps(info))
    return tmp_path


def test_test_of_each_map_is_written_beside_the_picture(copy: Path) -> None:
    result = heatmap(copy / "scores", options(stores=copy / "stores", faithfulness_seconds=30))
    assert result.exit_code == ExitCode.OK
    table = pd.read_csv(copy / "scores/heatmaps/heatmaps.csv").set_index("image_id")
    assert table["deletion_random"].notna().all()
    assert table["insertion_map"].between(0, 1).all()
    predictions = pd.read_csv(copy / "scores/predictions.csv").set_index("case_id")
    chance = predictions.loc["a", "prob_tumour"]
    assert table.loc["a", "support"] == pytest.approx(max(chance, 1 - chance), abs=1e-6)
    summary = json.loads((copy / "scores/heatmaps/summary.json").read_text())
    assert summary["faithfulness"]["tested"] == 3
    assert "Tested 3 of 3 cases" in (copy / "scores/heatmaps/summary.md").read_text()


@pytest.mark.parametrize("method", ["attention", "ig", "occlusion"])
def test_other_methods(copy: Path, method: str) -> None:
    chosen = options(stores=copy / "stores", method=method, cases=("b",), formats=("png", "csv", "geojson"))
    assert heatmap(copy / "scores", chosen).exit_code == ExitCode.OK
    layout = read_layout(copy / "scores/heatmaps/b.png")
    path = attribution_path(copy / "scores", "b")
    stored = read_attribution(path)
    if method == "attention":
        assert "diagnostic" in layout["what"]
        table = pd.read_csv(copy / "scores/heatmaps/b/windows.csv")
        assert table["value"].sum() == pytest.approx(stored.attention_NT.sum(), abs=1e-5)
        features = json.loads((copy / "scores/heatmaps/b/windows.geojson").read_text())["features"]
        names = {feature["properties"]["classification"]["name"] for feature in features}
        assert all("diagnostic" in name for name in names)
    else:
        values = read_method(path, "ig" if method == "ig" else "occlusion_0")
        assert values is not None
        assert values.shape == stored.contribution_NTO.shape
        assert np.abs(values).sum() > 0
        assert "logit of 'tumour'" in layout["what"]


def test_an_ensemble_explains_with_the_mean_of_its_members(stores: Path, make_run, tmp_path: Path) -> None:
    for fold in range(2):
        make_run(seed=fold, folder=tmp_path / f"cv/fold_{fold}")
    settings = ScoreOptions(workers=0, threads=1, device="cpu")
    score([stores / "b.ome.zarr"], tmp_path / "cv", tmp_path / "s", settings)
    assert heatmap(tmp_path / "s", options(method="ig")).exit_code == ExitCode.OK
    both = read_method(attribution_path(tmp_path / "s", "b"), "ig")
    single = []
    for fold in range(2):
        out = tmp_path / f"s{fold}"
        score([stores / "b.ome.zarr"], tmp_path / f"cv/fold_{fold}", out, settings)
        heatmap(out, options(method="ig"))
        single.append(read_method(attribution_path(out, "b"), "ig"))
    assert np.allclose(both, np.mean(single, axis=0), atol=1e-6)


def test_truth_adds_pointing_and_froc(scored: Path, tmp_path: Path) -> None:
    stored = read_attribution(attribution_path(scored, "a"))
    token_map = stored.token_map(np.ones(1), "x")
    y, x = np.unravel_index(int(np.nanargmax(token_map.raster())), token_map.raster().shape)
    lesions = tmp_path / "lesions.csv"
    box = f"{max(0, x * 16 - 192)},{max(0, y * 16 - 192)},400,400"
    lesions.write_text(f"slide_id,x,y,width,height\na,{box}\nb,2000,2000,300,300\n")
    out = tmp_path / "h"
    assert heatmap(scored, options(truth=lesions, out=out)).exit_code == ExitCode.OK
    table = pd.read_csv(out / "heatmaps.csv").set_index("image_id")
    assert table.loc["a", "lesions"] == 1
    assert 0 < table.loc["a", "pointing_chance"] < 1
    assert 0 <= table.loc["a", "token_auroc"] <= 1
    found = json.loads((out / "summary.json").read_text())["localisation"]
    assert found["images"] == 3
    assert found["froc_score"] is not None
    assert "CAMELYON16" in (out / "summary.md").read_text()
    lesions.write_text("slide_id,x,y,width,height\nother,1,1,5,5\n")
    with pytest.raises(UsageError, match="names none of the scored images"):
        heatmap(scored, options(truth=lesions, out=out))


def test_stores_that_moved_or_changed(copy: Path) -> None:
    shutil.move(copy / "stores", copy / "elsewhere")
    (copy / "scores/images.csv").write_text((copy / "scores/images.csv").read_text())
    lost = heatmap(copy / "scores", options(stores=copy / "nowhere"))
    assert lost.exit_code == ExitCode.ALL_FAILED
    assert "say where with --stores" in lost.records[0].error
    found = heatmap(copy / "scores", options(stores=copy / "elsewhere"))
    assert found.exit_code == ExitCode.OK
    shutil.rmtree(copy / "elsewhere/b.ome.zarr")
    shutil.copytree(copy / "elsewhere/a.ome.zarr", copy / "elsewhere/b.ome.zarr")
    mixed = heatmap(copy / "scores", options(stores=copy / "elsewhere"))
    assert mixed.exit_code == ExitCode.SOME_FAILED
    assert "is not the store that was scored" in mixed.failures[0].error
    rows = pd.read_csv(copy / "scores/heatmaps/heatmaps.csv").set_index("image_id")
    assert rows.loc["b", "status"] == "failed"


def test_limit_and_class_are_taken_from_the_user(scored: Path, tmp_path: Path) -> None:
    heatmap(scored, options(out=tmp_path, limit=12.5, label="benign", cases=("a",)))
    layout = read_layout(tmp_path / "a.png")
    assert layout["limit"] == 12.5
    assert "'benign'" in layout["what"]
    with pytest.raises(UsageError, match="no such class"):
        heatmap(scored, options(out=tmp_path, label="zebra"))
    with pytest.raises(UsageError, match=r"not in predictions\.csv"):
        heatmap(scored, options(out=tmp_path, cases=("zebra",)))


def test_not_a_scores_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a folder made by"):
        heatmap(tmp_path, options())


def test_command_line(stores: Path, run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    out = str(tmp_path / "s")
    scored = runner.invoke(
        app,
        [
            "score",
            str(stores / "a.ome.zarr"),
            "--model",
            str(run),
            "-o",
            out,
            "--device",
            "cpu",
            "--threads",
            "1",
        ],
    )
    assert scored.exit_code == 0, scored.output
    assert "1 cases scored, 0 not" in scored.output
    drawn = runner.invoke(app, ["heatmap", out, "--format", "png", "--test-seconds", "0"])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "s/heatmaps/a.png").is_file()
    assert not (tmp_path / "s/heatmaps/a").exists()
    for command in ("score", "heatmap"):
        assert runner.invoke(app, [command, "--help"]).exit_code == 0
