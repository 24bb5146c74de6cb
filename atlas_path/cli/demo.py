"""`atlas-path demo`: the main job on slides it makes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything the demo makes.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same slides and same result.")] = 0,
    slides: Annotated[int, typer.Option(min=24, help="How many slides to make.")] = 48,
    mammo: Annotated[
        bool, typer.Option("--mammo", help="Mammography: exams of four views, made as DICOM files.")
    ] = False,
) -> None:
    """Make slides with hidden lesions, then preprocess, train, score, heatmap, evaluate. Works offline."""
    from pipelines.demo import run_demo, say_result

    if mammo:
        from pipelines.demo_mammo import run_mammo_demo

        say_result(run_mammo_demo(output, seed), typer.echo)
        return
    say_result(run_demo(output, seed, slides), typer.echo)
