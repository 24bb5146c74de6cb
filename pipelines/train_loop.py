"""The training loop: passes to gradients to steps, tuning after every epoch, checkpoints between steps.

A step sees `cases_per_step` cases; their losses are averaged, whatever their number of windows. All random
choices are a function of (seed, epoch, case), so a run that was killed goes on with the same numbers.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from atlas import Atlas
from atlas_path.cohort import Targets
from atlas_path.config import TrainConfig
from atlas_path.errors import ModelError
from atlas_path.progress import say
from pipelines.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint
from pipelines.data_cases import CaseRef
from pipelines.data_loader import LoadedPass, PassDataset, PassLoader, plan_epoch
from pipelines.distributed import World, broadcast_parameters, sum_gradients
from pipelines.interrupt import StopSignal
from pipelines.train_log import RunLog
from pipelines.train_metrics import SCORE_NAMES
from pipelines.train_setup import build_optimiser, case_balance, set_learning_rate, uses_bfloat16
from pipelines.train_tune import TuneResult, case_losses, predict


class NonFiniteLossError(ModelError):
    """The loss or its gradient is not a number."""

    reason = "non_finite"


class Trainer:
    """One model on one division of the cohort."""

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
        self.optimiser = build_optimiser(model, config.optim)
        ema = {k: v.detach().clone() for k, v in model.state_dict().items() if v.is_floating_point()}
        self.ema: dict[str, Tensor] | None = ema if config.optim.ema else None
        with_kinds = bool(config.data.image_kinds)
        self.dataset = PassDataset(cases, targets, config, with_kinds)
        self.loader = PassLoader(self.dataset, pin_memory=device.type == "cuda")
        self.weights, self.draw = case_balance(targets, train_ids, config.optim.balance)
        limit, high = config.data.max_windows, config.augment.keep_windows[1]
        self.sizes = [min(round(cases[c].n_windows * high), limit or 1 << 40) for c in train_ids]
        self.steps_per_epoch = -(-len(train_ids) // config.optim.cases_per_step)
        self.progress = Progress()
        self.checkpoints = run_dir / "checkpoints"

    def fit(self) -> TuneResult | None:
        """Train to the end (or to early stopping), leave the best weights in the model.

        Returns:
            The best model's predictions on the tuning split, None without one.

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
        finally:
            if log:
                log.close()
        self._load_best()
        return self.predict_tune()

    def _resume(self) -> None:
        path = latest_checkpoint(self.checkpoints)
        if path is None:
            broadcast_parameters(self.model, self.world)
            return
        self.progress = load_checkpoint(path, self.model, self.optimiser, self.ema, self.world)
        if self.world.is_main:
            where = f"epoch {self.progress.epoch + 1}, step {self.progress.cursor}/{self.steps_per_epoch}"
            say(f"resuming {self.run_dir.name} at {where}")

    def _train_epoch(self, log: RunLog | None, stop: StopSignal) -> None:
        progress, optim = self.progress, self.config.optim
        plan = plan_epoch(
            self.train_ids, self.sizes, self.weights, self.config, progress.epoch, self.world.rank,
            self.world.size, self.draw,
        )  # fmt: skip
        todo = [p for p in plan if p.step >= progress.cursor]
        self.model.train()
        self.epoch_started, self.windows_before = time.monotonic(), self.loader.n_windows
        self.waited_before = self.loader.waited_s
        loss_of_step = 0.0
        for loaded in self.loader.run(todo):
            loss_of_step += self._pass(loaded)
            if not loaded.spec.last_of_step:
                continue
            rate = set_learning_rate(self.optimiser, optim, progress.global_step, self.steps_per_epoch)
            norm = self._step(loaded)
            block = min(optim.cases_per_step, len(self.train_ids) - progress.cursor * optim.cases_per_step)
            loss_of_step = self.world.sum(loss_of_step)
            progress.loss_sum += loss_of_step * block
            progress.n_cases += block
            progress.cursor += 1
            progress.global_step += 1
            if log:
                values = {"epoch": progress.epoch + 1, "loss": loss_of_step, "lr": rate, "grad_norm": norm}
                log.write("step", progress.global_step, values)
            loss_of_step = 0.0
            self._save_when_due(stop)

    def _pass(self, loaded: LoadedPass) -> float:
        """Forward and backward of one pass; returns its share of the step's loss."""
        spec = loaded.spec
        seed_for_pass(self.config.runtime.seed, spec.epoch, spec.case_ids[0])
        batch = loaded.batch.to(self.device)
        target, known, weight_B = (t.to(self.device) for t in (loaded.target, loaded.known, loaded.weight_B))
        kind, smoothing = self.targets.kind, self.config.optim.label_smoothing
        seen: list[Tensor] = []

        def loss_fn(logits_BO: Tensor) -> Tensor:
            losses_B = case_losses(kind, logits_BO, target, known, smoothing)
            seen.append(losses_B.detach())
            return (losses_B * weight_B).sum()

        runtime = self.config.runtime
        stream = runtime.memory == "stream" or (
            runtime.memory == "auto" and len(batch) > runtime.stream_windows
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bfloat16(runtime, self.device)):
            if stream:
                from atlas.streaming import loss_and_backward

                value, _ = loss_and_backward(self.model, batch, loss_fn)
            else:
                loss = loss_fn(self.model(batch).logits_BO)
        if not stream:
            loss.backward()
            value = float(loss.detach())
        if not np.isfinite(value):
            bad = [c for c, v in zip(spec.case_ids, seen[-1].tolist(), strict=True) if not np.isfinite(v)]
            raise non_finite(bad or spec.case_ids, "loss", self.progress)
        return float(value)

    def _step(self, loaded: LoadedPass) -> float:
        sum_gradients(self.model, self.world)
        clip = self.config.optim.clip or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip))
        if not np.isfinite(norm):
            raise non_finite(loaded.spec.case_ids, "gradient", self.progress)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            decay = min(
                self.config.optim.ema, (1 + self.progress.global_step) / (10 + self.progress.global_step)
            )
            state = self.model.state_dict()
            with torch.no_grad():
                for key, average in self.ema.items():
                    average.lerp_(state[key], 1 - decay)
        return norm

    def _save_when_due(self, stop: StopSignal) -> None:
        stopping = self.world.any(stop.requested)
        minutes = (time.monotonic() - self.saved_at) / 60
        due = self.world.any(minutes >= self.config.runtime.checkpoint_minutes > 0)
        if stopping or due:
            self._save()
        if stopping:
            raise KeyboardInterrupt

    def _save(self) -> None:
        self.progress.seconds = time.monotonic() - self.started
        keep = self.config.runtime.keep_checkpoints
        save_checkpoint(
            self.checkpoints, self.model, self.optimiser, self.ema, self.progress, self.world, keep
        )
        self.saved_at = time.monotonic()

    def _end_epoch(self, log: RunLog | None) -> None:
        progress, optim = self.progress, self.config.optim
        seconds = time.monotonic() - self.epoch_started
        waited = self.loader.waited_s - self.waited_before
        n_windows = self.world.sum(self.loader.n_windows - self.windows_before)
        with self.averaged_weights():
            tuned = self.predict_tune()
        values: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "loss": progress.loss_sum / max(1, progress.n_cases),
            "windows_per_s": round(n_windows / max(seconds, 1e-9), 1),
            "starved": round(waited / max(seconds, 1e-9), 4),
            "memory_gb": round(peak_memory_gb(self.device), 3),
        }
        if tuned:
            values |= {"tune_loss": tuned.loss, f"tune_{SCORE_NAMES[self.targets.kind]}": tuned.score}
        rank = self._rank(tuned)
        if progress.best is None or rank > progress.best or not tuned:
            progress.best, progress.best_epoch, progress.bad_epochs = rank, progress.epoch, 0
            self._save_best()
        else:
            progress.bad_epochs += 1
        progress.epoch += 1
        progress.cursor, progress.loss_sum, progress.n_cases = 0, 0.0, 0
        stopped = optim.patience is not None and progress.bad_epochs >= optim.patience
        progress.finished = progress.epoch >= optim.epochs or stopped
        if log:
            log.write("epoch", progress.global_step, values)
            say(self._line(values, stopped))
        self._save()

    def _rank(self, tuned: TuneResult | None) -> list[float]:
        """What is compared between epochs, larger is better."""
        if tuned is None:
            return [float(self.progress.epoch)]
        if self.config.optim.monitor == "loss" or tuned.score is None:
            return [-tuned.loss]
        if self.config.optim.monitor == "score":
            return [tuned.score]
        return [round(tuned.score, 6), -tuned.loss]

    def _line(self, values: Mapping[str, Any], stopped: bool) -> str:
        done = self.progress.epoch
        left = (time.monotonic() - self.started) / done * (self.config.optim.epochs - done)
        parts = [f"epoch {done}/{self.config.optim.epochs}", f"loss {values['loss']:.4f}"]
        name = SCORE_NAMES[self.targets.kind]
        if "tune_loss" in values:
            score = values[f"tune_{name}"]
            shown = "-" if score is None else f"{score:.3f}"
            parts += [
                f"tune loss {values['tune_loss']:.4f}",
                f"{name} {shown} (best epoch {self.progress.best_epoch + 1})",
            ]
        parts += [f"{values['windows_per_s']:g} windows/s", f"waiting {values['starved']:.0%}"]
        parts.append("stopped early" if stopped else f"{left / 60:.1f} min left")
        return ", ".join(parts)

    def predict_tune(self) -> TuneResult | None:
        """Predictions on all tuning cases, on every process, without augmentation."""
        if not self.tune_ids:
            return None
        return predict(self.model, self.loader, self.tune_ids, self.world, self.device)

    def averaged_weights(self) -> _Swapped:
        """The moving average in the model's place, while tuning and when the best weights are saved."""
        return _Swapped(self.model, self.ema)

    def _save_best(self) -> None:
        if not self.world.is_main:
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        with self.averaged_weights():
            state = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        part = self.checkpoints / ".best.safetensors.part"
        save_file(state, str(part))
        part.rename(self.checkpoints / "best.safetensors")

    def _load_best(self) -> None:
        self.world.barrier()
        best = self.checkpoints / "best.safetensors"
        self.model.load_state_dict(load_file(str(best), device=str(self.device)))
        self.model.eval()


class _Swapped:
    def __init__(self, model: Atlas, ema: dict[str, Tensor] | None) -> None:
        self.model, self.ema = model, ema
        self.own: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self.ema is not None:
            self.own = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
            self.model.load_state_dict(self.ema, strict=False)

    def __exit__(self, *_: object) -> None:
        if self.ema is not None:
            self.model.load_state_dict(self.own)


def seed_for_pass(seed: int, epoch: int, case_id: str) -> None:
    """Seed stochastic depth and the like for one pass."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{case_id}".encode(), digest_size=7).digest()
    torch.manual_seed(int.from_bytes(digest, "little"))


def non_finite(case_ids: list[str] | tuple[str, ...], what: str, progress: Progress) -> NonFiniteLossError:
    names = ", ".join(case_ids)
    return NonFiniteLossError(
        f"case {names}",
        f"the {what} is not a finite number in epoch {progress.epoch + 1}, step {progress.cursor + 1}",
        "look at its pixels and label, or lower optim.lr; the last checkpoint is kept",
    )


def peak_memory_gb(device: torch.device) -> float:
    """Most memory used so far: of the GPU, or of this process (resident)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
