"""`model_card.md`: what the model is for, what it learnt from and how well it did, on one page for people.

The headings follow Mitchell et al. 2019; results on the test split are `evaluate`'s business and not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_path import RESEARCH_USE_ONLY, __version__
from atlas_path.cohort import split_table
from atlas_path.config import TrainConfig
from pipelines.train_metrics import SCORE_NAMES
from pipelines.train_prepare import Prepared


def write_model_card(run_dir: Path, config: TrainConfig, prepared: Prepared, info: Mapping[str, Any]) -> Path:
    """Write the card beside the model; `info` is what was added to `model.json`."""
    sections = [
        f"# {config.name}\n\n**{RESEARCH_USE_ONLY}**",
        _model(config, info),
        f"## Intended use\n\n{info['intended_use']}\n\nLicence: {info['licence']}.",
        _data(prepared),
        _results(info),
        _limits(prepared, info),
    ]
    path = run_dir / "model_card.md"
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def _model(config: TrainConfig, info: Mapping[str, Any]) -> str:
    task = info["task"]
    options = "".join(f", {k} {v}" for k, v in config.model.options.items())
    return (
        f"## Model\n\nAtlas `{config.model.preset}`{options}, head `{config.model.head}`, reading "
        f"{info['mpp']:g} micrometres per pixel. Task `{task['name']}` ({task['kind']}): "
        f"{', '.join(str(c) for c in task['classes'])}. Made with atlas-path {__version__}, seed "
        f"{config.runtime.seed}; all settings are in `config.yaml`."
    )


def _data(prepared: Prepared) -> str:
    columns = ("split", "patients", "cases", "images", "labels", "unlabelled")
    lines = ["## Data", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += [
        "| " + " | ".join(str(row[key]) for key in columns) + " |"
        for row in split_table(prepared.cohort, prepared.targets)
    ]
    sites = sorted({case.site for case in prepared.cohort.cases if case.site})
    scanners = sorted({case.scanner for case in prepared.cohort.cases if case.scanner})
    lines += [
        "",
        f"Sites: {', '.join(sites) or 'not recorded'}. Scanners: {', '.join(scanners) or 'not recorded'}.",
    ]
    if prepared.found.left_out:
        lines.append(f"{len(prepared.found.left_out)} images could not be used (`left_out.csv`).")
    lines.append("Every image with its split and fingerprint: `cohort.lock.csv`.")
    return "\n".join(lines)


def _results(info: Mapping[str, Any]) -> str:
    tuning = info["tuning"]
    if not tuning:
        return "## Results\n\nThere was no tuning split: nothing was calibrated and no threshold was chosen."
    score = "not defined" if tuning["score"] is None else f"{tuning['score']:.3f}"
    name = SCORE_NAMES[info["task"]["kind"]]
    calibration = info["calibration"]
    lines = [
        "## Results on the tuning split",
        "",
        f"{tuning['n']} labelled cases: {name} {score}, loss {tuning['loss']:.4f}. They chose the epoch, "
        f"the calibration ({calibration['method']}) and the thresholds, so the numbers flatter: report the "
        "test split.",
    ]
    points = info["operating_points"]
    if points:
        lines += [
            "",
            "| threshold | class | at | sensitivity | specificity | rule |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {p['name']} | {p['class']} | {p['threshold']:.4f} | {_rate(p['sensitivity'])} | "
            f"{_rate(p['specificity'])} | {p['rule']} |"
            for p in points
        ]
    return "\n".join(lines)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _limits(prepared: Prepared, info: Mapping[str, Any]) -> str:
    lines = ["## Limits", ""]
    lines += [f"- {warning}" for warning in prepared.warnings]
    seen = info["training_statistics"]
    lines.append(
        f"- Pixels were measured on {seen['n_images']} training images; scoring flags images that look "
        "different (`in_distribution`). Such a guard does not notice rare disease."
    )
    lines.append("- Nothing is known about patients unlike those of the training cohort.")
    return "\n".join(lines)
