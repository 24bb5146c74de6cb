"""`atlas-path doctor`: is this machine fit for the work?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    folder: Annotated[Path, typer.Option("--folder", help="Folder for the disk and write test.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check versions, OpenSlide and its pixman, codecs, CPU and GPU, free disk; exit code 4 on a fault."""
    from atlas_path.errors import ExitCode
    from pipelines.doctor import examine

    findings = examine(folder)
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        colours = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "fault": typer.colors.RED}
        for finding in findings:
            mark = typer.style(f"{finding.verdict:8s}", fg=colours.get(finding.verdict))
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            typer.echo(f"{mark} {finding.topic:22s} {finding.found}{remedy}")
    if any(finding.verdict == "fault" for finding in findings):
        raise typer.Exit(ExitCode.ALL_FAILED)
