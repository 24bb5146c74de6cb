"""What a user may ask of `evaluate`, checked before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

TaskKind = Literal["binary", "multiclass", "multilabel", "ordinal", "regression", "survival"]
Share = Annotated[float, Field(gt=0, lt=1)]


class EvaluateOptions(BaseModel):
    """Options of `evaluate`; every default is the documented behaviour."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    split: str | None = None
    """Split to evaluate; default 'test' where the cohort has splits, else every case. 'all' takes all."""
    kind: TaskKind | None = None
    """What is predicted, for tables that do not say."""
    label: str | None = None
    """Label column; default from the model, the YAML, or 'label'."""
    positive: str | None = None
    """Positive class of a binary label whose values are words."""
    time: str | None = None
    event: str | None = None
    """Columns of a survival outcome."""
    time_unit: str = "time units"
    thresholds: list[float] = []
    """Thresholds fixed in advance, for tables without a model's operating points."""
    choose: list[str] = []
    """Rules (youden, sens:0.95, spec:0.9) that pick thresholds on the split `choose_on`."""
    choose_on: str = "tune"
    prevalences: list[Share] = []
    """Prevalences to which PPV and NPV are transported."""
    subgroups: list[str] | None = None
    """Columns to break down by; default: the known ones that the cohort has."""
    min_group: Annotated[int, Field(ge=1)] = 20
    """Cases a subgroup needs to be shown."""
    min_events: Annotated[int, Field(ge=1)] = 5
    """Patients with, and patients without, the condition that a subgroup needs to be shown."""
    recalibrate: list[Literal["platt", "isotonic", "temperature"]] = ["platt"]
    """Recalibrations fitted on the tuning split, shown beside the calibration as stored."""
    horizons: list[float] = []
    """Survival: times of the time-dependent AUC; default: quartiles of the event times."""
    compare: Path | None = None
    """Second model: a scores folder or table with the same cases."""
    truth: Path | None = None
    """Lesions: CSV (image_id,x,y,width,height in level-0 px) or a folder of GeoJSON files."""
    detections: Path | None = None
    """Detections: CSV (image_id,confidence,x,y); default: local maxima of the stored attribution maps."""
    truth_mpp: float | None = None
    """Micrometres per pixel of the truth's coordinates, where the attribution does not tell."""
    failures: list[Path] = []
    """Further failures.csv or manifest.csv files for the flow diagram."""
    heatmaps: Path | None = None
    """Folder of overlay PNGs for the galleries; default: `heatmaps` inside or beside the scores."""
    gallery: Annotated[int, Field(ge=0, le=50)] = 6
    """Cases in each gallery."""
    target_half_width: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Precision that the sample-size statement asks for."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    seed: int = 0
    title: str = "Evaluation report"
    intended_use: str | None = None
    """Sentence on the intended use; default from the model."""
