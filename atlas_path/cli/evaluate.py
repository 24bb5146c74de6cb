"""`atlas-path evaluate`: predictions against the truth, as a report a clinical reviewer can read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    scores: Annotated[
        Path, typer.Argument(help="Scores folder, or a table with case_id, patient_id, label, prob.")
    ],
    cohort: Annotated[
        Path | None,
        typer.Option(help="Training YAML, run folder, cohort.lock.csv, or any table with labels."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Report folder.")] = Path("report"),
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate; default test where there is one. 'all' takes all.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="binary | multiclass | multilabel | ordinal | regression | survival, if not told."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label column.")] = None,
    positive: Annotated[str | None, typer.Option(help="Positive class, where labels are words.")] = None,
    time: Annotated[str | None, typer.Option(help="Survival: column of follow-up times.")] = None,
    event: Annotated[
        str | None, typer.Option(help="Survival: column of events (1) and censorings (0).")
    ] = None,
    time_unit: Annotated[str, typer.Option(help="Survival: unit of the times, for the text.")] = "time units",
    threshold: Annotated[
        list[float] | None, typer.Option(help="A threshold fixed in advance (repeat for several).")
    ] = None,
    choose: Annotated[
        list[str] | None, typer.Option(help="Choose on tuning rows: youden, sens:0.95, spec:0.9 (repeat).")
    ] = None,
    choose_on: Annotated[str, typer.Option(help="The split thresholds are chosen on.")] = "tune",
    prevalence: Annotated[
        list[float] | None, typer.Option(help="Also give PPV and NPV at this prevalence (repeat).")
    ] = None,
    subgroup: Annotated[
        list[str] | None, typer.Option(help="Column to break down by (repeat); default: the known ones.")
    ] = None,
    min_group: Annotated[int, typer.Option(min=1, help="Cases a subgroup needs to be shown.")] = 20,
    min_events: Annotated[int, typer.Option(min=1, help="Positives and negatives it needs.")] = 5,
    horizon: Annotated[list[float] | None, typer.Option(help="Survival: time of an AUC (repeat).")] = None,
    compare: Annotated[Path | None, typer.Option(help="A second model's scores folder or table.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Lesions: CSV (image_id,x,y,width,height) or a folder of GeoJSON.")
    ] = None,
    detections: Annotated[
        Path | None, typer.Option(help="Detections: CSV (image_id,confidence,x,y); default: from the maps.")
    ] = None,
    truth_mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of the truth's coordinates, if not told.")
    ] = None,
    failures: Annotated[
        list[Path] | None, typer.Option(help="failures.csv or manifest.csv for the flow diagram (repeat).")
    ] = None,
    heatmaps: Annotated[
        Path | None, typer.Option(help="Folder of overlays for the galleries; default: beside the scores.")
    ] = None,
    gallery: Annotated[int, typer.Option(min=0, max=50, help="Cases in each gallery.")] = 6,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 2000,
    seed: Annotated[int, typer.Option(help="Same seed, same intervals.")] = 0,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Evaluation report",
    intended_use: Annotated[
        str | None, typer.Option(help="Intended use; default: what the model file says.")
    ] = None,
) -> None:
    """Evaluate predictions: discrimination, operating points, calibration, subgroups, one HTML page."""
    from pydantic import ValidationError

    from atlas_path.errors import UsageError
    from pipelines.evaluate import EvaluateOptions
    from pipelines.evaluate import evaluate as run

    given = {
        "split": split, "kind": kind, "label": label, "positive": positive, "time": time, "event": event,
        "time_unit": time_unit, "thresholds": threshold or [], "choose": choose or [], "choose_on": choose_on,
        "prevalences": prevalence or [], "subgroups": subgroup, "min_group": min_group,
        "min_events": min_events,
        "horizons": horizon or [], "compare": compare, "truth": truth, "detections": detections,
        "truth_mpp": truth_mpp, "failures": failures or [], "heatmaps": heatmaps, "gallery": gallery,
        "resamples": resamples, "seed": seed, "title": title, "intended_use": intended_use,
    }  # fmt: skip
    try:
        options = EvaluateOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"option {option}", first["msg"], "see `atlas-path evaluate --help`") from error
    report = run(scores, cohort, output, options)
    typer.echo(f"report   {report}")
    typer.echo(f"metrics  {report.with_name('metrics.json')}")
