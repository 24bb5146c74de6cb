"""`atlas-path`: one command a stage."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from atlas_path import RESEARCH_USE_ONLY, __version__
from atlas_path.cli.demo import demo
from atlas_path.cli.doctor import doctor
from atlas_path.cli.evaluate import evaluate
from atlas_path.cli.exams import exams
from atlas_path.cli.heatmap import heatmap
from atlas_path.cli.info import info
from atlas_path.cli.init import init
from atlas_path.cli.preprocess import preprocess
from atlas_path.cli.pretrain import pretrain
from atlas_path.cli.score import score
from atlas_path.cli.status import status
from atlas_path.cli.train import train
from atlas_path.cli.verify import verify
from atlas_path.errors import AtlasPathError, ExitCode

app = typer.Typer(
    name="atlas-path",
    help=f"Gigapixel medical imaging, end to end on pixels. {RESEARCH_USE_ONLY}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"atlas-path {__version__} (not AtlasPatch). {RESEARCH_USE_ONLY}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before the command."""


# the stages in their order, then what helps around them
app.command()(exams)
app.command()(preprocess)
app.command()(pretrain)
app.command()(train)
app.command()(score)
app.command()(heatmap)
app.command()(evaluate)
app.command()(init)
app.command()(info)
app.command()(doctor)
app.command()(demo)
app.command()(status)
app.command()(verify)


def main() -> None:
    """Run the command line; errors a user can act on become one line and an exit code."""
    # Threads that wait must sleep: spinning OpenMP threads make a shared machine several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large tensors on huge pages: a page fault costs 3 us, and streaming over a slide makes millions of them.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # schedulers ask to stop with SIGTERM
    try:
        app()
    except AtlasPathError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(ExitCode.USAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a closed pager is not an error
        sys.exit(ExitCode.OK)
    except SystemExit as stop:
        if stop.code == ExitCode.INTERRUPTED:
            typer.echo("interrupted; run the same command again to go on where it stopped", err=True)
        raise


if __name__ == "__main__":
    main()
