"""The whole path on real pixels: scanner files, and a cohort composed of real, labelled tissue."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_path.errors import ExitCode

STUDY = """
name: hay
cohort: {cohort}/cohort.csv
task: {{kind: binary, label: label}}
data: {{stores: stores, mpp: 1.24}}
optim: {{epochs: 1, cases_per_step: 2}}
runtime: {{threads: 1}}
"""


def atlas_path(*words: str | Path, at: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, away from the source tree."""
    command = [sys.executable, "-m", "atlas_path.cli.main", *map(str, words)]
    return subprocess.run(command, cwd=at, capture_output=True, text=True, check=False, env=dict(os.environ))


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


def test_scanner_files_at_half_a_micrometre_and_native(shared: Path, tmp_path: Path) -> None:
    slides = shared / "data" / "wsi"
    done = atlas_path("preprocess", slides, "-o", "half", "--workers", "0", at=tmp_path)
    assert done.returncode == ExitCode.SOME_FAILED, done.stderr
    rows = table(tmp_path / "half" / "manifest.csv")
    assert {name for name, row in rows.items() if row["status"] == "done"} == {
        "CMU-1-Small-Region",
        "test3-DAPI-2-387",
    }
    assert float(rows["CMU-1-Small-Region"]["mpp"]) == pytest.approx(0.499, abs=1e-3)
    (failure,) = table(tmp_path / "half" / "failures.csv").values()
    assert failure["reason"] == "too_coarse"
    assert "28.97" in failure["error"]
    assert "--mpp native" in failure["error"]

    native = atlas_path(
        "preprocess", slides, "-o", "native", "--mpp", "native", "--workers", "0", at=tmp_path
    )
    assert native.returncode == ExitCode.OK, native.stderr
    rows = table(tmp_path / "native" / "manifest.csv")
    assert float(rows["camelyon16_lowres_SM"]["mpp"]) == pytest.approx(28.97, abs=0.01)
    assert float(rows["test3-DAPI-2-387"]["mpp"]) == pytest.approx(0.228, abs=1e-3)


@pytest.mark.slow
def test_haystack_from_slides_to_report(shared: Path, tmp_path: Path) -> None:
    hay = tmp_path / "hay"
    maker = [sys.executable, shared / "tools" / "make_haystack.py", shared / "data" / "glas", hay]
    few = ["--slides", "12", "--grid", "4", "--lesions", "6", "--seed", "1"]
    subprocess.run([*map(str, maker), *few], check=True, capture_output=True)
    (tmp_path / "study.yaml").write_text(STUDY.format(cohort=hay.name))
    for words in (
        ("preprocess", "hay/slides", "-o", "stores", "--mpp", "0.62", "--workers", "0"),
        ("train", "study.yaml"),
        ("score", "stores", "--model", "runs/hay", "-o", "scores"),
        ("heatmap", "scores"),
        ("evaluate", "scores", "--cohort", "study.yaml", "-o", "report", "--split", "all"),
    ):
        done = atlas_path(*words, at=tmp_path)
        assert done.returncode == ExitCode.OK, f"{words}: {done.stderr}"
    predictions = table(tmp_path / "scores" / "predictions.csv")
    assert len(predictions) == 12
    assert all(0 < float(row["prob_1"]) < 1 for row in predictions.values())
    assert len(list((tmp_path / "scores" / "heatmaps").glob("*.png"))) == 12
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["primary"]["name"] == "AUROC"
    assert "<script src" not in (tmp_path / "report" / "report.html").read_text()
