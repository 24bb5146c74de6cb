"""The order of training and the loader that keeps up with it.

The plan of an epoch is a pure function of (seed, epoch): steps of `cases_per_step` cases, divided over
processes and packed into passes. A run resumes by building the same plan and skipping to its cursor.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from atlas import WindowBatch
from atlas_path.cohort import Targets
from atlas_path.config import TrainConfig
from pipelines.augment import case_rng, load_augmented
from pipelines.data import WindowReader, pack, read_case, stack_targets
from pipelines.data_cases import CaseRef


@dataclass(frozen=True)
class PassSpec:
    """One forward pass: which cases, with which weight in the loss of their step."""

    epoch: int
    step: int
    case_ids: tuple[str, ...]
    weights: tuple[float, ...]
    last_of_step: bool
    train: bool = True


@dataclass
class LoadedPass:
    """A pass with its pixels and targets."""

    spec: PassSpec
    batch: WindowBatch
    target: Tensor
    known: Tensor
    weight_B: Tensor
    read_s: float = 0.0

    def pin_memory(self) -> LoadedPass:
        return replace(self, batch=self.batch.pin_memory(), target=self.target.pin_memory())


def epoch_order(n: int, seed: int, epoch: int, probabilities: np.ndarray | None = None) -> np.ndarray:
    """Order of case indices in an epoch: a permutation, or n draws when probabilities are given."""
    rng = np.random.default_rng([seed, epoch, 0x0D])
    if probabilities is None:
        return rng.permutation(n)
    # systematic draws: every case appears floor or ceil of its expected number of times
    marks = (np.arange(n) + rng.uniform()) / n
    return rng.permutation(
        np.searchsorted(np.cumsum(probabilities / probabilities.sum()), marks).clip(0, n - 1)
    )


def plan_epoch(
    case_ids: Sequence[str],
    sizes: Sequence[int],
    weights: Sequence[float],
    config: TrainConfig,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    probabilities: np.ndarray | None = None,
    strata: Sequence[str] | None = None,
) -> list[PassSpec]:
    """Passes of one epoch for one process.

    Every step holds `cases_per_step` cases over all processes (the last one may hold fewer); process r takes
    cases r, r + world, ...; weights sum to at most 1 over a step, so that gradients add up to the mean. A
    process without a case in the last step repeats its first one with weight 0.

    Args:
        case_ids: training cases.
        sizes: windows of each case after dropping (upper bound).
        weights: loss weight of each case, 1 on average.
        strata: class of each case; every step then holds the classes in about their shares of the cohort.
            Steps of one class alone push the bias of the whole model, not the evidence, and a slide model
            trained from pixels often does not recover from it.
    """
    order = epoch_order(len(case_ids), config.runtime.seed, epoch, probabilities)
    if strata is not None and probabilities is None:
        order = _spread(order, strata)
    per_step = config.optim.cases_per_step
    passes: list[PassSpec] = []
    for step, start in enumerate(range(0, len(order), per_step)):
        block = order[start : start + per_step]
        mine = block[rank::world]
        share = [float(weights[i]) / len(block) for i in mine]
        if not len(mine):
            mine, share = block[:1], [0.0]
        groups = _pack_groups(
            [sizes[i] for i in mine], config.optim.cases_per_pass, config.optim.windows_per_pass
        )
        for k, group in enumerate(groups):
            passes.append(
                PassSpec(
                    epoch=epoch,
                    step=step,
                    case_ids=tuple(case_ids[mine[i]] for i in group),
                    weights=tuple(share[i] for i in group),
                    last_of_step=k == len(groups) - 1,
                )
            )
    return passes


def _spread(order: np.ndarray, strata: Sequence[str]) -> np.ndarray:
    """The same cases, each class spread evenly over the epoch and otherwise in the order given."""
    totals = Counter(strata[i] for i in order)
    seen: Counter[str] = Counter()
    position: dict[int, float] = {}
    for i in order:
        position[i] = (seen[strata[i]] + 0.5) / totals[strata[i]]
        seen[strata[i]] += 1
    return np.asarray(sorted(order, key=position.__getitem__))


def plan_tuning(case_ids: Sequence[str], sizes: Sequence[int], config: TrainConfig) -> list[PassSpec]:
    """All cases in order, packed, without augmentation."""
    groups = _pack_groups(sizes, config.optim.cases_per_pass, config.optim.windows_per_pass)
    return [
        PassSpec(0, k, tuple(case_ids[i] for i in group), (1.0,) * len(group), True, train=False)
        for k, group in enumerate(groups)
    ]


def _pack_groups(sizes: Sequence[int], most_cases: int, most_windows: int) -> list[list[int]]:
    groups: list[list[int]] = []
    room = 0
    for i, size in enumerate(sizes):
        if groups and len(groups[-1]) < most_cases and size <= room:
            groups[-1].append(i)
        else:
            groups.append([i])
            room = most_windows
        room -= size
    return groups


class PassDataset(Dataset[LoadedPass]):
    """Builds the pass of a `PassSpec`; the spec itself is the index, so workers hold no order."""

    def __init__(
        self, cases: dict[str, CaseRef], targets: Targets, config: TrainConfig, with_kinds: bool
    ) -> None:
        self.cases, self.targets, self.config, self.with_kinds = cases, targets, config, with_kinds
        self._reader: WindowReader | None = None

    @property
    def reader(self) -> WindowReader:
        """Opened in the process that reads, never before."""
        if self._reader is None:
            budget = self.config.data.cache_gb * 2**30 / max(1, self.config.data.workers)
            self._reader = WindowReader(int(budget))
        return self._reader

    def __getitem__(self, spec: PassSpec) -> LoadedPass:
        started = time.perf_counter()
        seed = self.config.runtime.seed
        loaded = []
        for case_id in spec.case_ids:
            case = self.cases[case_id]
            if spec.train:
                rng = case_rng(seed, spec.epoch, case_id)
                alone = spec.epoch < self.config.optim.window_epochs
                loaded.append(load_augmented(self.reader, case, self.config, rng, alone))
            else:
                loaded.append(read_case(self.reader, case))
        value, known = stack_targets(self.targets, spec.case_ids)
        batch = pack(loaded, self.with_kinds)
        weight_B = torch.tensor(spec.weights, dtype=torch.float32)
        return LoadedPass(spec, batch, value, known, weight_B, time.perf_counter() - started)


class PassLoader:
    """Iterates over passes with reading ahead, by one thread or by worker processes.

    `waited_s` sums the time the consumer stood still: divided by the time of a step it is the starvation.
    """

    def __init__(self, dataset: PassDataset, pin_memory: bool = False) -> None:
        self.dataset = dataset
        self.waited_s = 0.0
        self.n_windows = 0
        self._order = _Order()
        self._workers: DataLoader[LoadedPass] | None = None
        data = dataset.config.data
        if data.workers:
            self._workers = DataLoader(
                dataset,
                batch_size=None,
                sampler=self._order,
                num_workers=data.workers,
                prefetch_factor=data.prefetch,
                persistent_workers=True,
                multiprocessing_context="forkserver",
                pin_memory=pin_memory,
                worker_init_fn=_one_thread,
            )

    def run(self, passes: Sequence[PassSpec]) -> Iterator[LoadedPass]:
        """The passes in order, read ahead; abandoning the iterator stops the reading."""
        self._order.passes = list(passes)
        source = iter(self._workers) if self._workers is not None else self._threaded(passes)
        while True:
            started = time.perf_counter()
            loaded = next(source, None)
            self.waited_s += time.perf_counter() - started
            if loaded is None:
                return
            self.n_windows += len(loaded.batch)
            yield loaded

    def _threaded(self, passes: Sequence[PassSpec]) -> Iterator[LoadedPass]:
        ahead: queue.Queue[LoadedPass | BaseException | None] = queue.Queue(self.dataset.config.data.prefetch)
        stop = threading.Event()

        def put(item: LoadedPass | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return ahead.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for spec in passes:
                    if stop.is_set():
                        return
                    put(self.dataset[spec])
                put(None)
            except BaseException as error:  # noqa: BLE001 - raised again in the consumer
                put(error)

        thread = threading.Thread(target=work, name="window-reader", daemon=True)
        thread.start()
        try:
            while (item := ahead.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()


class _Order(Sampler[PassSpec]):
    def __init__(self) -> None:
        self.passes: list[PassSpec] = []

    def __iter__(self) -> Iterator[PassSpec]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
