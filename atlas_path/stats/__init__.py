"""Statistics of clinical evaluation: numbers with intervals that respect patients. Pure numpy and scipy."""

from __future__ import annotations

from atlas_path.stats.intervals import Estimate

__all__ = ["Estimate"]
