"""`metrics.json`, yes/no outcomes: discrimination, operating points, calibration, decisions, subgroups."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atlas_path.report.schema_base import Number, Part


class Confusion(Part):
    """Counts of cases at an operating point."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int


class PrevalenceAdjusted(Part):
    """Predictive values transported to another prevalence by Bayes' rule."""

    prevalence: float
    ppv: Number
    npv: Number


class OperatingPoint(Part):
    """Results at one threshold that was fixed before these rows were seen."""

    name: str
    threshold: float
    origin: str
    """Where the threshold comes from: the model file, the command line, or a tuning split of this table."""
    sha256: str | None = None
    hash_matches: bool | None = None
    """Whether the stored hash is that of the point; null where no hash was stored."""
    tuning: dict[str, float] = Field(default_factory=dict)
    """What the point promised on the tuning split."""
    confusion: Confusion
    sensitivity: Number
    specificity: Number
    ppv: Number
    npv: Number
    recall_rate: Number
    accuracy: Number
    balanced_accuracy: Number
    adjusted: list[PrevalenceAdjusted] = Field(default_factory=list)


class FixedRate(Part):
    """A point read off the ROC curve of the evaluated rows: a description, not an operating point."""

    fixed: Literal["sensitivity", "specificity"]
    target: float
    reached: Number


class RocPoint(Part):
    """Sensitivity, specificity and precision at 'probability >= threshold'; null threshold calls nothing."""

    threshold: float | None
    sensitivity: float
    specificity: float
    precision: float


class ReliabilityBin(Part):
    """One bin of the reliability plot."""

    predicted: float
    observed: Number
    n_events: int


class CalibrationResult(Part):
    """Calibration; ideal is intercept 0, slope 1, O/E 1."""

    probabilities: str
    """Which probabilities: as stored, and whether and how they were calibrated before."""
    intercept: Number
    slope: Number
    observed_expected: Number
    brier: Number
    brier_skill: Number
    ece: Number
    bins: list[ReliabilityBin]
    histogram_edges: list[float]
    histogram_positive: list[int]
    histogram_negative: list[int]


class Recalibration(Part):
    """Calibration of the same rows after recalibrating on the tuning split only."""

    method: str
    fitted_on: str
    n_fit: int
    parameters: dict[str, float]
    result: CalibrationResult


class DecisionPoint(Part):
    """Net benefit per case at a threshold probability; treating none is 0."""

    threshold: float
    model: float
    low: float | None
    high: float | None
    treat_all: float


class SubgroupRow(Part):
    """One value of a subgroup column; numbers are null where the group is suppressed."""

    value: str
    n: int
    n_patients: int
    n_positive: int
    suppressed: str = ""
    """Why nothing is shown, empty otherwise."""
    prevalence: Number | None = None
    auroc: Number | None = None
    sensitivity: Number | None = None
    specificity: Number | None = None
    observed_expected: Number | None = None


class SubgroupTable(Part):
    """Performance by the values of one column."""

    column: str
    rows: list[SubgroupRow]
    heterogeneity_q: float | None = None
    heterogeneity_df: int | None = None
    heterogeneity_p: float | None = None
    heterogeneity_note: str = ""


class Shortcut(Part):
    """Can the label be told from this column alone? Then a model may have learned the column."""

    column: str
    auroc: Number
    p: float | None
    """Permutation test of patients: chance of such an association if column and label were unrelated."""
    warning: str = ""


class SampleSize(Part):
    """Precision-based sample size: what this study reached and what a target interval would need."""

    quantity: str
    assumed: float
    half_width_reached: float | None
    half_width_target: float
    n_needed: int
    n_here: int
    formula: str


class BinaryResult(Part):
    """Everything about one yes/no outcome."""

    outcome: str
    """Name of the positive class or label."""
    other: str
    """Name of its absence."""
    n: int
    n_patients: int
    n_positive: int
    n_negative: int
    prevalence: Number
    auroc: Number
    auroc_why: str
    average_precision: Number
    roc: list[RocPoint] = Field(default_factory=list)
    operating_points: list[OperatingPoint] = Field(default_factory=list)
    fixed_rates: list[FixedRate] = Field(default_factory=list)
    calibration: CalibrationResult | None = None
    recalibration: list[Recalibration] = Field(default_factory=list)
    decision: list[DecisionPoint] = Field(default_factory=list)
    subgroups: list[SubgroupTable] = Field(default_factory=list)
    shortcuts: list[Shortcut] = Field(default_factory=list)
    sample_size: list[SampleSize] = Field(default_factory=list)
