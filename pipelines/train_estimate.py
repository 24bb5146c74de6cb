"""`train --dry-run`: the resolved settings, the split table, and what the run will cost."""

from __future__ import annotations

import time

import torch

from atlas_path.config import TrainConfig, dump_yaml
from pipelines.data import WindowReader, pack, read_case
from pipelines.data_cases import CaseRef
from pipelines.train_pass import case_losses
from pipelines.train_prepare import Prepared, prepare
from pipelines.train_setup import build_model, build_optimiser, choose_device, uses_bfloat16

PROBE_WINDOWS = 64
BYTES_PER_WEIGHT = 16  # float32 weight, gradient and two AdamW moments


def dry_run_report(config: TrainConfig) -> str:
    """Settings, splits (told while preparing) and estimates of time, memory and disk, as text.

    Time is measured: one pass of up to 64 windows forwards and backwards on the device of the run. Nothing is
    written.
    """
    prepared = prepare(config)
    return f"{dump_yaml(config)}\n# estimate\n" + "\n".join(
        f"# {line}" for line in _estimate(config, prepared)
    )


def _estimate(config: TrainConfig, prepared: Prepared) -> list[str]:
    device = choose_device(config.runtime)
    cases = [prepared.found.cases[c] for c in prepared.ids("train")]
    reader = WindowReader(0)
    model = build_model(config, prepared.targets, cases, reader, len(prepared.found.kinds)).to(device)
    n_weights = sum(p.numel() for p in model.parameters())
    low, high = config.augment.keep_windows
    limit = config.data.max_windows or 1 << 40
    windows = [min(limit, round(c.n_windows * (low + high) / 2)) for c in cases]
    tuned = sum(prepared.found.cases[c].n_windows for c in prepared.ids("tune"))
    probe = min(cases, key=lambda c: abs(c.n_windows - PROBE_WINDOWS))
    seconds, read_s, n = _probe(config, prepared, model, probe, reader, device)
    per_epoch = (sum(windows) + tuned / 3) * seconds / n
    largest = max(
        max(windows), min(config.optim.windows_per_pass, sum(sorted(windows)[-config.optim.cases_per_pass :]))
    )
    n_runs = config.split.folds or 1
    per_window = _bytes_per_window(config, model, probe, reader, device)
    cached = min(
        sum(i.n_bytes for c in prepared.found.cases.values() for i in c.images), config.data.cache_gb * 2**30
    )
    disk = n_weights * 4 * (1 + 1 + 3 * config.runtime.keep_checkpoints) * n_runs
    memory = (n_weights * BYTES_PER_WEIGHT + per_window * largest) / 2**30
    kind, minutes = device.type, per_epoch / 60
    return [
        f"{len(cases)} training cases, {sum(windows)} windows an epoch, {n_weights:,} weights",
        f"speed: reads {n / read_s:,.0f} windows/s, trains {n / seconds:,.0f} windows/s ({kind})",
        f"time: {minutes:.1f} min an epoch, at most {minutes * config.optim.epochs * n_runs:.0f} min",
        f"memory: {memory:.1f} GB ({kind}) for the model and a pass of {largest} windows, "
        f"{cached / 2**30:.1f} GB for cached windows",
        f"disk: {disk / 2**20:.0f} MB for checkpoints and model",
    ]


def _probe(
    config: TrainConfig,
    prepared: Prepared,
    model: torch.nn.Module,
    case: CaseRef,
    reader: WindowReader,
    device: torch.device,
) -> tuple[float, float, int]:
    """Seconds of one training pass, seconds of reading it, and its windows."""
    started = time.perf_counter()
    batch = pack([read_case(reader, case)], bool(config.data.image_kinds))
    read_s = time.perf_counter() - started
    batch = batch.select(torch.arange(min(PROBE_WINDOWS, len(batch)))).to(device)
    value = torch.from_numpy(prepared.targets.value[case.case_id])[None].to(device)
    known = torch.from_numpy(prepared.targets.known[case.case_id])[None].to(device)
    optimiser = build_optimiser(model, config.optim)
    model.train()
    for attempt in range(2):  # the first one pays for start-up
        if attempt:
            started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config.runtime, device)):
            logits = model(batch).logits_BO
        case_losses(prepared.targets.kind, logits, value, known).sum().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - started, read_s * len(batch) / case.n_windows, len(batch)


def _bytes_per_window(
    config: TrainConfig,
    model: torch.nn.Module,
    case: CaseRef,
    reader: WindowReader,
    device: torch.device,
) -> float:
    """Bytes that autograd keeps for a window, counted on saved tensors."""
    batch = pack([read_case(reader, case)], bool(config.data.image_kinds))
    batch = batch.select(torch.arange(min(PROBE_WINDOWS, len(batch)))).to(device)
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config.runtime, device)),
    ):
        model(batch)
    return sum(seen.values()) / len(batch)
