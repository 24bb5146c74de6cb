"""`atlas-path score SLIDES --model RUN -o SCORES`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from atlas_path.errors import ExitCode, UsageError


class Device(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """How the model computes."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class PatientRule(StrEnum):
    """How a patient's cases are combined."""

    mean = "mean"
    max = "max"


def score(
    sources: Annotated[list[Path], typer.Argument(help="Slides, stores, or folders of either or both.")],
    model: Annotated[Path, typer.Option("--model", help="Run folder of `train` (one model, or fold_*/).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of scores.")] = Path("scores"),
    cohort: Annotated[
        Path | None,
        typer.Option(help="Table (or study YAML) of cases with several images; no labels needed."),
    ] = None,
    stores: Annotated[
        Path | None, typer.Option(help="Where stores of raw slides go. Default: SCORES/stores.")
    ] = None,
    mpp: Annotated[
        str | None,
        typer.Option(help="Finest um/px of those stores, or 'native'. Default: as the training stores."),
    ] = None,
    mpp_csv: Annotated[Path | None, typer.Option(help="CSV with columns wsi,mpp.")] = None,
    operating_point: Annotated[
        str | None, typer.Option(help="Name of the threshold, e.g. sens95. Default: the model's first.")
    ] = None,
    abstain: Annotated[
        bool, typer.Option("--abstain", help="No prediction for cases unlike the training images.")
    ] = False,
    patient_rule: Annotated[
        PatientRule, typer.Option(help="A patient's cases: mean, or the most positive one.")
    ] = PatientRule.mean,
    device: Annotated[Device, typer.Option(help="auto takes a GPU when there is one.")] = Device.auto,
    precision: Annotated[
        Precision, typer.Option(help="auto: bfloat16 on a GPU, as in training; float32 elsewhere.")
    ] = Precision.auto,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the model.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that preprocess raw slides; 0: none.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address or scheduler file of a running Dask cluster.")
    ] = None,
    memory_gb: Annotated[float, typer.Option(help="Decoded windows that may wait in memory.")] = 4.0,
    pack_windows: Annotated[
        int, typer.Option(help="Pack small cases into passes of so many windows; 0: one case a pass.")
    ] = 0,
    maps: Annotated[bool, typer.Option("--maps/--no-maps", help="Write attribution maps.")] = True,
    limit: Annotated[int | None, typer.Option(help="Only the first so many cases.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Score again what is already scored.")] = False,
) -> None:
    """Score a folder of slides: predictions per case and patient, and maps of why. Resumes when repeated."""
    from pipelines.score import ScoreOptions
    from pipelines.score import score as run

    options = ScoreOptions(
        cohort=cohort,
        stores=stores,
        mpp=_mpp(mpp),
        mpp_csv=mpp_csv,
        workers=workers,
        scheduler=scheduler,
        device=device.value,
        precision=precision.value,
        threads=threads,
        pack_windows=pack_windows,
        memory_gb=memory_gb,
        operating_point=operating_point,
        abstain=abstain,
        patient_rule=patient_rule.value,
        maps=maps,
        force=force,
        limit=limit,
    )
    result = run(sources, model, output, options)
    failed = len(result.failures)
    typer.echo(f"{len(result.records) - failed} cases scored, {failed} not: {output / 'predictions.csv'}")
    for record in result.failures[:10]:
        typer.echo(f"  {record.image_id}: {record.error}", err=True)
    if failed > 10:
        typer.echo(f"  ... and {failed - 10} more in {output / 'failures.csv'}", err=True)
    if result.exit_code != ExitCode.OK:
        raise typer.Exit(result.exit_code)


def _mpp(text: str | None) -> float | Literal["native"] | None:
    if text is None:
        return None
    if text == "native":
        return "native"
    try:
        return float(text)
    except ValueError as error:
        raise UsageError("--mpp", f"'{text}' is not a number", "give um/px, or 'native'") from error
