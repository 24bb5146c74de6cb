"""`atlas-path heatmap SCORES`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from atlas_path.errors import ExitCode


class Method(StrEnum):
    """Kind of map."""

    contribution = "contribution"
    attention = "attention"
    ig = "ig"
    occlusion = "occlusion"


class FormatName(StrEnum):
    """What can be written of an image."""

    png = "png"
    sheet = "sheet"
    csv = "csv"
    geojson = "geojson"
    ome_zarr = "ome-zarr"
    ome_tiff = "ome-tiff"


class Device(StrEnum):
    """Where the model runs, for maps that need it."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def heatmap(
    scores: Annotated[Path, typer.Argument(help="Folder written by `score`.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write. Default: SCORES/heatmaps.")
    ] = None,
    method: Annotated[
        Method,
        typer.Option(help="contribution: why the model decided. attention: a diagnostic only."),
    ] = Method.contribution,
    label: Annotated[
        str | None, typer.Option("--class", help="Class to explain. Default: positive or predicted class.")
    ] = None,
    formats: Annotated[
        list[FormatName] | None, typer.Option("--format", help="Only these (repeat). Default: all.")
    ] = None,
    case: Annotated[list[str] | None, typer.Option(help="Only these cases (repeat).")] = None,
    stores: Annotated[Path | None, typer.Option(help="Where the stores are, if they were moved.")] = None,
    model: Annotated[Path | None, typer.Option(help="Run folder, if it was moved.")] = None,
    limit: Annotated[
        float | None, typer.Option(help="Full colour, logit per square mm. Default: from the cohort.")
    ] = None,
    top: Annotated[int, typer.Option(help="Windows of each kind on the contact sheet.")] = 8,
    truth: Annotated[
        Path | None, typer.Option(help="Lesions: CSV (slide_id,x,y,width,height) or GeoJSON; adds FROC.")
    ] = None,
    test_seconds: Annotated[
        float, typer.Option(help="Time for the deletion and insertion test of a case; 0: none.")
    ] = 20.0,
    device: Annotated[Device, typer.Option(help="For maps that need the model.")] = Device.auto,
) -> None:
    """Show why: overlays, contact sheets, and layers for QuPath, OMERO and napari, from stored maps."""
    from pipelines.heatmap import FORMATS, HeatmapOptions
    from pipelines.heatmap import heatmap as run

    options = HeatmapOptions(
        out=output,
        method=method.value,
        label=label,
        formats=tuple(f.value for f in formats) if formats else FORMATS,
        cases=tuple(case or ()),
        stores=stores,
        model=model,
        limit=limit,
        top_windows=top,
        device=device.value,
        truth=truth,
        faithfulness_seconds=test_seconds,
    )
    result = run(scores, options)
    failed = len(result.failures)
    where = output or scores / "heatmaps"
    typer.echo(f"{len(result.records) - failed} images written to {where}, {failed} not")
    for record in result.failures[:10]:
        typer.echo(f"  {record.image_id}: {record.error}", err=True)
    if result.exit_code != ExitCode.OK:
        raise typer.Exit(result.exit_code)
