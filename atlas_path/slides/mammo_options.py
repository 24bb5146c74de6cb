"""What a site decides about its mammograms before reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class MammoOptions(BaseModel):
    """Policies of the mammography reader; part of the parameter hash of a store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    for_processing: Literal["refuse", "accept"] = "refuse"
    """Raw detector images: their grey values are not those a model for presentation images has seen."""
    dbt: Literal["refuse", "mip", "slices"] = "refuse"
    """Tomosynthesis: one maximum-intensity image, or all slices as channels of one image."""
    unknown_view: Literal["refuse", "accept"] = "refuse"
    """Images of which neither header nor table says the view or the side."""
    films: Path | None = None
    """A table like `mammograms.csv` that lies elsewhere, with absolute paths or paths relative to itself."""
    outside_breast: Literal["mask", "keep"] = "mask"
    """Set pixels outside the breast to 0: burned-in letters (names, sides, views) stand there."""
