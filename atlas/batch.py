"""What goes into the model and what comes out.

Shapes: N windows as given, C channels, I images, B cases, T tokens of a window, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class WindowBatch:
    """The kept windows of one or more images of one or more cases, in any order.

    Windows that are not in the batch are background: they are neither read nor attended to.
    """

    pixels_NCHW: Tensor
    """uint8, uint16 or floating point in [0, 1]; windows of 256 px (16 px x `window_tokens`)."""
    row_N: Tensor
    """Window row in the grid of its image, int64."""
    col_N: Tensor
    image_N: Tensor
    """Index of the window's image, int64, 0..I-1."""
    size_I2: Tensor
    """(height_px, width_px) of each image at this level, int64; windows may reach beyond it."""
    mpp_I2: Tensor
    """(y, x) micrometres per pixel of each image, float32."""
    case_I: Tensor
    """Case of each image, int64, 0..B-1."""
    embed_I: Tensor | None = None
    """Optional kind of each image (mammography: view x side), int64, 0 = unknown."""

    @property
    def n_cases(self) -> int:
        """B: one more than the largest case index."""
        return int(self.case_I.max()) + 1 if len(self.case_I) else 0

    def __len__(self) -> int:
        return len(self.row_N)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> WindowBatch:
        """A copy on `device`."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> WindowBatch:
        """A copy in page-locked memory (called by `DataLoader(pin_memory=True)`)."""
        return self._map(lambda t: t.pin_memory())

    def select(self, keep_N: Tensor) -> WindowBatch:
        """The same images and cases with only the windows `keep_N` (bool mask or indices): exact removal."""
        keep_N = keep_N.to(self.row_N.device)
        return WindowBatch(
            self.pixels_NCHW[keep_N.to(self.pixels_NCHW.device)], self.row_N[keep_N], self.col_N[keep_N],
            self.image_N[keep_N], self.size_I2, self.mpp_I2, self.case_I, self.embed_I,
        )  # fmt: skip

    def _map(self, fn: Callable[[Tensor], Tensor]) -> WindowBatch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {k: v if v is None else fn(v) for k, v in values.items()}
        return WindowBatch(**values)


@dataclass
class AtlasOutput:
    """What one forward pass says about every case."""

    logits_BO: Tensor
    """float32 (float64 in a float64 model)."""
    contribution_NTO: Tensor | None = None
    """Signed share of every token in every logit, windows in the order they were given; tokens row-major.
    Summed over the tokens of a case, plus `bias_O`, it is the logit. None for the 'reference' head."""
    attention_NT: Tensor | None = None
    """Weight of every token in the read-out, summing to 1 over a case; a diagnostic, not an explanation."""
    bias_O: Tensor | None = None

    def detach(self) -> AtlasOutput:
        """The same numbers without their graph."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {k: v if v is None else v.detach() for k, v in values.items()}
        return AtlasOutput(**values)
