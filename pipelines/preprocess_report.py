"""What a run leaves for people and machines: `summary.md` and `runs/<utc>.json`."""

from __future__ import annotations

import platform
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from atlas_path import RESEARCH_USE_ONLY, __version__
from atlas_path.store.options import PreprocessOptions
from pipelines.work import BatchResult, ImageRecord, write_json, write_text


def write_run(out: Path, result: BatchResult, options: PreprocessOptions, started: float) -> None:
    """Write the record of this run and the summary of it."""
    seconds = time.time() - started
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started))
    path = out / "runs" / f"{stamp}.json"
    for n in range(2, 1000):
        if not path.exists():
            break
        path = out / "runs" / f"{stamp}-{n}.json"
    write_json(
        path,
        {
            "command": "preprocess",
            "atlas_path_version": __version__,
            "started_utc": stamp,
            "seconds": round(seconds, 2),
            "exit_code": int(result.exit_code),
            "options": options.model_dump(mode="json"),
            "machine": {
                "python": sys.version.split()[0],
                "system": platform.system(),
                "cores": _cores(),
            },
            "images": [asdict(record) for record in result.records],
        },
    )
    write_text(out / "summary.md", summary(result, options, seconds))


def summary(result: BatchResult, options: PreprocessOptions, seconds: float) -> str:
    """The run in a few lines of Markdown, failures with their reasons first."""
    records = result.records
    done = [record for record in records if record.ok]
    written = [record for record in done if record.reason == "written"]
    lines = [
        "# Preprocess",
        "",
        f"{RESEARCH_USE_ONLY}. atlas-path {__version__}.",
        "",
        f"* {len(records)} images: {len(done)} done ({len(written)} in this run), {len(result.failures)} not",
        f"* resolution asked for: {options.mpp} um/px, codec {options.codec}",
        f"* tissue: {sum(r.tissue_mm2 or 0 for r in done):.1f} mm2, "
        f"{sum(r.windows or 0 for r in done)} windows",
        f"* time: {seconds:.1f} s",
    ]
    damaged = [record for record in done if record.bad_windows]
    if damaged:
        lines.append(f"* {len(damaged)} images have unreadable windows; they are masked in labels/valid")
    if result.failures:
        lines += ["", "## Not done", "", "| image | reason | what and what to do |", "|---|---|---|"]
        lines += [f"| {r.image_id} | {r.reason} | {_cell(r.error)} |" for r in result.failures]
        reasons = Counter(record.reason for record in result.failures)
        lines += ["", "By reason: " + ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())]
    lines += [
        "",
        "## Done",
        "",
        "| image | um/px | size px | tissue mm2 | windows | bad | flags |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(record) for record in done[:500]]
    if len(done) > 500:
        lines.append(f"\n... and {len(done) - 500} more in manifest.csv")
    return "\n".join(lines) + "\n"


def _row(record: ImageRecord) -> str:
    return (
        f"| [{record.image_id}](thumbnails/{record.image_id}.jpg) | {record.mpp:.4g} | "
        f"{record.width_px} x {record.height_px} | {record.tissue_mm2:.2f} | {record.windows} | "
        f"{record.bad_windows} | {record.flags} |"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _cores() -> int:
    from pipelines.cluster import available_cores

    return available_cores()
