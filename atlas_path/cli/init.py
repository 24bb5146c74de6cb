"""`atlas-path init COHORT.csv`: a commented run file from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas_path.errors import UsageError


def init(
    table: Annotated[Path, typer.Argument(help="Cohort table (CSV or Parquet), one row an image.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the YAML.")] = Path(
        "train.yaml"
    ),
    label: Annotated[
        str | None, typer.Option(help="Label column; guessed when there is one candidate.")
    ] = None,
    stores: Annotated[Path | None, typer.Option(help="Folder that `preprocess` wrote.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented run file for a cohort table: task, columns, splits."""
    from atlas_path.cohort.starter import starter_yaml

    if output.exists() and not force:
        raise UsageError(output, "exists", "choose another --output or use --force")
    text = starter_yaml(table, output.parent, label, stores)
    output.write_text(text, encoding="utf-8")
    typer.echo(str(output))
