"""Several processes, one model: join `torchrun`'s group, replicate or shard, exchange gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
BUCKET_ELEMENTS = 2**24


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    @property
    def is_parallel(self) -> bool:
        return self.size > 1

    def barrier(self) -> None:
        if self.is_parallel:
            dist.barrier()

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of ranks, on every process."""
        if not self.is_parallel:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum(self, value: float) -> float:
        """Sum of a number over all processes."""
        return float(sum(self.gather(value)))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return any(self.gather(flag)) if self.is_parallel else flag


@contextmanager
def joined_world(device: torch.device) -> Iterator[World]:
    """Join the process group described by `torchrun`'s variables, and leave it at the end.

    Without those variables, or inside a group that exists already, nothing is started.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
        return
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()


def broadcast_parameters(model: nn.Module, world: World) -> None:
    """Give every process the weights and buffers of process 0."""
    if world.is_parallel:
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def sum_gradients(model: nn.Module, world: World) -> None:
    """Add up the gradients of all processes, in flat buckets, once an optimiser step.

    Pass losses are already divided by the number of cases in the step, so the sum is the mean over cases.
    With accumulation over whole slides this exchange is a small part of a step, so overlapping it with the
    backward pass would gain little; and it works with the streaming backward, which is not one graph.
    """
    if not world.is_parallel:
        return
    bucket: list[Tensor] = []
    size = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        size += parameter.grad.numel()
        if size >= BUCKET_ELEMENTS:
            _sum_bucket(bucket)
            bucket, size = [], 0
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(gradients: list[Tensor]) -> None:
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
