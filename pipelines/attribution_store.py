"""Why an image contributed what it did: written by `score` from the forward pass that made the prediction.

One zarr v3 group an image, `attribution/<image_id>.zarr`:

    windows        (N, 2)       int64    row and column of each evaluated window at the model's level
    contribution   (N, 256, O)  float32  signed contribution of each token to each logit (row-major tokens)
    attention      (N, 256)     float32  attention of the head; a diagnostic, not an explanation

and attributes (`AttributionInfo`). Over all images of a case, contributions sum to `logit - bias`. For an
ensemble they are the mean of the members' maps and sum to the mean logit. Other methods computed later (`ig`,
`occlusion`) are further arrays of shape (N, 256, O).

A group is written beside and renamed, so a reader never meets half of one.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel

from atlas_path import RESEARCH_USE_ONLY
from atlas_path.errors import UsageError
from atlas_path.results import Task
from pipelines.token_map import LevelFrame, TokenMap

FORMAT = "atlas-path-attribution/1"
CHUNK_WINDOWS = 1024
Float = NDArray[np.float32]


class AttributionInfo(BaseModel):
    """Attributes of a group. `frame` is `LevelFrame.as_dict()`; `um_first_pixel_yx` is the centre of
    the level's first pixel in the micrometre frame of the store, so that layers line up with its image."""

    format: str = FORMAT
    intended_use: str = RESEARCH_USE_ONLY
    image_id: str
    case_id: str
    task: Task
    outputs: list[str]
    level: int
    frame: dict[str, Any]
    um_first_pixel_yx: tuple[float, float] = (0.0, 0.0)
    bias: list[float]
    case_logits: list[float]
    image_share: list[float]
    completeness_error: float
    exact: bool
    model_sha256: str
    store: str = ""
    store_key: str = ""
    kind: int = 0


@dataclass(frozen=True)
class Attribution:
    """One image's maps in memory: arrays as described at the top of the module."""

    info: AttributionInfo
    row_col_N2: NDArray[np.int64]
    contribution_NTO: Float
    attention_NT: Float

    @property
    def frame(self) -> LevelFrame:
        """Where the map lies on the slide."""
        return LevelFrame.from_dict(self.info.frame)

    def token_map(self, weight_O: NDArray[np.float64], what: str) -> TokenMap:
        """The signed map of one linear combination of the outputs (see `explain.explained_output`)."""
        values = self.contribution_NTO @ weight_O.astype(np.float32)
        return TokenMap(self.info.image_id, self.frame, self.row_col_N2, values, what)

    def attention_map(self) -> TokenMap:
        """Attention as a map; unsigned, and a diagnostic only."""
        what = "attention of the head (a diagnostic: it is not why the model decided)"
        return TokenMap(
            self.info.image_id, self.frame, self.row_col_N2, self.attention_NT, what, signed=False
        )


def attribution_path(scores: Path, image_id: str) -> Path:
    """Where the maps of an image are."""
    return scores / "attribution" / f"{image_id}.zarr"


def write_attribution(path: Path, attribution: Attribution) -> None:
    """Write a group, whole or not at all; an older one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    group = zarr.open_group(
        part, mode="w", zarr_format=3, attributes=attribution.info.model_dump(mode="json")
    )
    _write_array(group, "windows", attribution.row_col_N2)
    _write_array(group, "contribution", attribution.contribution_NTO)
    _write_array(group, "attention", attribution.attention_NT)
    if path.exists():
        shutil.rmtree(path)
    os.replace(part, path)


def add_method(path: Path, method: str, value_NTO: Float) -> None:
    """Add the maps of another method to a group; complete only when its marker attribute is set."""
    group = zarr.open_group(path, mode="r+")
    if method in group:
        del group[method]
    _write_array(group, method, value_NTO)
    group[method].attrs["complete"] = True


def read_method(path: Path, method: str) -> Float | None:
    """The maps of another method, (N, 256, O), or None when they have not been computed."""
    group = zarr.open_group(path, mode="r")
    if method not in group or not group[method].attrs.get("complete"):
        return None
    return np.asarray(group[method][:], np.float32)


def read_info(path: Path) -> AttributionInfo:
    """Only the attributes of a group.

    Raises:
        UsageError: there is no such group, or it has another format.
    """
    if not (path / "zarr.json").is_file():
        raise UsageError(path, "no attribution is stored here", "score this image again")
    attributes = dict(zarr.open_group(path, mode="r").attrs)
    if attributes.get("format") != FORMAT:
        raise UsageError(path, f"format is {attributes.get('format')!r}, not {FORMAT!r}", "score again")
    return AttributionInfo.model_validate(attributes)


def read_attribution(path: Path) -> Attribution:
    """A whole group.

    Raises:
        UsageError: there is no such group, or it has another format.
    """
    info = read_info(path)
    group = zarr.open_group(path, mode="r")
    return Attribution(
        info,
        np.asarray(group["windows"][:], np.int64),
        np.asarray(group["contribution"][:], np.float32),
        np.asarray(group["attention"][:], np.float32),
    )


def _write_array(group: Any, name: str, values: NDArray[Any]) -> None:
    chunks = (max(1, min(CHUNK_WINDOWS, len(values))), *values.shape[1:])
    array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)
    array[...] = values
