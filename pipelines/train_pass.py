"""One pass: forward, the loss of its cases, backward; and what stops a run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from atlas import Atlas, WindowBatch
from atlas.losses import task_loss
from atlas.streaming import loss_and_backward
from atlas_path.config import RuntimeConfig, TrainConfig
from atlas_path.errors import ModelError
from pipelines.data_loader import LoadedPass
from pipelines.images import ImageRecipe
from pipelines.train_setup import uses_bfloat16
from pipelines.train_windows import some_windows, window_losses

SMOOTHABLE = ("binary", "multiclass", "multilabel", "ordinal")


class NonFiniteLossError(ModelError):
    """The loss or its gradient is not a number."""

    reason = "non_finite"


def backward_pass(
    model: Atlas,
    loaded: LoadedPass,
    config: TrainConfig,
    kind: str,
    device: torch.device,
    recipe: ImageRecipe | None = None,
) -> float:
    """Add a pass's gradients to the model's; `recipe` changes plain images first.

    Returns:
        The pass's share of its step's loss: the weighted sum of its cases' losses.

    Raises:
        NonFiniteLossError: naming the cases whose loss is not finite.
    """
    spec, runtime = loaded.spec, config.runtime
    seed_for_pass(runtime.seed, spec.epoch, spec.case_ids[0])
    batch = loaded.batch.to(device)
    target, known, weight_B = (t.to(device) for t in (loaded.target, loaded.known, loaded.weight_B))
    smoothing = config.optim.label_smoothing if kind in SMOOTHABLE else 0.0
    seen: list[Tensor] = []

    def loss_fn(logits_BO: Tensor) -> Tensor:
        losses_B = case_losses(kind, logits_BO, target, known, smoothing)
        seen.append(losses_B.detach())
        return (losses_B * weight_B).sum()

    if recipe is not None:
        batch, target = recipe(batch, target)
    alone = spec.epoch < config.optim.window_epochs
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(runtime, device)):
        if alone:
            few = some_windows(batch, runtime.stream_windows)
            losses_B = window_losses(kind, model, few, target, known, smoothing)
            seen.append(losses_B.detach())
            loss = (losses_B * weight_B).sum()
            loss.backward()
            value = float(loss.detach())
        elif streams(runtime, batch):
            value, _ = loss_and_backward(model, batch, loss_fn)
        else:
            loss = loss_fn(model(batch).logits_BO)
            loss.backward()
            value = float(loss.detach())
    if not math.isfinite(value):
        bad = [c for c, v in zip(spec.case_ids, seen[-1].tolist(), strict=True) if not math.isfinite(v)]
        raise non_finite(bad or spec.case_ids, "loss", spec.epoch, spec.step)
    return float(value)


def streams(runtime: RuntimeConfig, batch: WindowBatch) -> bool:
    """Whether a batch is large enough for the bounded-memory backward."""
    if runtime.memory == "auto":
        return len(batch) > runtime.stream_windows and runtime.shard != "fsdp"
    return runtime.memory == "stream"


def case_losses(
    kind: str, logits_BO: Tensor, target: Tensor, known: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Loss of every case (B,); 0 where no label is known."""
    losses = []
    for i in range(len(logits_BO)):
        one = slice(i, i + 1)
        if bool(known[i].any()):
            loss = task_loss(kind, logits_BO[one].float(), target[one], known[one], label_smoothing=smoothing)
            losses.append(loss.reshape(()))
        else:
            losses.append(logits_BO[i].float().sum() * 0.0)
    return torch.stack(losses)


def seed_for_pass(seed: int, epoch: int, case_id: str) -> None:
    """Seed stochastic depth and the like for one pass."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{case_id}".encode(), digest_size=7).digest()
    torch.manual_seed(int.from_bytes(digest, "little"))


def non_finite(case_ids: Sequence[str], what: str, epoch: int, step: int) -> NonFiniteLossError:
    """The error that ends a run; epoch and step count from 0."""
    return NonFiniteLossError(
        f"case {', '.join(case_ids)}",
        f"the {what} is not a finite number in epoch {epoch + 1}, step {step + 1}",
        "look at its pixels and label, or lower optim.lr; the last checkpoint is kept",
    )
