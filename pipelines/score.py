"""`score`: a folder of slides, stores or both to predictions, with the maps that made them.

Slides are preprocessed and windows read in the background while the model runs. Every case is scored by
itself (the same numbers whatever else is in the folder), checked (contributions add up to the logit), guarded
(is it like the training images? was it one of them?) and recorded, so that a second run goes on where one
stopped.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from atlas_path.errors import AtlasPathError, ExitCode, UsageError
from atlas_path.progress import progress, say
from atlas_path.store import PreprocessOptions
from atlas_path.store.commit import store_path, sweep
from pipelines.cluster import Workers, available_cores, workers
from pipelines.data import pack
from pipelines.ensemble import Ensemble, load_ensemble
from pipelines.score_case import (
    CaseRecord,
    Judgement,
    case_key,
    case_pixels,
    finish_case,
    read_record,
)
from pipelines.score_feed import Feed, FeedOptions, ImageFault, ReadyCase
from pipelines.score_plan import PlannedCase, plan_cases
from pipelines.score_tables import Outcome, write_tables
from pipelines.work import BatchResult, ImageRecord, update_manifest

DEFAULT_STORE_MPP = 0.5


class ScoreOptions(BaseModel):
    """Options of `score`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cohort: Path | None = Field(
        default=None, description="table of cases with several images; labels are not needed"
    )
    stores: Path | None = Field(
        default=None, description="where stores of raw slides go; default: <out>/stores"
    )
    mpp: float | Literal["native"] | None = Field(
        default=None, description="finest resolution of those stores; default: that of the training stores"
    )
    mpp_csv: Path | None = Field(
        default=None, description="table with columns wsi, mpp for slides that do not say"
    )
    workers: int | None = Field(default=None, ge=0, description="worker processes that preprocess raw slides")
    scheduler: str | None = Field(default=None, description="address of a running Dask scheduler")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 autocast on CUDA, as in training"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of the model; default: all cores"
    )
    pack_windows: int = Field(
        default=0,
        ge=0,
        description="pack small cases into one pass of up to so many windows; 0: one case a pass",
    )
    memory_gb: float = Field(default=4.0, gt=0, description="decoded windows that may wait in memory")
    operating_point: str | None = Field(
        default=None, description="name of the threshold; default: the model's first"
    )
    abstain: bool = Field(default=False, description="no prediction for cases unlike the training images")
    patient_rule: Literal["mean", "max"] = Field(
        default="mean", description="how a patient's cases are combined"
    )
    maps: bool = Field(default=True, description="write attribution maps")
    force: bool = Field(default=False, description="score again what is already scored")
    limit: int | None = Field(default=None, ge=1, description="only the first so many cases")


def score(sources: Sequence[Path], model_dir: Path, out: Path, options: ScoreOptions) -> BatchResult:
    """Score every case found in `sources` with the model (or the folds) of `model_dir`.

    Writes what `atlas_path.results` describes. A case that cannot be scored becomes a row with its reason. On
    an interrupt the tables hold what is finished and the exit code is 130.

    Returns:
        One record a case (its id as `image_id`), and the exit code.

    Raises:
        UsageError: nothing to score, or an option that cannot be used.
        ModelError: the model cannot be used.
        CohortError: the cohort table is faulty.
    """
    started = time.perf_counter()
    ensemble = load_ensemble(model_dir, *_device(options))
    _check_operating_point(ensemble, options.operating_point)
    cases = plan_cases(sources, options.cohort, out)[: options.limit]
    out.mkdir(parents=True, exist_ok=True)
    judgement = Judgement(options.operating_point, options.abstain, options.maps)
    run = _Run(out, ensemble, judgement, options)
    interrupted = False
    try:
        run.score_all(cases)
    except KeyboardInterrupt:
        interrupted = True
        say("interrupted; writing what is finished")
    run.seconds["model"] = ensemble.model_seconds
    run.seconds["total"] = time.perf_counter() - started
    write_tables(out, cases, run.outcomes, ensemble, options.model_dump(mode="json"), model_dir, run.seconds)
    result = BatchResult.of([_record(case, run.outcomes.get(case.case_id)) for case in cases])
    if interrupted:
        result.exit_code = ExitCode.INTERRUPTED
    elif any(outcome.faults for outcome in run.outcomes.values()) and result.exit_code == ExitCode.OK:
        result.exit_code = ExitCode.SOME_FAILED
    return result


class _Run:
    """One run: what came out so far and where the time went."""

    def __init__(self, out: Path, ensemble: Ensemble, judgement: Judgement, options: ScoreOptions) -> None:
        self.out, self.ensemble, self.judgement, self.options = out, ensemble, judgement, options
        self.outcomes: dict[str, Outcome] = {}
        self.seconds: dict[str, float] = {"write": 0.0}

    def score_all(self, cases: Sequence[PlannedCase]) -> None:
        with (
            self._pool(cases) as pool,
            Feed(cases, self._feed_options(), pool, self._wanted) as feed,
            progress("score", len(cases)) as advance,
        ):
            waiting: list[ReadyCase] = []
            try:
                for case in feed:
                    if case.pixels_NCHW is None:
                        self._without_scoring(case)
                        advance(case.plan.case_id, 1)
                        continue
                    waiting.append(case)
                    if self._windows(waiting) >= self.options.pack_windows:
                        self._score(waiting, feed, advance)
                        waiting = []
                self._score(waiting, feed, advance)
            finally:
                if feed.records:
                    update_manifest(self._stores(), feed.records)
                self.seconds |= {
                    "preprocess": feed.preprocess_seconds,
                    "read": feed.read_seconds,
                    "waiting": feed.waited_seconds,
                }

    @staticmethod
    def _windows(cases: Sequence[ReadyCase]) -> int:
        return sum(image.ref.n_windows for case in cases for image in case.images)

    def _score(self, cases: list[ReadyCase], feed: Feed, advance: Any) -> None:
        """One forward pass over the cases given; a pass that fails is tried again case by case."""
        if not cases:
            return
        try:
            answers = self._answers(cases)
        except (RuntimeError, ValueError) as error:
            if len(cases) > 1:
                for case in cases:
                    self._score([case], feed, advance)
                return
            self._failed(cases[0], error)
            feed.release(cases[0])
            advance(cases[0].plan.case_id, 1)
            return
        for case, (results, maps) in zip(cases, answers, strict=True):
            started = time.perf_counter()
            try:
                record = finish_case(self.out, case, results, maps, self.ensemble, self.judgement)
                self.outcomes[case.plan.case_id] = Outcome(record, case.faults)
            except AtlasPathError as error:
                self._failed(case, error)
            self.seconds["write"] += time.perf_counter() - started
            feed.release(case)
            advance(case.plan.case_id, 1)

    def _answers(self, cases: Sequence[ReadyCase]) -> Any:
        with_kinds = bool(self.ensemble.members[0].model.cfg.image_kinds)
        batch = pack([case_pixels(case) for case in cases], with_kinds)
        return self.ensemble.run(batch, maps=True)

    def _wanted(self, case: ReadyCase) -> bool:
        """Whether the case has to be scored (asked in the reader thread)."""
        return self.options.force or self._recorded(case) is None

    def _recorded(self, case: ReadyCase) -> CaseRecord | None:
        key = case_key(case, self.ensemble, self.judgement)
        return read_record(self.out, case.plan.case_id, key)

    def _without_scoring(self, case: ReadyCase) -> None:
        """A case that is already scored, or none of whose images can be used."""
        record = self._recorded(case) if case.images else None
        self.outcomes[case.plan.case_id] = Outcome(record, case.faults)

    def _failed(self, case: ReadyCase, error: Exception) -> None:
        fault = ImageFault.of(case.plan.case_id, error)
        if isinstance(error, torch.OutOfMemoryError):
            text = "the model ran out of memory; use a smaller model, a coarser one, or another device"
            fault = ImageFault(case.plan.case_id, "failed", "out_of_memory", text)
        self.outcomes[case.plan.case_id] = Outcome(None, [*case.faults, fault])

    def _stores(self) -> Path:
        return self.options.stores or self.out / "stores"

    @contextmanager
    def _pool(self, cases: Sequence[PlannedCase]) -> Iterator[Workers | None]:
        slides = {image.image_id for case in cases for image in case.images if image.slide}
        if not slides:
            yield None
            return
        stores = self._stores()
        stores.mkdir(parents=True, exist_ok=True)
        sweep(stores)
        missing = sum(not store_path(stores, image_id).exists() for image_id in slides)
        chosen = (self.options.workers, self.options.scheduler)
        n_workers, scheduler = chosen if missing else (0, None)  # none to see that all stores are there
        with workers(n_workers, missing, scheduler) as pool:
            yield pool

    def _feed_options(self) -> FeedOptions:
        options, model = self.options, self.ensemble
        mpp = options.mpp if options.mpp is not None else training_store_mpp(model.folder, model.mpp)
        return FeedOptions(
            mpp=model.mpp,
            min_tissue=model.min_tissue,
            n_channels=model.members[0].model.cfg.in_channels,
            image_kinds=model.info.get("image_kinds") or {},
            stores=self._stores(),
            preprocess=PreprocessOptions.model_validate({"mpp": mpp, "mpp_csv": options.mpp_csv}),
            budget_bytes=int(options.memory_gb * 1e9),
            voi=model.info.get("voi"),
        )


def training_store_mpp(run: Path, model_mpp: float) -> float:
    """The `--mpp` of the stores the model was trained on, so that slides are prepared the same way.

    Read from `cohort.lock.csv`: what most stores were made with, or, for native stores, the finest resolution
    that the level used most implies; without it 0.5 um/px where the model's resolution is a power of two of
    it, else the model's own.
    """
    lock = run / "cohort.lock.csv"
    if lock.is_file():
        with lock.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row.get("level")]
        made_with = Counter(row.get("store_mpp") or "native" for row in rows).most_common(1)
        if made_with and made_with[0][0] != "native":
            return float(made_with[0][0])
        if rows:
            level = Counter(row["level"] for row in rows).most_common(1)[0][0]
            return model_mpp / 2.0 ** int(level)
    ratio = model_mpp / DEFAULT_STORE_MPP
    return DEFAULT_STORE_MPP if ratio in (1.0, 2.0, 4.0, 8.0, 16.0) else model_mpp


def _device(options: ScoreOptions) -> tuple[torch.device, bool]:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda", "torch sees no GPU", "use --device auto")
    name = "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    if name == "cpu":
        torch.set_num_threads(options.threads or available_cores())
    bfloat16 = options.precision == "bfloat16" or (options.precision == "auto" and name == "cuda")
    return torch.device(name), bfloat16


def _check_operating_point(ensemble: Ensemble, name: str | None) -> None:
    known = sorted({point.name for point in ensemble.points})
    if name is not None and name not in known:
        raise UsageError(
            f"--operating-point {name}",
            "the model has no such point",
            f"it has: {', '.join(known) or 'none'}",
        )


def _record(case: PlannedCase, outcome: Outcome | None) -> ImageRecord:
    """The case as a row of a batch."""
    if outcome is None:
        return ImageRecord(case.case_id, case.case_id, reason="not_scored", error="the run was interrupted")
    if outcome.record is not None:
        windows = outcome.record.row["n_windows"]
        return ImageRecord(case.case_id, case.case_id, "done", outcome.record.row["status"], windows=windows)
    fault = outcome.faults[0]
    status: Literal["failed", "no_tissue"] = "no_tissue" if fault.status == "no_tissue" else "failed"
    return ImageRecord(case.case_id, case.case_id, status, fault.reason, error=fault.error)
