"""Progress for people: a rich bar on a terminal, plain lines otherwise (at most one every few seconds)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str, int], None]
PLAIN_LINE_EVERY_S = 5.0


def say(line: str) -> None:
    """One line of information on standard error, where progress and warnings go."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Yield `advance(note, steps)`; call it after every finished item.

    On a terminal a bar with time left is drawn; otherwise a line such as `preprocess 3/24 slide_03 (12.1 s)`.
    """
    if sys.stderr.isatty():
        yield from _bar(title, total)
    else:
        yield from _lines(title, total)


def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda note, steps: bar.update(task, advance=steps, note=note)


def _lines(title: str, total: int) -> Iterator[Advance]:
    started = time.monotonic()
    done, last_line = 0, 0.0

    def advance(note: str, steps: int) -> None:
        nonlocal done, last_line
        done += steps
        now = time.monotonic()
        if done >= total or now - last_line >= PLAIN_LINE_EVERY_S:
            last_line = now
            say(f"{title} {done}/{total} {note} ({now - started:.1f} s)")

    yield advance
