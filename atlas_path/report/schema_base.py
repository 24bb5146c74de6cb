"""The building blocks of `metrics.json`: strict models, and a number with its interval and its count."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from atlas_path.stats.intervals import Estimate


class Part(BaseModel):
    """Base of all parts: unknown keys are refused, and the text under a field is its documentation."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def finite(value: float | None) -> float | None:
    """A JSON number: NaN and infinities become null."""
    return None if value is None or not math.isfinite(value) else float(value)


class Number(Part):
    """An estimate, its interval, and what it rests on."""

    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    """Coverage the interval aims at."""
    n: int = 0
    """Rows (cases) it was computed on."""
    n_patients: int = 0
    method: str = ""
    note: str = ""
    """What a reader must know, for example why there is no interval."""

    @classmethod
    def of(cls, estimate: Estimate) -> Number:
        return cls(
            value=finite(estimate.value), low=finite(estimate.low), high=finite(estimate.high),
            level=estimate.level, n=estimate.n, n_patients=estimate.n_patients,
            method=estimate.method, note=estimate.note,
        )  # fmt: skip
