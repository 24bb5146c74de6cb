"""The moving average of the weights, and the best weights so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.distributed import World, whole_state

BEST = "best.safetensors"


class MovingAverage:
    """Exponential moving average of weights and buffers, `decay` rising from 0.1 while it warms up.

    With decay 0 nothing is kept and `in_place` does nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors: dict[str, Tensor] = {}
        if decay:
            self.tensors = {k: v.detach().clone() for k, v in self._live().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the present weights after optimiser step `step` (from 1)."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in self._live().items():
            self.tensors[key].lerp_(value, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in the model's place, while tuning and when the best weights are written."""
        if not self.decay:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for key, value in self._live().items():
            own = value.clone()
            value.copy_(self.tensors[key])
            self.tensors[key].copy_(own)

    def _live(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.model.state_dict().items() if v.is_floating_point()}


def save_best(folder: Path, model: nn.Module, world: World) -> None:
    """Write the model's weights as the best so far (call on every process)."""
    state = whole_state(model)
    if world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{BEST}.part"
        save_file(state, str(part))
        part.replace(folder / BEST)
    world.barrier()


def load_best(folder: Path, model: nn.Module) -> None:
    """Load the best weights into an unsharded model."""
    model.load_state_dict(load_file(str(folder / BEST)))
    model.eval()
