"""`atlas-path info`: what a slide or a store is, in words or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    path: Annotated[Path, typer.Argument(help="A slide file, or a store made by preprocess.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Say what a slide or a store is: size, levels, mpp and where it comes from, tissue, windows."""
    from atlas_path.errors import UsageError

    if not path.exists():
        raise UsageError(path, "no such file or folder", "check the path")
    facts, lines = _of_store(path) if _is_store(path) else _of_slide(path)
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines))


def _is_store(path: Path) -> bool:
    """A store of ours, complete or not, carries our attributes; any other OME-Zarr is a slide."""
    metadata = path / "zarr.json"
    return metadata.is_file() and "atlas_path" in json.loads(metadata.read_text()).get("attributes", {})


def _of_store(path: Path) -> tuple[dict[str, Any], list[str]]:
    from atlas_path.store import open_store

    meta = open_store(path).meta
    source, counts = meta.source, meta.counts
    levels = ", ".join(f"{level.width_px} x {level.height_px} ({level.origin})" for level in meta.levels)
    mpp = f"{meta.mpp.x:.4g} x {meta.mpp.y:.4g} um/px"
    lines = [
        f"{meta.image_id}: a store of {source.name} ({source.vendor or source.reader}), {meta.codec}",
        f"  resolution  {mpp}, {meta.base.how} from level {meta.base.source_level} of the slide",
        f"  slide mpp   {_mpp_text(source.mpp, source.mpp_source)}",
        f"  levels      {levels}",
        f"  channels    {', '.join(meta.channel_names)} ({meta.dtype})",
        f"  tissue      {meta.tissue.area_mm2:.2f} mm2 by {meta.tissue.method}"
        + (f"; {', '.join(meta.tissue.flags)}" if meta.tissue.flags else ""),
        f"  windows     {counts.stored} stored, {counts.empty} empty, {counts.bad} with unreadable pixels",
        *_mammogram_lines(meta.facts),
    ]
    return meta.model_dump(mode="json"), lines


def _of_slide(path: Path) -> tuple[dict[str, Any], list[str]]:
    from atlas_path.slides import describe, open_slide

    with open_slide(path) as slide:
        facts = describe(slide)
        mpp = _mpp_text(slide.mpp, slide.mpp_source)
    levels = ", ".join(f"{level['width_px']} x {level['height_px']}" for level in facts["levels"])
    size = facts["size_mm"]
    lines = [
        f"{facts['file']}: {facts['vendor'] or 'image'}, read with {facts['reader_version']}",
        f"  size        {facts['width_px']} x {facts['height_px']} px"
        + (f", {size[1]:.1f} x {size[0]:.1f} mm" if size else ""),
        f"  mpp         {mpp}",
        f"  levels      {levels}",
        f"  pixels      {facts['kind']}, {facts['dtype']}, {', '.join(facts['channels'])}",
        f"  compression {facts['compression'] or 'not known'}",
        f"  ICC profile {'yes' if facts['icc_profile'] else 'no'}",
        *(f"  note        {note}" for note in facts["notes"]),
        *_mammogram_lines(facts["facts"]),
    ]
    return facts, lines


def _mammogram_lines(facts: dict[str, Any]) -> list[str]:
    """What is particular to a mammogram; nothing for other images."""
    if "image_kind" not in facts:
        return []
    rules = ", ".join(str(item["kind"]) for item in facts["voi"]) or "none"
    view = " ".join((facts["laterality"] or "?", facts["view"] or "?", *facts["modifiers"]))
    grey = f"{facts['photometric']}, {facts['bits_stored']} bits"
    return [
        f"  view        {view}",
        f"  kind        {facts['image_kind']}, {facts['intent']}, {grey}",
        f"  VOI         {rules}",
        f"  checked     {facts['integrity']}",
    ]


def _mpp_text(mpp: Any, source: str | None) -> str:
    if mpp is None:
        return "not in the file: give it in a table with --mpp-csv (columns wsi,mpp)"
    return f"{mpp.x:.4g} x {mpp.y:.4g} um/px, from {source}"
