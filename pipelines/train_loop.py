"""The training loop: passes to gradients to steps, tuning after every epoch, checkpoints between steps.

A step sees `cases_per_step` cases; their losses are averaged, whatever their number of windows. All random
choices are a function of (seed, epoch, case), so a run that was killed goes on with the same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from atlas import Atlas
from atlas_path.cohort import Targets
from atlas_path.config import TrainConfig
from atlas_path.progress import Advance, progress, say
from pipelines.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint
from pipelines.data_cases import CaseRef
from pipelines.data_loader import PassDataset, PassLoader, plan_epoch
from pipelines.distributed import World, before_pass, clip_gradients, gathered, place_model, sum_gradients
from pipelines.images import image_recipe
from pipelines.interrupt import StopSignal
from pipelines.train_log import RunLog
from pipelines.train_metrics import SCORE_NAMES
from pipelines.train_pass import backward_pass, non_finite
from pipelines.train_setup import build_optimiser, case_balance, set_learning_rate
from pipelines.train_tune import TuneResult, predict
from pipelines.train_weights import MovingAverage, save_best


class Trainer:
    """One model on one division of the cohort.

    Args:
        config: the run's settings.
        model: placed and, with several processes, synchronised here.
        cases: every case by id.
        targets: their labels.
        train_ids, tune_ids: labelled cases of the two splits.
        run_dir: where checkpoints and metrics go.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Atlas,
        cases: dict[str, CaseRef],
        targets: Targets,
        train_ids: list[str],
        tune_ids: list[str],
        run_dir: Path,
        world: World,
        device: torch.device,
    ) -> None:
        self.config, self.model, self.cases, self.targets = config, model.to(device), cases, targets
        self.train_ids, self.tune_ids, self.run_dir = train_ids, tune_ids, run_dir
        self.world, self.device = world, device
        place_model(model, world, config.runtime.shard, device)
        self.optimiser = build_optimiser(model, config.optim)
        self.average = MovingAverage(model, config.optim.ema)
        self.dataset = PassDataset(cases, targets, config, bool(config.data.image_kinds))
        self.loader = PassLoader(self.dataset, pin_memory=device.type == "cuda")
        self.weights, self.draw = case_balance(targets, train_ids, config.optim.balance)
        self.strata = [str(targets.stratum(c)) for c in train_ids]
        limit, high = config.data.max_windows, config.augment.keep_windows[1]
        self.sizes = [min(round(cases[c].n_windows * high), limit or 1 << 40) for c in train_ids]
        self.steps_per_epoch = -(-len(train_ids) // config.optim.cases_per_step)
        self.recipe = image_recipe(config, targets)
        self.progress = Progress()
        self.checkpoints = run_dir / "checkpoints"

    def fit(self) -> None:
        """Train to the end or to early stopping; the best weights lie in `checkpoints/`.

        Raises:
            NonFiniteLossError: naming the case.
            KeyboardInterrupt: after a checkpoint was saved.
        """
        self._resume()
        log = RunLog(self.run_dir, self.config, self.progress.global_step) if self.world.is_main else None
        self.started = time.monotonic() - self.progress.seconds
        self.saved_at = time.monotonic()
        try:
            with StopSignal() as stop:
                while not self.progress.finished:
                    self._train_epoch(log, stop)
                    self._end_epoch(log)
                    self._stop_if_asked(stop)
        finally:
            if log:
                log.close()

    def _resume(self) -> None:
        path = latest_checkpoint(self.checkpoints)
        if path is None:
            return
        self.progress = load_checkpoint(path, self.model, self.optimiser, self.average.tensors, self.world)
        if self.world.is_main and not self.progress.finished:
            where = f"epoch {self.progress.epoch + 1}, step {self.progress.cursor}/{self.steps_per_epoch}"
            say(f"resuming {self.run_dir.name} at {where}")

    def _train_epoch(self, log: RunLog | None, stop: StopSignal) -> None:
        state, world = self.progress, self.world
        plan = plan_epoch(
            self.train_ids,
            self.sizes,
            self.weights,
            self.config,
            state.epoch,
            world.rank,
            world.size,
            self.draw,
            self.strata,
        )
        self.epoch_started = time.monotonic()
        self.windows_before, self.waited_before = self.loader.n_windows, self.loader.waited_s
        self.model.train()
        title, total = f"epoch {state.epoch + 1}/{self.config.optim.epochs}", len(self.train_ids)
        loss_of_step = 0.0
        with progress(title, total) if world.is_main else _silent() as advance:
            if state.cursor:
                advance("resumed", min(total, state.cursor * self.config.optim.cases_per_step))
            for loaded in self.loader.run([p for p in plan if p.step >= state.cursor]):
                before_pass(self.model, loaded.spec.last_of_step)
                loss_of_step += backward_pass(
                    self.model, loaded, self.config, self.targets.kind, self.device, self.recipe
                )
                if loaded.spec.last_of_step:
                    loss = math.fsum(world.gather(loss_of_step))
                    self._step(loss, loaded.spec.case_ids, log, advance)
                    loss_of_step = 0.0
                    self._save_when_due()
                    self._stop_if_asked(stop)

    def _step(self, loss: float, case_ids: tuple[str, ...], log: RunLog | None, advance: Advance) -> None:
        state, optim = self.progress, self.config.optim
        rate = set_learning_rate(self.optimiser, optim, state.global_step, self.steps_per_epoch)
        sum_gradients(self.model, self.world)
        norm = clip_gradients(self.model, optim.clip)
        if not math.isfinite(norm):
            raise non_finite(case_ids, "gradient", state.epoch, state.cursor)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        n_cases = min(optim.cases_per_step, len(self.train_ids) - state.cursor * optim.cases_per_step)
        state.loss_sum += loss * n_cases
        state.n_cases += n_cases
        state.cursor += 1
        state.global_step += 1
        self.average.update(state.global_step)
        if log:
            values = {"epoch": state.epoch + 1, "loss": loss, "lr": rate, "grad_norm": norm}
            log.write("step", state.global_step, values)
        advance(f"loss {state.loss_sum / state.n_cases:.4f}", n_cases)

    def _end_epoch(self, log: RunLog | None) -> None:
        state, optim, world = self.progress, self.config.optim, self.world
        if world.is_parallel:  # which scales were seen is part of the model
            self.model.trained_scales = max(world.gather(self.model.trained_scales))
        seconds = max(time.monotonic() - self.epoch_started, 1e-9)
        starved = (self.loader.waited_s - self.waited_before) / seconds
        n_windows = sum(world.gather(self.loader.n_windows - self.windows_before))
        values: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "loss": state.loss_sum / max(1, state.n_cases),
            "windows_per_s": round(n_windows / seconds, 1),
            "starved": round(max(world.gather(starved)), 4),
            "memory_gb": round(max(world.gather(peak_memory_gb(self.device))), 3),
        }
        alone = state.epoch + 1 < min(optim.window_epochs, optim.epochs)  # its attention is not taught yet
        with self.average.in_place():
            tuned = None if alone else self._tune()
            rank = self._rank(tuned)
            if tuned is None or state.best is None or rank > state.best:
                state.best, state.best_epoch, state.bad_epochs = None if alone else rank, state.epoch, 0
                save_best(self.checkpoints, self.model, world)
            else:
                state.bad_epochs += 1
        if tuned:
            values |= {"tune_loss": tuned.loss, f"tune_{SCORE_NAMES[self.targets.kind]}": tuned.score}
            if tuned.accuracy is not None:
                values["tune_accuracy"] = tuned.accuracy
        state.epoch += 1
        state.cursor, state.loss_sum, state.n_cases = 0, 0.0, 0
        stopped = optim.patience is not None and state.bad_epochs >= optim.patience
        state.finished = state.epoch >= optim.epochs or stopped
        if log:
            log.write("epoch", state.global_step, values)
            say(self._line(values, stopped))
        self._save()

    def _tune(self) -> TuneResult | None:
        if not self.tune_ids:
            return None
        with gathered(self.model):
            return predict(self.model, self.loader, self.tune_ids, self.world, self.device)

    def _rank(self, tuned: TuneResult | None) -> list[float]:
        """What is compared between epochs, larger is better."""
        monitor = self.config.optim.monitor
        if tuned is None:
            return [float(self.progress.epoch)]
        if monitor == "loss" or tuned.score is None:
            return [-tuned.loss]
        return [tuned.score] if monitor == "score" else [round(tuned.score, 6), -tuned.loss]

    def _line(self, values: Mapping[str, Any], stopped: bool) -> str:
        done = self.progress.epoch
        left = (time.monotonic() - self.started) / done * (self.config.optim.epochs - done)
        parts = [f"epoch {done}/{self.config.optim.epochs}", f"loss {values['loss']:.4f}"]
        name = SCORE_NAMES[self.targets.kind]
        if "tune_loss" in values:
            score = values[f"tune_{name}"]
            shown = "-" if score is None else f"{score:.3f}"
            best = f"best epoch {self.progress.best_epoch + 1}"
            parts += [f"tune loss {values['tune_loss']:.4f}", f"{name} {shown} ({best})"]
        parts += [f"{values['windows_per_s']:g} windows/s", f"waiting {values['starved']:.0%}"]
        parts += [
            f"{values['memory_gb']:.1f} GB",
            "stopped early" if stopped else f"{left / 60:.1f} min left",
        ]
        return ", ".join(parts)

    def _save_when_due(self) -> None:
        minutes = (time.monotonic() - self.saved_at) / 60
        if self.world.any(minutes >= self.config.runtime.checkpoint_minutes > 0):
            self._save()

    def _stop_if_asked(self, stop: StopSignal) -> None:
        if self.progress.finished or not self.world.any(stop.requested):
            return
        self._save()
        raise KeyboardInterrupt

    def _save(self) -> None:
        self.progress.seconds = time.monotonic() - self.started
        save_checkpoint(
            self.checkpoints, self.model, self.optimiser, self.average.tensors, self.progress, self.world,
            self.config.runtime.keep_checkpoints,
        )  # fmt: skip
        self.saved_at = time.monotonic()


@contextmanager
def _silent() -> Iterator[Advance]:
    """The progress of a process that does not talk."""
    yield lambda _note, _steps: None


def peak_memory_gb(device: torch.device) -> float:
    """Most memory used so far: of the GPU, or of this process (resident)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
