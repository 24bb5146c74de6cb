"""What a run starts from: device, model, optimiser, learning rate schedule, case weights."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from atlas import Atlas, AtlasConfig, preset
from atlas_path.cohort import Targets
from atlas_path.config import OptimConfig, RuntimeConfig, TrainConfig
from atlas_path.errors import ConfigError, ModelError
from atlas_path.progress import say
from pipelines.data import WindowReader
from pipelines.data_cases import CaseRef

STATISTICS_IMAGES = 64
STATISTICS_WINDOWS = 16


def choose_device(runtime: RuntimeConfig, local_rank: int = 0) -> torch.device:
    """The device asked for; `auto` takes CUDA when there is one."""
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.device", "runtime.device: cuda is asked for but torch sees no GPU", "use auto"
        )
    if runtime.device == "cpu" or not torch.cuda.is_available():
        torch.set_num_threads(runtime.threads or len(os.sched_getaffinity(0)))
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def uses_bfloat16(runtime: RuntimeConfig, device: torch.device) -> bool:
    return runtime.precision == "bfloat16" or (runtime.precision == "auto" and device.type == "cuda")


def pixel_statistics(
    cases: Sequence[CaseRef], reader: WindowReader, seed: int
) -> tuple[list[float], list[float]]:
    """Middle and spread of each channel over some windows of some training images, as a share of full scale
    (uint8 / 255, uint16 / 65535).

    Middle: half-way between the darkest and the brightest percent; spread: a third of their distance. Nuclei
    and glass then lie equally far from zero. With the mean and the standard deviation, which follow the
    commonest pixels, nuclei lay at -6 and stems learned many times slower (measured on the demo's cohort).
    """
    rng = np.random.default_rng([seed, 0x57])
    images = [image for case in cases for image in case.images]
    samples = []
    for i in rng.permutation(len(images))[:STATISTICS_IMAGES]:
        index = np.sort(rng.permutation(images[i].n_windows)[:STATISTICS_WINDOWS])
        pixels = reader.read(images[i], index)
        top = float(np.iinfo(pixels.dtype).max) if np.issubdtype(pixels.dtype, np.integer) else 1.0
        samples.append(pixels[:, :, ::8, ::8].swapaxes(0, 1).reshape(pixels.shape[1], -1) / top)
    low, high = np.quantile(np.concatenate(samples, axis=1), [0.01, 0.99], axis=1)
    spread = np.maximum((high - low) / 3, 1e-3)
    return [round(float(m), 5) for m in (low + high) / 2], [round(float(s), 5) for s in spread]


def build_model(
    config: TrainConfig, targets: Targets, cases: Sequence[CaseRef], reader: WindowReader, n_kinds: int
) -> Atlas:
    """The model a config describes, for this cohort's channels, pixel depth and classes; seeded.

    Raises:
        ConfigError: unknown preset or option, or a value that does not fit.
        ModelError: `model.init_from` cannot be used.
    """
    channels = {image.n_channels for case in cases for image in case.images}
    dtypes = {image.dtype for case in cases for image in case.images}
    if len(channels) > 1 or len(dtypes) > 1:
        kinds = f"{sorted(channels)} channels, {sorted(dtypes)}"
        raise ConfigError("cohort", f"cohort: images differ in kind ({kinds})", "train on one kind of image")
    n_channels, dtype = channels.pop(), np.dtype(dtypes.pop())
    changes = dict(config.model.options)
    changes.setdefault("pixel_max", float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0)
    if config.model.normalise == "window":
        changes.setdefault("pixel_norm", "window")
    if config.model.normalise in ("cohort", "window"):
        mean, std = pixel_statistics(cases, reader, config.runtime.seed)
    elif config.model.normalise == "imagenet" and n_channels == 3:
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    else:
        mean, std = [0.5] * n_channels, [0.5] * n_channels
    changes |= {"pixel_mean": tuple(mean), "pixel_std": tuple(std), "in_channels": n_channels}
    changes |= {"task": targets.kind, "n_outputs": targets.n_outputs, "head": config.model.head}
    if n_kinds:
        changes["image_kinds"] = n_kinds + 1
    architecture = model_config(config, changes)
    torch.manual_seed(config.runtime.seed)
    model = Atlas(architecture)
    if config.model.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.model.init_from:
        say(load_matching(model, config.model.init_from))
    return model


def model_config(config: TrainConfig, changes: dict[str, object]) -> AtlasConfig:
    """`preset` with options, faults told with the YAML line they come from."""
    try:
        return preset(
            config.model.preset, **{k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
        )
    except (ValueError, TypeError) as error:
        key = "model.preset" if "preset" in str(error) else "model.options"
        raise ConfigError(key, f"{config.where(key)}: {error}", "see AtlasConfig for the fields") from error


def load_matching(model: nn.Module, source: Path) -> str:
    """Copy weights whose name and shape agree from a run or pretraining folder.

    Returns:
        One line that says how much was taken.
    """
    from safetensors.torch import load_file

    file = source / "model.safetensors" if source.is_dir() else source
    if not file.is_file():
        raise ModelError(source, "no model.safetensors to start from", "give a run or pretraining folder")
    theirs = load_file(str(file))
    ours = model.state_dict()
    taken = {k: v for k, v in theirs.items() if k in ours and ours[k].shape == v.shape}
    if not taken:
        raise ModelError(source, "no weight fits this architecture", "use the same preset and options")
    model.load_state_dict(taken, strict=False)
    share = sum(v.numel() for v in taken.values()) / sum(v.numel() for v in ours.values())
    return f"starting from {source.name}: {len(taken)} of {len(ours)} tensors ({share:.0%} of the weights)"


def build_optimiser(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW whose groups separate decayed matrices from biases, norms and other 1-D parameters, and layers by
    depth when `layer_decay` < 1. Each group keeps its own factor of the schedule in `lr_factor`."""
    depth = layer_depths(model)
    top = max(depth.values(), default=0)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((depth[name], parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": optim.weight_decay if decayed else 0.0,
                "lr_factor": optim.layer_decay ** (top - level),
                "is_stem": level == 0,
            }
            for (level, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=optim.lr,
        betas=optim.betas,
        foreach=True,
    )


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Parameter name -> depth: 0 for the stem, one level a block by order of definition, last the head."""
    blocks = {name: _block_of(name) for name, _ in model.named_parameters()}
    between = dict.fromkeys(block for block in blocks.values() if block not in ("stem", "head"))
    rank = {block: i for i, block in enumerate(["stem", *between, "head"])}
    return {name: rank[block] for name, block in blocks.items()}


def _block_of(name: str) -> str:
    """The part of the model a parameter belongs to: 'stem', 'head', or the path up to the first number."""
    parts = name.split(".")
    if parts[0] in ("stem", "head"):
        return parts[0]
    numbered = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: numbered + 1])


def set_learning_rate(
    optimiser: torch.optim.Optimizer, optim: OptimConfig, step: int, steps_per_epoch: int
) -> float:
    """Linear warm-up, then cosine to `min_lr`, by optimiser step; returns the base rate."""
    warmup = round(optim.warmup_epochs * steps_per_epoch)
    total = max(optim.epochs * steps_per_epoch, warmup + 1)
    if step < warmup:
        rate = optim.lr * (step + 1) / warmup
    else:
        share = (step - warmup) / (total - warmup)
        rate = optim.min_lr + 0.5 * (optim.lr - optim.min_lr) * (1 + math.cos(math.pi * min(1.0, share)))
    frozen = step < optim.freeze_stem_epochs * steps_per_epoch
    for group in optimiser.param_groups:
        group["lr"] = 0.0 if frozen and group["is_stem"] else rate * group["lr_factor"]
    return rate


def case_balance(
    targets: Targets, case_ids: Sequence[str], balance: str
) -> tuple[list[float], np.ndarray | None]:
    """Loss weight of every case (1 on average) and, for `sampling`, the probability of drawing it."""
    strata = [targets.stratum(c) for c in case_ids]
    counts = {s: strata.count(s) for s in strata}
    inverse = np.asarray([len(strata) / (len(counts) * counts[s]) for s in strata])
    if balance == "weights":
        return [float(w) for w in inverse], None
    if balance == "sampling":
        return [1.0] * len(strata), inverse / inverse.sum()
    return [1.0] * len(strata), None
