"""`metrics.json`: every number of a report, with its interval, its count and how it was computed.

The HTML page and all plots are drawn from these models and nothing else, so page and file cannot disagree.
Missing numbers are null, never NaN. The JSON schema is written beside as `metrics.schema.json`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atlas_path import RESEARCH_USE_ONLY
from atlas_path.report.schema_base import Number, Part
from atlas_path.report.schema_binary import BinaryResult
from atlas_path.report.schema_other import (
    ClassesResult,
    ComparisonResult,
    LocalisationResult,
    RegressionResult,
    SurvivalResult,
)

FORMAT = "atlas-path-metrics/1"


class Fault(Part):
    """Something wrong with the input: how many rows, which, and what was done about it."""

    code: str
    what: str
    done: str
    n: int
    examples: list[str] = Field(default_factory=list)


class FlowStep(Part):
    """One box of the flow diagram; counts are null where the input does not tell."""

    label: str
    images: int | None = None
    cases: int | None = None
    patients: int | None = None
    excluded: dict[str, int] = Field(default_factory=dict)
    """Reason -> count of what left between this box and the next."""
    excluded_unit: Literal["images", "cases"] = "cases"


class GalleryItem(Part):
    """A case shown in a gallery."""

    case_id: str
    probability: float
    label: str
    image: str | None
    """File name of the overlay inside the report's gallery folder, or null where none was found."""
    note: str = ""


class Gallery(Part):
    """Cases the model got most wrong."""

    title: str
    items: list[GalleryItem]


class ChecklistItem(Part):
    """One TRIPOD+AI item and where it is answered."""

    item: str
    section: str
    asks: str
    answered: Literal["here", "partly", "you"]
    where: str


class Provenance(Part):
    """What produced these numbers."""

    created_utc: str
    atlas_path_version: str
    code: str
    """SHA-256 of the installed statistics and report code."""
    versions: dict[str, str]
    inputs: dict[str, str]
    """File name -> SHA-256."""
    model_sha256: str | None
    seed: int
    n_resamples: int
    options: dict[str, str | float | int | bool | list[str] | list[float] | None]


class Primary(Part):
    """The one number a reader asks for first."""

    name: str
    number: Number


class Metrics(Part):
    """The whole file."""

    format: str = FORMAT
    notice: str = RESEARCH_USE_ONLY
    title: str
    task: str
    kind: str
    split: str
    intended_use: str
    primary: Primary
    unit: str = "case"
    faults: list[Fault] = Field(default_factory=list)
    flow: list[FlowStep] = Field(default_factory=list)
    binary: list[BinaryResult] = Field(default_factory=list)
    classes: ClassesResult | None = None
    regression: RegressionResult | None = None
    survival: SurvivalResult | None = None
    localisation: list[LocalisationResult] = Field(default_factory=list)
    comparisons: list[ComparisonResult] = Field(default_factory=list)
    galleries: list[Gallery] = Field(default_factory=list)
    checklist: list[ChecklistItem] = Field(default_factory=list)
    limits: list[str] = Field(default_factory=list)
    provenance: Provenance
    characteristics: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Column -> value -> number of cases, for the columns used as subgroups and the label."""
