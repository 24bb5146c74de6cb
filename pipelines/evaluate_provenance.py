"""What produced the numbers: hashes of inputs and code, versions, options; and the flow of cases."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atlas_path
from atlas_path.report.schema import FlowStep, Provenance
from pipelines.evaluate_cases import CaseTable
from pipelines.evaluate_inputs import Predictions, hashes, read_text_table
from pipelines.evaluate_options import EvaluateOptions

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "matplotlib")
OK_STATUSES = {"done", "ok", "skipped", "complete", "exists", ""}


def provenance(predictions: Predictions, files: Iterable[Path], options: EvaluateOptions) -> Provenance:
    """Everything needed to see whether two reports come from the same data, model and code."""
    given = options.model_dump(exclude_defaults=True)
    model = predictions.info.model_sha256 if predictions.info else None
    if model is None and "model_sha256" in predictions.table.columns:
        named = sorted(set(predictions.table["model_sha256"]) - {""})
        model = named[0] if len(named) == 1 else None
    return Provenance(
        created_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        atlas_path_version=atlas_path.__version__,
        code=code_hash(),
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        inputs=hashes(files),
        model_sha256=model,
        seed=options.seed,
        n_resamples=options.resamples,
        options={key: _plain(value) for key, value in given.items()},
    )


def code_hash() -> str:
    """SHA-256 over the statistics, report and evaluate sources as installed."""
    root = Path(atlas_path.__file__).parent
    here = Path(__file__).parent
    sources = sorted([*(root / "stats").glob("*.py"), *(root / "report").glob("*.py")]) + sorted(
        here.glob("evaluate*.py")
    )
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def image_failures(paths: Iterable[Path]) -> Counter[str]:
    """Reasons of images that did not get through, from failures.csv or manifest.csv files."""
    reasons: Counter[str] = Counter()
    seen: set[str] = set()
    for path in paths:
        if path.stat().st_size == 0 or len(path.read_text(encoding="utf-8").strip().splitlines()) < 2:
            continue
        table = read_text_table(path)
        for row in table.to_dict("records"):
            status, reason = str(row.get("status", "failed")), str(row.get("reason", ""))
            name = str(row.get("image_id") or row.get("case_id") or row.get("path") or "")
            if status.lower() in OK_STATUSES or (name and name in seen):
                continue
            seen.add(name)
            reasons[reason or status] += 1
    return reasons


def flow(cases: CaseTable, evaluated: pd.DataFrame, failures: Counter[str]) -> list[FlowStep]:
    """From the cohort to the evaluated cases, with what left in between."""
    whole, part = cases.all_cases, cases.in_split
    steps = [_step("In the cohort", whole, cases.has_images)]
    if failures:
        lost = FlowStep(label="Images given to the pipeline", excluded=dict(failures), excluded_unit="images")
        steps.insert(0, lost)
    if cases.split != "all":
        steps[-1].excluded = {f"in another split than '{cases.split}'": len(whole) - len(part)}
        steps.append(_step(f"In split '{cases.split}'", part, cases.has_images))
    steps[-1].excluded = {**steps[-1].excluded, **{k: v for k, v in cases.ledger.excluded.items() if v}}
    if cases.split != "all" and len(steps) > 1:
        steps[-1].excluded.pop(f"in another split than '{cases.split}'", None)
    steps.append(_step("Evaluated", evaluated, cases.has_images))
    return steps


def _step(label: str, table: pd.DataFrame, has_images: bool) -> FlowStep:
    images = None
    if has_images and "n_rows" in table.columns:
        images = int(table["n_rows"].sum())
    patients = table["patient_id"].where(table["patient_id"] != "", table["case_id"])
    return FlowStep(label=label, images=images, cases=len(table), patients=int(patients.nunique()))
