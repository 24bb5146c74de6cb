"""The main job, start to end, on slides the demo makes itself: preprocess, train, score, heatmap, evaluate.

Every stage is called as a user would call it, and reads only the files of the stage before. The demo prints
each command, so that it can be typed again on one's own slides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_path import RESEARCH_USE_ONLY
from atlas_path.errors import AtlasPathError, ExitCode
from atlas_path.progress import say
from pipelines.demo_slides import make_cohort

N_SLIDES = 48
STARTER = """\
# The demo's study: which slides hold a lesion? Commented examples for real studies: `atlas-path init --help`.
name: demo
cohort: cohort.csv
out: runs
task: {{kind: binary, label: label, classes: [benign, lesion]}}
data: {{stores: stores, mpp: 1.0}}
model: {{preset: tiny}}
optim: {{epochs: {epochs}, lr: 1.5e-3, warmup_epochs: 1, cases_per_step: 4, cases_per_pass: 4}}
runtime: {{seed: {seed}}}
"""


@dataclass(frozen=True)
class DemoResult:
    """Where the demo's results are, and how well the model did on its test slides."""

    predictions: Path
    overlays: Path
    report: Path
    test_auroc: float
    seconds: float


class DemoError(AtlasPathError):
    """A stage of the demo did not finish."""

    reason = "demo"


def run_demo(out: Path, seed: int = 0, n_slides: int = N_SLIDES, epochs: int = 14) -> DemoResult:
    """Run all stages under `out` and return where their results are.

    Raises:
        DemoError: a stage left an image undone.
    """
    from atlas_path.config import load_train_config
    from atlas_path.store.options import PreprocessOptions
    from pipelines.evaluate import EvaluateOptions, evaluate
    from pipelines.heatmap import HeatmapOptions, heatmap
    from pipelines.preprocess import preprocess
    from pipelines.score import ScoreOptions, score
    from pipelines.train import train

    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    _stage(f"painting {n_slides} slides into {out / 'slides'}")
    make_cohort(out, n_slides, seed)
    study = out / "cohort.yaml"
    study.write_text(STARTER.format(seed=seed, epochs=epochs))
    stores, run, scores, report = out / "stores", out / "runs" / "demo", out / "scores", out / "report"

    _stage(f"atlas-path preprocess {out / 'slides'} -o {stores}")
    _must_be_ok("preprocess", preprocess([out / "slides"], stores, PreprocessOptions()).exit_code)
    _stage(f"atlas-path train {study}")
    train(load_train_config(study))
    test = out / "test.csv"
    _stage(f"atlas-path score {stores} --model {run} --cohort {test} -o {scores}")
    _must_be_ok("score", score([stores], run, scores, ScoreOptions(cohort=test)).exit_code)
    _stage(f"atlas-path heatmap {scores}")
    _must_be_ok("heatmap", heatmap(scores, HeatmapOptions()).exit_code)
    truth = out / "lesions.csv"
    _stage(f"atlas-path evaluate {scores} --cohort {study} --truth {truth} -o {report}")
    evaluate(scores, study, report, EvaluateOptions(truth=truth))
    return DemoResult(
        predictions=scores / "predictions.csv",
        overlays=scores / "heatmaps",
        report=report / "report.html",
        test_auroc=_auroc(json.loads((report / "metrics.json").read_text())),
        seconds=time.monotonic() - started,
    )


def say_result(result: DemoResult, echo: Callable[[str], Any]) -> None:
    """The end of the demo, for a person."""
    echo("")
    echo(f"predictions  {result.predictions}")
    echo(f"overlays     {result.overlays}")
    echo(f"report       {result.report}")
    echo(f"test AUROC   {result.test_auroc:.3f}   ({result.seconds:.0f} s in all)")
    echo(f"The slides are procedural: this shows that the software works, nothing else. {RESEARCH_USE_ONLY}")


def _stage(command: str) -> None:
    say(f"\n$ {command}")


def _must_be_ok(stage: str, exit_code: ExitCode) -> None:
    if exit_code != ExitCode.OK:
        remedy = "see failures.csv in the demo's folder, and run `atlas-path doctor`"
        raise DemoError(stage, f"ended with exit code {int(exit_code)}", remedy)


def _auroc(metrics: dict[str, Any]) -> float:
    return float(metrics["primary"]["number"]["value"])
