"""Where the work is done: in this process, in worker processes of a Dask `LocalCluster`, or on a cluster.

One slide is one task. Dask's own limits apply: a task whose worker dies once is given up (`allowed-failures`
1), so that a slide that kills its worker is set aside instead of killing the next ones. No task returns more
than a small record, and no task lasts for one tile only.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from atlas_path.errors import UsageError

CONNECT_TIMEOUT_S = 30


class Workers(Protocol):
    """Something that runs functions elsewhere."""

    @property
    def n_workers(self) -> int:
        """How many tasks run at a time."""

    @property
    def threads(self) -> int:
        """How many threads one task may use."""

    @property
    def dashboard(self) -> str | None:
        """Address of the dashboard, if there is one."""

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run `work(*args)`; the future ends with its result or its error."""


@dataclass
class InProcess:
    """No processes: one task at a time in the caller, with all its threads."""

    threads: int
    n_workers: int = 1
    dashboard: str | None = None

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """See `Workers`. The work is done before this returns."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args))
        except Exception as error:  # noqa: BLE001 - it is raised again by `future.result()`
            future.set_exception(error)
        return future


@dataclass
class DaskWorkers:
    """A Dask client, seen through `concurrent.futures`."""

    client: Any
    threads: int
    waiters: ThreadPoolExecutor

    @property
    def n_workers(self) -> int:
        """See `Workers`."""
        return max(1, sum(int(n) for n in self.client.nthreads().values()))

    @property
    def dashboard(self) -> str | None:
        """See `Workers`."""
        return str(self.client.dashboard_link) if self.client.dashboard_link else None

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """See `Workers`."""
        task = self.client.submit(work, *args, pure=False, retries=0)
        return self.waiters.submit(_result_of, task)


@contextmanager
def workers(n_workers: int | None, n_items: int, scheduler: str | None) -> Iterator[Workers]:
    """Start (or connect to) workers for `n_items` images.

    Args:
        n_workers: processes; 0 for none; None decides: none for one image, else at most one a core.
        n_items: images to process.
        scheduler: 'tcp://host:8786', 'tls://...' or a scheduler file; then nothing is started here.

    Raises:
        UsageError: the scheduler cannot be reached.
    """
    cores = available_cores()
    if scheduler is not None:
        with _connect(scheduler) as client:
            yield from _on(client, threads=1)
        return
    n = min(cores, n_items) if n_workers is None else n_workers
    if n == 0 or (n_workers is None and n <= 1):
        yield InProcess(threads=cores)
        return
    with _local_cluster(n) as client:
        yield from _on(client, threads=max(1, cores // n))


@contextmanager
def performance_report(pool: Workers, out: Path, wanted: bool) -> Iterator[None]:
    """Write Dask's report of the tasks within to `<out>/runs/<utc>-dask.html`, when wanted.

    Raises:
        UsageError: there is no Dask in this run, or bokeh is missing.
    """
    if not wanted:
        yield
        return
    if not isinstance(pool, DaskWorkers):
        raise UsageError("--report", "this run uses no Dask workers", "add --workers 1 or more")
    if importlib.util.find_spec("bokeh") is None:
        raise UsageError("--report", "Dask draws its report with bokeh", "pip install 'atlas-path[report]'")
    from distributed import performance_report as dask_report

    path = out / "runs" / time.strftime("%Y%m%dT%H%M%SZ-dask.html", time.gmtime())
    path.parent.mkdir(parents=True, exist_ok=True)
    with pool.client.as_current(), dask_report(filename=str(path)):
        yield


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on(client: Any, threads: int) -> Iterator[DaskWorkers]:
    waiters = ThreadPoolExecutor(max_workers=256, thread_name_prefix="waiting")
    try:
        yield DaskWorkers(client, threads, waiters)
    finally:
        waiters.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _local_cluster(n_workers: int) -> Iterator[Any]:
    """Worker processes on this machine, reachable from this machine only."""
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.daemon": True,
        "distributed.worker.memory.target": False,  # results are small records: nothing to spill
        "distributed.worker.memory.spill": False,
        "distributed.comm.timeouts.connect": f"{CONNECT_TIMEOUT_S}s",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _connect(scheduler: str) -> Iterator[Any]:
    from distributed import Client

    how = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        client = Client(**how, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            scheduler, f"no Dask scheduler answers there ({error})", "check the address"
        ) from error
    with client:
        yield client


def _result_of(task: Any) -> Any:
    return task.result()
