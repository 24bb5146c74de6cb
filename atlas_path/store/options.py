"""What `preprocess` can be told, and which of it changes the pixels of a store."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from atlas_path.slides.mammo_options import MammoOptions
from atlas_path.store.meta import Codec
from atlas_path.tissue import TissueParams

FORMAT_REVISION = 1  # raised when the same options would write other bytes


class PreprocessOptions(BaseModel):
    """Options of one run over a folder of slides.

    The first group decides what a store contains and is part of its parameter hash; the second only says how
    the work is done.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mpp: float | Literal["native"] = Field(
        default=0.5,
        description="resolution of the finest stored level, in um per px; 'native' keeps the scanner's",
    )
    tolerance: float = Field(
        default=0.10,
        ge=0,
        le=0.5,
        description="relative deviation from `mpp` within which pixels are kept as they are",
    )
    codec: Codec = Field(default="lz4", description="'lz4' or 'zstd' (lossless), 'jpeg' (compact)")
    quality: int = Field(
        default=90, ge=1, le=100, description="JPEG quality where compact has to encode anew"
    )
    recode: bool = Field(
        default=False,
        description="compact: encode anew, instead of keeping, the tiles of slides twice as fine as `mpp`",
    )
    tissue: Literal["auto", "none"] = Field(default="auto", description="'none' stores every window")
    tissue_mpp: float = Field(default=8.0, gt=0, description="resolution at which tissue is looked for")
    tissue_params: dict[str, Any] = Field(
        default_factory=dict, description="changes to the defaults of atlas_path.tissue.TissueParams"
    )
    tissue_geojson: Path | None = Field(
        default=None, description="folder of edited outlines <image_id>.geojson; they replace detection"
    )
    max_bad: float = Field(default=0.01, ge=0, le=1, description="largest fraction of unreadable windows")
    check_tiles: Literal["signs", "decode"] = Field(
        default="signs", description="compact: how tiles that are copied are checked for damage"
    )
    icc: Literal["keep", "srgb"] = Field(
        default="keep", description="'srgb' applies the embedded colour profile"
    )
    mammo: MammoOptions = Field(
        default_factory=MammoOptions, description="policies of the mammography reader"
    )
    hash: Literal["sampled", "full"] = Field(default="sampled", description="content hash of the fingerprint")

    workers: int | None = Field(
        default=None, ge=0, description="worker processes; 0: in this process; None: by size"
    )
    scheduler: str | None = Field(
        default=None, description="address of a running Dask scheduler, or a scheduler file"
    )
    mpp_csv: Path | None = Field(
        default=None, description="table with columns wsi, mpp; overrides the metadata"
    )
    cohort: Path | None = Field(default=None, description="cohort table: slides, their case ids and mpp")
    force: bool = Field(
        default=False, description="redo finished images, also those made with other parameters"
    )
    limit: int | None = Field(default=None, ge=1, description="only the first so many images")
    report: bool = Field(default=False, description="write Dask's performance report")
    giant_px: int = Field(
        default=4_000_000_000,
        ge=1,
        description="slides with more pixels are shared out between workers in bands",
    )

    @field_validator("tissue_params")
    @classmethod
    def _known_params(cls, given: dict[str, Any]) -> dict[str, Any]:
        known = {f.name for f in fields(TissueParams)} - {"method"}
        unknown = sorted(set(given) - known)
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        TissueParams(**given)
        return given

    def content(self) -> dict[str, Any]:
        """The options that change a store's content, as JSON."""
        mammo = self.mammo.model_dump(exclude_defaults=True, exclude={"films"})
        return {
            "format_revision": FORMAT_REVISION,
            "mpp": self.mpp,
            "tolerance": self.tolerance,
            "codec": self.codec,
            "quality": self.quality if self.codec == "jpeg" else None,
            **({"recode": self.recode} if self.codec == "jpeg" else {}),
            "tissue": self.tissue,
            "tissue_mpp": self.tissue_mpp,
            "tissue_params": self.tissue_params,
            "max_bad": self.max_bad,
            "check_tiles": self.check_tiles if self.codec == "jpeg" else None,
            "icc": self.icc,
            **({"mammo": mammo} if mammo else {}),
        }

    def parameters(self, mpp_given: float | None, outline: Path | None) -> dict[str, Any]:
        """`content` and what else was given for one image: its mpp and its edited outline (by hash)."""
        digest = hashlib.sha256(outline.read_bytes()).hexdigest() if outline else None
        return {**self.content(), "mpp_given": mpp_given, "outline_sha256": digest}

    def outline_of(self, image_id: str) -> Path | None:
        """The edited outline of an image, where there is one."""
        if self.tissue_geojson is None:
            return None
        path = self.tissue_geojson / f"{image_id}.geojson"
        return path if path.is_file() else None


def parameter_hash(parameters: dict[str, Any]) -> str:
    """SHA-256 over the parameters in a canonical form."""
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
