"""`metrics.json`, other results: classes and grades, numbers, survival, localisation, two models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atlas_path.report.schema_base import Number, Part
from atlas_path.report.schema_binary import ReliabilityBin


class ClassesResult(Part):
    """Several exclusive classes, or ordered grades."""

    classes: list[str]
    ordered: bool
    n: int
    n_patients: int
    counts: dict[str, int]
    confusion: list[list[int]]
    """Rows: true class, columns: predicted class."""
    accuracy: Number
    balanced_accuracy: Number
    kappa: Number
    kappa_weights: Literal["none", "quadratic"]
    macro_auroc: Number
    class_auroc: dict[str, Number]


class RegressionResult(Part):
    """A continuous outcome."""

    n: int
    n_patients: int
    mean_absolute_error: Number
    root_mean_square_error: Number
    r2: Number
    pearson: Number
    spearman: Number
    bias: Number
    slope: Number
    """Slope of observed on predicted: 1 is ideal."""
    points: list[tuple[float, float]]
    """(predicted, observed), at most 2000."""


class HorizonResult(Part):
    """Discrimination and calibration of the risk at one time."""

    time: float
    n_at_risk: int
    n_events: int
    n_censored_before: int
    auc: Number
    brier: Number | None = None
    predicted_risk: float | None = None
    observed_risk: Number | None = None
    """1 - Kaplan-Meier."""
    bins: list[ReliabilityBin] = Field(default_factory=list)


class SurvivalCurve(Part):
    """Kaplan-Meier curve of one third of the cases by predicted risk."""

    label: str
    n: int
    time: list[float]
    survival: list[float]
    low: list[float]
    high: list[float]


class SurvivalResult(Part):
    """Time to an event with censoring."""

    time_unit: str
    n: int
    n_patients: int
    n_events: int
    median_follow_up: float | None
    tau: float
    """Uno's C looks at events before this time."""
    harrell_c: Number
    uno_c: Number
    horizons: list[HorizonResult]
    groups: list[SurvivalCurve] = Field(default_factory=list)
    integrated_brier: Number | None = None


class FrocResult(Part):
    """Free-response ROC as CAMELYON16 defines it."""

    n_images: int
    n_lesions: int
    n_ignored: int
    """Lesions smaller than the size limit: hits on them count neither way."""
    n_detections: int
    false_positives: list[float]
    sensitivity: list[float]
    at: dict[str, float]
    """Sensitivity at 1/4, 1/2, 1, 2, 4, 8 false positives an image."""
    score: Number


class SizeBin(Part):
    """Lesions of one size range, and how many were found."""

    label: str
    n: int
    hit: Number


class LocalisationResult(Part):
    """Does the map point at the lesion?"""

    map: str
    """Which map made the detections."""
    pointing: Number
    pointing_chance: float
    pointing_p: float | None
    tolerance_um: float | None
    froc: FrocResult | None = None
    sizes: list[SizeBin] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class McNemarResult(Part):
    """Exact McNemar test at the frozen points of both models."""

    point: str
    among: Literal["positives", "negatives", "all"]
    first_threshold: float
    second_threshold: float
    only_first_right: int
    only_second_right: int
    p: float
    note: str = ""


class ComparisonResult(Part):
    """Two models on the same cases."""

    outcome: str
    first: str
    second: str
    n: int
    n_patients: int
    auroc_first: Number
    auroc_second: Number
    difference: Number
    p: float | None
    test: str
    bootstrap_difference: Number
    mcnemar: list[McNemarResult] = Field(default_factory=list)
