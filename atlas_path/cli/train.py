"""`atlas-path train COHORT.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas_path.errors import ExitCode


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run; see configs/ or `atlas-path init`.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: --set optim.lr=1e-4. Repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, splits and an estimate; train nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Throw an earlier run of this name away.")] = False,
) -> None:
    """Train a model on a cohort of stores. The same command again resumes a stopped run."""
    from atlas_path.config import load_train_config

    settings = load_train_config(config, set_ or [])
    if dry_run:
        from pipelines.train_estimate import dry_run_report

        typer.echo(dry_run_report(settings))
        return
    from pipelines.train import train as run

    run_dir = run(settings, force=force)
    typer.echo(str(run_dir))
    if (run_dir / "left_out.csv").exists():
        raise typer.Exit(ExitCode.SOME_FAILED)
