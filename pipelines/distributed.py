"""Several processes, one model: join `torchrun`'s group, replicate or shard, exchange gradients.

Replicated (`ddp`, the default): every process holds the whole model; after the last pass of a step the
gradients are summed in flat buckets. This is what DistributedDataParallel computes; it is written out because
the streaming backward is several graphs, because images of fewer scales leave weights unused, and because
processes pack different numbers of passes into a step, all of which its hooks do not allow. Nothing is
overlapped: a step over whole slides lasts far longer than the exchange.

Sharded (`fsdp`, FSDP2): weights, gradients and optimiser state live in pieces; the model is one
unit, gathered at the first pass of a step and scattered after its last, so processes may differ in their
number of passes.

Pass losses are already divided by the cases of the whole step, so gradients are summed, never averaged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

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
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()


def place_model(model: nn.Module, world: World, shard: str, device: torch.device) -> None:
    """Give all processes the weights of process 0; with `fsdp`, keep a piece each."""
    if not world.is_parallel:
        return
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, src=0)
    if shard == "fsdp":
        mesh = init_device_mesh(device.type, (world.size,))
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        assert isinstance(model, FSDPModule)
        model.set_gradient_divide_factor(1.0)
        model.set_force_sum_reduction_for_comms(True)


def before_pass(model: nn.Module, last_of_step: bool) -> None:
    """Tell a sharded model whether gradients are exchanged in this pass."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last_of_step)
        model.set_reshard_after_backward(last_of_step)


def sum_gradients(model: nn.Module, world: World) -> None:
    """Add up the gradients of all processes of a replicated model; a sharded one has done so."""
    if not world.is_parallel or isinstance(model, FSDPModule):
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    used = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    dist.all_reduce(used)  # a weight that no case of the step used stays untouched, as in one process
    bucket: list[Tensor] = []
    size = 0
    for parameter, n_users in zip(trained, used.tolist(), strict=True):
        if not n_users:
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


def clip_gradients(model: nn.Module, limit: float) -> float:
    """Scale gradients to at most `limit` (0 = no limit) in norm; returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit or float("inf"))
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """All weights of a sharded model in every process, for prediction without exchange."""
    if isinstance(model, FSDPModule):
        model.unshard()
    yield
    if isinstance(model, FSDPModule):
        model.reshard()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights and buffers on the CPU; complete on process 0 (call it on every process)."""
    state: dict[str, Any] = model.state_dict()
    if isinstance(model, FSDPModule):
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {k: v.detach().cpu().clone().contiguous() for k, v in state.items()}


def _sum_bucket(gradients: list[Tensor]) -> None:
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
