"""`atlas-path exams`: folders of mammograms to a de-identified cohort of exams."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas_path.errors import UsageError


def exams(
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of DICOM files, or of films with a mammograms.csv.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tables.")] = Path("exams"),
    mirai: Annotated[Path | None, typer.Option(help="A Mirai CSV in the place of folders.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels by study_uid, accession or patient_id; see docs/mammography.md."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Label column in which shortcuts are looked for, e.g. cancer.")
    ] = None,
    unit: Annotated[str, typer.Option(help="What a case is: 'exam' or 'breast'.")] = "exam",
    views: Annotated[
        str, typer.Option(help="'standard' (CC and MLO, no work-up views) or 'all'.")
    ] = "standard",
    one_per_view: Annotated[
        bool, typer.Option("--one-per-view", help="Keep one image of a view; otherwise all.")
    ] = False,
    stores: Annotated[
        Path | None, typer.Option(help="Stores already made: finds pictures that occur twice.")
    ] = None,
    for_processing: Annotated[
        bool, typer.Option("--accept-for-processing", help="Take raw (FOR PROCESSING) images too.")
    ] = False,
) -> None:
    """Read mammogram headers; write a cohort without identifiers, exclusions, flow counts and leaks."""
    from atlas_path.slides.mammo_options import MammoOptions
    from pipelines.exams import ExamOptions, make_exams

    if unit not in ("exam", "breast"):
        raise UsageError("--unit", f"'{unit}' is not a unit", "use exam or breast")
    if views not in ("standard", "all"):
        raise UsageError("--views", f"'{views}' is not a choice", "use standard or all")
    if not inputs and mirai is None:
        raise UsageError("exams", "nothing to read", "name folders of mammograms, or --mirai TABLE")
    options = ExamOptions(
        labels=labels,
        label=label,
        views="all" if views == "all" else "standard",
        one_per_view=one_per_view,
        unit="breast" if unit == "breast" else "exam",
        stores=stores,
        mammo=MammoOptions(for_processing="accept" if for_processing else "refuse"),
    )
    result = make_exams(inputs or [], output, options, mirai)
    flow = result.flow
    typer.echo(
        f"{flow['exams']} exams of {flow['patients']} women, {flow['images']} images"
        f" ({sum(flow['excluded'].values())} left out) -> {result.cohort}"
    )
    typer.echo(f"the way back to files and people, for you alone: {result.private}")
    if result.exit_code:
        raise typer.Exit(int(result.exit_code))
