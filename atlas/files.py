"""A model on disk: `model.safetensors` (weights) and `model.json` (what they are)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from atlas.config import AtlasConfig
from atlas.model import Atlas

FORMAT = "atlas-path-model/1"


def save_model(folder: str | Path, model: Atlas, extra: dict[str, Any] | None = None) -> Path:
    """Write weights and description; each file appears whole or not at all.

    Args:
        folder: created when absent.
        model: the model; its weights are written in the precision they have.
        extra: further keys of `model.json` (task, calibration, thresholds ...); not `format` or
            `architecture`.

    Raises:
        ValueError: `extra` holds a reserved key.
    """
    from safetensors.torch import save_file

    folder, extra = Path(folder), dict(extra or {})
    if reserved := {"format", "architecture"} & set(extra):
        raise ValueError(f"save_model: {', '.join(sorted(reserved))} is written by save_model itself")
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / ".model.safetensors.part")
    info = {"format": FORMAT, "architecture": model.cfg.as_dict(), **extra}
    (folder / ".model.json.part").write_text(json.dumps(info, indent=2) + "\n")
    os.replace(folder / ".model.safetensors.part", folder / "model.safetensors")
    os.replace(folder / ".model.json.part", folder / "model.json")
    return folder


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Atlas, dict[str, Any]]:
    """The model in evaluation mode, and all of `model.json`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: another format, or weights that do not fit the architecture.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: no {name}; name the folder of a trained run")
    info = json.loads((folder / "model.json").read_text())
    if info.get("format") != FORMAT:
        raise ValueError(
            f"{folder / 'model.json'}: format is {info.get('format')!r}, this code reads {FORMAT!r}"
        )
    model = Atlas(AtlasConfig.from_dict(info["architecture"]))
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as err:
        raise ValueError(f"{folder / 'model.safetensors'}: weights do not fit model.json: {err}") from err
    return model.to(device).eval(), info
