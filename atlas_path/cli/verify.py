"""`atlas-path verify STORES`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas_path.errors import ExitCode


def verify(
    stores: Annotated[list[Path], typer.Argument(help="Stores, or folders of stores.")],
    full: Annotated[
        bool, typer.Option("--full", help="Read every file and decode every chunk, not a sample.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a store.")] = False,
) -> None:
    """Check that stores are still what was written: files, sizes, chunk counts, checksums."""
    import json
    from dataclasses import asdict

    from pipelines.preprocess_status import verify as run

    n_ok = n_bad = 0
    for verdict in run(stores, full):
        n_ok, n_bad = n_ok + verdict.ok, n_bad + (not verdict.ok)
        if as_json:
            typer.echo(json.dumps({**asdict(verdict), "path": str(verdict.path), "ok": verdict.ok}))
        elif verdict.ok:
            decoded = f", {verdict.n_decoded} decoded" if full else ""
            typer.echo(
                f"{verdict.path}: whole ({verdict.n_files} files, {verdict.n_checksums} checksums, "
                f"{verdict.n_chunks} chunks{decoded})"
            )
        else:
            more = f" (and {len(verdict.faults) - 3} more)" if len(verdict.faults) > 3 else ""
            typer.echo(
                f"{verdict.path}: {'; '.join(verdict.faults[:3])}{more}; delete it and run preprocess again"
            )
    code = ExitCode.of_batch(n_ok, n_bad)
    if code != ExitCode.OK:
        raise typer.Exit(code)
