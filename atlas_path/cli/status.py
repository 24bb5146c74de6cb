"""`atlas-path status STORES`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas_path.errors import ExitCode


def status(
    stores: Annotated[Path, typer.Argument(help="Folder that preprocess wrote.")],
    sources: Annotated[
        bool, typer.Option("--sources/--no-sources", help="Compare with the slides where they are found.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an image.")] = False,
) -> None:
    """Say of each image why it is done, stale, failed or incomplete."""
    import json
    from collections import Counter
    from dataclasses import asdict

    from pipelines.preprocess_status import status as run

    images = run(stores, sources)
    for image in images:
        typer.echo(json.dumps(asdict(image)) if as_json else f"{image.image_id}: {image.state}: {image.why}")
    if not as_json:
        counts = Counter(image.state for image in images)
        typer.echo(", ".join(f"{n} {state}" for state, n in counts.most_common()) or "no images")
    code = ExitCode.of_batch(sum(image.ok for image in images), sum(not image.ok for image in images))
    if code != ExitCode.OK:
        raise typer.Exit(code)
