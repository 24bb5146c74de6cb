"""The models of a run: one, or the folds of a cross-validation, whose calibrated values are averaged."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from atlas import Atlas, AtlasOutput, WindowBatch, load_model
from atlas.losses import probabilities, survival_risk
from atlas_path.errors import ModelError
from atlas_path.results import MemberInfo, OperatingPoint, Task
from pipelines.calibrate import apply_calibration

MUST_AGREE = ("task", "mpp", "min_tissue")


@dataclass(frozen=True)
class Member:
    """One model with its own calibration."""

    name: str
    model: Atlas
    info: dict[str, Any]
    sha256: str

    @property
    def calibration(self) -> dict[str, Any]:
        """`model.json`'s calibration; method 'none' where there is none."""
        found: dict[str, Any] = self.info.get("calibration") or {"method": "none", "parameters": {}}
        return found


@dataclass(frozen=True)
class MemberResult:
    """One model's answer for one case: raw logits, calibrated values, and how well the map adds up."""

    name: str
    sha256: str
    logits_O: NDArray[np.float64]
    values: NDArray[np.float64]
    completeness_error: float | None


@dataclass(frozen=True)
class CaseMaps:
    """Mean over the members; `contribution_NTO` sums to `logits_O - bias_O`. None: the head gives no map."""

    contribution_NTO: NDArray[np.float32] | None
    attention_NT: NDArray[np.float32] | None
    bias_O: NDArray[np.float64]
    logits_O: NDArray[np.float64]


class Ensemble:
    """The models that score. All agree on the task, the resolution and the kind of image."""

    def __init__(self, folder: Path, members: Sequence[Member], device: torch.device, bfloat16: bool) -> None:
        self.folder, self.members, self.device, self.bfloat16 = folder, list(members), device, bfloat16
        self.info = self.members[0].info
        self.task = _task(folder, self.info)
        self.mpp = float(self.info["mpp"])
        self.min_tissue = float(self.info.get("min_tissue", 0.01))
        self.points = [OperatingPoint.model_validate(p) for p in self.info.get("operating_points") or []]
        self.model_seconds = 0.0

    @property
    def sha256(self) -> str:
        """Of the weights file; for several models, of their hashes joined."""
        if len(self.members) == 1:
            return self.members[0].sha256
        return hashlib.sha256("".join(m.sha256 for m in self.members).encode()).hexdigest()

    @property
    def key(self) -> str:
        """Changes when anything that can change a prediction does: weights, calibration, thresholds."""
        digest = hashlib.sha256()
        for member in self.members:
            digest.update(member.sha256.encode())
            digest.update(json.dumps(member.info, sort_keys=True).encode())
        digest.update(f"{self.device.type} {self.bfloat16}".encode())
        return digest.hexdigest()

    @property
    def calibrated(self) -> bool:
        """Whether every member was calibrated."""
        return all(m.calibration.get("method", "none") != "none" for m in self.members)

    @property
    def n_outputs(self) -> int:
        return self.members[0].model.cfg.n_outputs

    def member_infos(self) -> list[MemberInfo]:
        """What `scores.json` records of the models."""
        return [MemberInfo(name=m.name, sha256=m.sha256, calibration=m.calibration) for m in self.members]

    def values_of(self, member: Member, logits_O: NDArray[np.float64]) -> NDArray[np.float64]:
        """A member's calibrated values of one case's logits, in the order of `Task.value_columns`."""
        kind = self.task.kind
        calibrated = torch.from_numpy(apply_calibration(logits_O[None], member.calibration))
        values = probabilities(kind, calibrated)
        if kind == "regression":
            scale = member.info["task"].get("scale") or {"mean": 0.0, "std": 1.0}
            values = values * scale["std"] + scale["mean"]
        if kind == "survival":
            values = torch.cat([survival_risk(calibrated)[:, None], values], dim=1)
        return np.asarray(values[0].numpy(), np.float64)

    def run(self, batch: WindowBatch, maps: bool) -> list[tuple[list[MemberResult], CaseMaps]]:
        """Score the cases of a batch: one forward pass a member gives the prediction and its map.

        Pixels stay where they are; the model moves them to its device piece by piece.

        Returns:
            For each case the members' results and the mean map of its windows, in their order in the batch.
        """
        started = time.perf_counter()
        case_N = batch.case_I[batch.image_N].cpu().numpy()
        outputs = [self._forward(member, batch, maps) for member in self.members]
        answers = [
            self._answer(outputs, case, np.flatnonzero(case_N == case)) for case in range(batch.n_cases)
        ]
        self.model_seconds += time.perf_counter() - started
        return answers

    def _forward(self, member: Member, batch: WindowBatch, maps: bool) -> AtlasOutput:
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            out = member.model(batch, maps=maps)
        return AtlasOutput(
            out.logits_BO.detach().cpu(), _cpu(out.contribution_NTO), _cpu(out.attention_NT), _cpu(out.bias_O)
        )

    def _answer(
        self, outputs: Sequence[AtlasOutput], case: int, rows: NDArray[np.int64]
    ) -> tuple[list[MemberResult], CaseMaps]:
        results, contributions, attentions, biases, logits = [], [], [], [], []
        for member, out in zip(self.members, outputs, strict=True):
            logits_O = out.logits_BO[case].double().numpy()
            bias_O = np.zeros(len(logits_O)) if out.bias_O is None else out.bias_O.double().numpy()
            error = None
            if out.contribution_NTO is not None:
                terms = out.contribution_NTO[rows].float().numpy()
                error = completeness_error(terms, bias_O, logits_O)
                contributions.append(terms)
            if out.attention_NT is not None:
                attentions.append(out.attention_NT[rows].float().numpy())
            values = self.values_of(member, logits_O)
            results.append(MemberResult(member.name, member.sha256, logits_O, values, error))
            biases.append(bias_O)
            logits.append(logits_O)
        maps = CaseMaps(
            _mean(contributions), _mean(attentions), np.mean(biases, axis=0), np.mean(logits, axis=0)
        )
        return results, maps


def completeness_error(
    terms_NTO: NDArray[np.float32], bias_O: NDArray[np.float64], logits_O: NDArray[np.float64]
) -> float:
    """How far contributions + bias miss the logit: the largest difference over the outputs, relative to the
    sum of absolute contributions (at least 1), so that cancelling terms are judged by their size."""
    flat = terms_NTO.reshape(-1, terms_NTO.shape[-1]).astype(np.float64)
    size = np.maximum(np.abs(flat).sum(axis=0), 1.0)
    return float((np.abs(flat.sum(axis=0) + bias_O - logits_O) / size).max())


def mean_values(results: Sequence[MemberResult]) -> NDArray[np.float64]:
    """The ensemble's values: the mean of the members' calibrated ones (probabilities still add up to one)."""
    return np.asarray(np.mean([r.values for r in results], axis=0), np.float64)


def load_ensemble(folder: Path, device: torch.device, bfloat16: bool = False) -> Ensemble:
    """Load the model of a run folder, or the models of its `fold_*` folders.

    Raises:
        ModelError: nothing to load, files that do not fit, or folds that disagree on task or resolution.
    """
    folders = [folder] if (folder / "model.json").is_file() else []
    if not folders:
        folders = sorted(p.parent for p in folder.glob("fold_*/model.json"))
    if not folders:
        raise ModelError(folder, "there is no model.json here nor in fold_*/", "give a run made by `train`")
    members = [_load_member(path, folder, device) for path in folders]
    first = members[0]
    for member in members[1:]:
        for name in MUST_AGREE:
            if _comparable(member.info.get(name)) != _comparable(first.info.get(name)):
                raise ModelError(
                    folder, f"{member.name} and {first.name} differ in '{name}'", "ensemble folds of one run"
                )
        if member.model.cfg.in_channels != first.model.cfg.in_channels:
            raise ModelError(folder, f"{member.name} reads other channels", "ensemble folds of one run")
    return Ensemble(folder, members, device, bfloat16)


def _load_member(path: Path, root: Path, device: torch.device) -> Member:
    name = path.name if path != root else root.name
    try:
        model, info = load_model(path, device)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        fault = " ".join(str(error).split())[:200]
        raise ModelError(path, f"cannot be loaded ({fault})", "train it again or give another run") from error
    for key in ("task", "mpp"):
        if key not in info:
            raise ModelError(path / "model.json", f"has no '{key}'", "give a run made by `atlas-path train`")
    digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    return Member(name, model, info, digest)


def _task(folder: Path, info: dict[str, Any]) -> Task:
    try:
        return Task.model_validate(info["task"])
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in ("task", *fault["loc"]))
        raise ModelError(folder / "model.json", f"{where}: {fault['msg']}", "train again") from error


def _comparable(value: Any) -> Any:
    """Task facts that are fitted on each fold's own training cases (scale, bins) may differ between folds."""
    if isinstance(value, dict):
        return {k: value[k] for k in ("kind", "name", "classes") if k in value}
    return value


def _cpu(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().cpu()


def _mean(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    if not arrays:
        return None
    return arrays[0] if len(arrays) == 1 else np.asarray(np.mean(arrays, axis=0), np.float32)
