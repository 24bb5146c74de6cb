"""Small work beside the large: pictures for people are drawn while pixels are already being written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self


class Aside:
    """Runs calls one after the other on a thread of its own.

    Leaving the `with` waits for all of them, and raises the first error of one unless another error is on its
    way already.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._calls: list[Future[Any]] = []

    def submit(self, work: Callable[..., Any], *args: Any) -> None:
        """Do this when what was submitted before is done."""
        self._calls.append(self._thread.submit(work, *args))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            for call in self._calls:
                call.result()
