"""Ctrl-C and SIGTERM as a request: the work in hand is saved first; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from atlas_path.progress import say


class StopSignal:
    """Context manager; `requested` turns true at the first SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        say("stopping: saving a checkpoint after this step (once more to stop at once)")
