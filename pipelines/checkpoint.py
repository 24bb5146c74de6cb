"""Checkpoints a killed run resumes from exactly.

A checkpoint is `checkpoints/step_<n>/`: the tensors of model, optimiser and moving average, written by
torch.distributed.checkpoint as safetensors (nothing in it is unpickled; it can be saved by one number of
processes and loaded by another), and `progress.json`, which says where the run stood. A folder without
`progress.json` does not count; folders appear by rename.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from atlas_path.errors import ModelError
from pipelines.distributed import World

PROGRESS = "progress.json"


@dataclass
class Progress:
    """Where a run stands; with the seed and the settings this is all its randomness depends on."""

    epoch: int = 0
    cursor: int = 0
    """Steps of this epoch that are done."""
    global_step: int = 0
    best: list[float] | None = None
    best_epoch: int = -1
    bad_epochs: int = 0
    loss_sum: float = 0.0
    n_cases: int = 0
    seconds: float = 0.0
    finished: bool = False


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    ema: Mapping[str, Tensor] | None,
    progress: Progress,
    world: World,
    keep: int = 2,
) -> Path:
    """Write `folder/step_<n>` completely or not at all, then remove all but the newest `keep`."""
    final = folder / f"step_{progress.global_step:08d}"
    part = folder / f".{final.name}.part"
    if world.is_main:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    world.barrier()
    writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
    with _quiet():
        dcp_save(_tensors(model, optimiser, ema), storage_writer=writer, no_dist=not world.is_parallel)
    if world.is_main:
        with (part / PROGRESS).open("w", encoding="utf-8") as file:
            json.dump(asdict(progress), file)
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)
        for old in sorted(folder.glob("step_*"))[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    world.barrier()
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, if any."""
    complete = [path.parent for path in sorted(folder.glob(f"step_*/{PROGRESS}"))]
    return complete[-1] if complete else None


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    ema: dict[str, Tensor] | None,
    world: World,
) -> Progress:
    """Restore all tensors in place and return where the run stood.

    Raises:
        ModelError: the checkpoint belongs to another architecture or is damaged.
    """
    tensors = _tensors(model, optimiser, ema)
    try:
        with _quiet():
            saved = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
            wanted = {key: value for key, value in tensors.items() if not _never_used(key, saved)}
            reader = HuggingFaceStorageReader(str(path))
            dcp_load(wanted, storage_reader=reader, no_dist=not world.is_parallel)
        progress = Progress(**json.loads((path / PROGRESS).read_text(encoding="utf-8")))
    except (CheckpointException, RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else error.__class__.__name__
        raise ModelError(
            path, f"cannot be resumed from ({first})", "delete it, or start again with --force"
        ) from error
    model_state, optimiser_state = _states(model, optimiser)
    for key in model_state:
        model_state[key] = tensors[f"model.{key}"]
    for name, values in optimiser_state["state"].items():
        for key in values:
            value = tensors[f"optimiser.{name}.{key}"]
            values[key] = torch.zeros_like(value) if _never_used(f"optimiser.{name}.{key}", saved) else value
    set_state_dict(model, optimiser, model_state_dict=model_state, optim_state_dict=optimiser_state)
    for key, tensor in (ema or {}).items():
        tensor.copy_(tensors[f"ema.{key}"])
    return progress


def _tensors(
    model: nn.Module, optimiser: torch.optim.Optimizer, ema: Mapping[str, Tensor] | None
) -> dict[str, Any]:
    model_state, optimiser_state = _states(model, optimiser)
    tensors: dict[str, Any] = {f"model.{key}": value for key, value in model_state.items()}
    for name, values in optimiser_state["state"].items():
        for key, value in values.items():
            tensors[f"optimiser.{name}.{key}"] = value
    tensors |= {f"ema.{key}": value for key, value in (ema or {}).items()}
    return tensors


def _never_used(key: str, saved: Mapping[str, Any]) -> bool:
    """Whether this is optimiser state of a weight that no case had used when the checkpoint was written.

    Images of one window leave the coarse scales alone, as do the first `window_epochs`. It starts from zero.
    """
    return key.startswith("optimiser.") and key not in saved


def _states(model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and optimiser state by parameter name; the optimiser's is created (zero) where there is none."""
    model_state, optimiser_state = get_state_dict(model, optimiser)
    return dict(model_state), dict(optimiser_state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's note that a single process means a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
