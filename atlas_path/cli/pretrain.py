"""`atlas-path pretrain COHORT.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    config: Annotated[Path, typer.Argument(help="YAML file of the run that will use it.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting: --set pretrain.epochs=5. Repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do it again.")] = False,
) -> None:
    """Teach the stem the cohort's tissue without labels; use the result with model.init_from."""
    from atlas_path.config import load_train_config

    settings = load_train_config(config, set_ or [])
    from pipelines.pretrain import pretrain as run

    typer.echo(str(run(settings, force=force)))
