"""`atlas-path preprocess SLIDES -o STORES`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from atlas_path.errors import ExitCode, UsageError


class CodecName(StrEnum):
    """How pixels are stored."""

    lz4 = "lz4"
    zstd = "zstd"
    jpeg = "jpeg"


class TissueMode(StrEnum):
    """Which windows are stored."""

    auto = "auto"
    none = "none"


class Check(StrEnum):
    """How copied tiles are checked."""

    signs = "signs"
    decode = "decode"


class Icc(StrEnum):
    """What happens to the colour profile."""

    keep = "keep"
    srgb = "srgb"


class DbtMode(StrEnum):
    """What becomes of a tomosynthesis stack."""

    refuse = "refuse"
    mip = "mip"
    slices = "slices"


class HashMode(StrEnum):
    """How much of a slide is hashed."""

    sampled = "sampled"
    full = "full"


def preprocess(
    slides: Annotated[
        list[Path] | None, typer.Argument(help="Slides, or folders that are searched for slides.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of stores.")] = Path("stores"),
    mpp: Annotated[
        str, typer.Option(help="Resolution of the finest level in um/px, or 'native' for the scanner's own.")
    ] = "0.5",
    tolerance: Annotated[
        float, typer.Option(help="Deviation from --mpp within which pixels stay as they are.")
    ] = 0.10,
    codec: Annotated[
        CodecName, typer.Option(help="lz4 or zstd: lossless, any zarr reader. jpeg: compact.")
    ] = CodecName.lz4,
    quality: Annotated[int, typer.Option(help="JPEG quality where compact encodes anew.")] = 90,
    recode: Annotated[
        bool,
        typer.Option("--recode", help="jpeg: encode anew, not keep, the tiles of slides twice as fine."),
    ] = False,
    tissue: Annotated[TissueMode, typer.Option(help="none: store every window.")] = TissueMode.auto,
    tissue_geojson: Annotated[
        Path | None,
        typer.Option(help="Folder of edited outlines <image_id>.geojson; they replace detection."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--tissue-set", help="Tissue setting, e.g. min_object_um2=1000.")
    ] = None,
    mpp_csv: Annotated[
        Path | None, typer.Option(help="CSV with columns wsi,mpp; overrides what the slides say.")
    ] = None,
    cohort: Annotated[Path | None, typer.Option(help="Cohort table: its slides, case ids and mpp.")] = None,
    max_bad: Annotated[float, typer.Option(help="A slide with more unreadable windows fails.")] = 0.01,
    check_tiles: Annotated[
        Check, typer.Option(help="jpeg: look for signs of damage in copied tiles, or decode them all.")
    ] = Check.signs,
    icc: Annotated[Icc, typer.Option(help="srgb: apply the colour profile.")] = Icc.keep,
    hash_: Annotated[
        HashMode, typer.Option("--hash", help="full: fingerprint by all bytes of a slide.")
    ] = HashMode.sampled,
    dbt: Annotated[
        DbtMode, typer.Option(help="Tomosynthesis: refused, one maximum-intensity image, or all slices.")
    ] = DbtMode.refuse,
    mammo_set: Annotated[
        list[str] | None,
        typer.Option("--mammo-set", help="Mammography policy, e.g. for_processing=accept, films=TABLE."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; 0: this process only. Default: by amount of work.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address or scheduler file of a running Dask cluster.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make finished stores anew.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first so many slides.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate time, disk and tissue; write nothing.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write Dask's performance report into runs/.")
    ] = False,
) -> None:
    """Turn slides into stores: tissue found, windows cut, one OME-Zarr pyramid a slide.

    The same command again goes on where it stopped. Slides that fail are listed in failures.csv.
    """
    from pydantic import ValidationError

    from atlas_path.slides.mammo_options import MammoOptions
    from atlas_path.store.options import PreprocessOptions
    from pipelines.preprocess import preprocess as run

    if not slides and cohort is None:
        raise UsageError("preprocess", "no slides were named", "name slides, folders of slides or --cohort")
    try:
        options = PreprocessOptions(
            mpp="native" if mpp == "native" else float(mpp),
            tolerance=tolerance,
            codec=codec.value,
            quality=quality,
            recode=recode,
            tissue=tissue.value,
            tissue_geojson=tissue_geojson,
            tissue_params=_settings(set_ or []),
            mpp_csv=mpp_csv,
            cohort=cohort,
            max_bad=max_bad,
            check_tiles=check_tiles.value,
            icc=icc.value,
            hash=hash_.value,
            mammo=MammoOptions.model_validate({"dbt": dbt.value, **_words(mammo_set or [])}),
            workers=workers,
            scheduler=scheduler,
            force=force,
            limit=limit,
            report=report,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"--{name.replace('_', '-')}", first["msg"], "see atlas-path preprocess --help"
        ) from None
    except ValueError:
        raise UsageError(
            "--mpp", f"{mpp!r} is no resolution", "give um/px such as 0.5, or 'native'"
        ) from None
    if dry_run:
        from pipelines.preprocess_estimate import estimate
        from pipelines.preprocess_estimate import report as report_of

        estimates = estimate(slides or [], output, options)
        typer.echo("\n".join(report_of(estimates, output, options)))
        return
    result = run(slides or [], output, options)
    for record in result.failures:
        typer.echo(f"not done: {record.image_id}: {record.error}", err=True)
    n_done = len(result.records) - len(result.failures)
    typer.echo(f"{n_done} of {len(result.records)} slides done; see {output / 'summary.md'}")
    if result.exit_code != ExitCode.OK:
        raise typer.Exit(result.exit_code)


def _words(pairs: list[str]) -> dict[str, str]:
    """`name=value` pairs as they stand."""
    return {name.strip(): value for name, _, value in (pair.partition("=") for pair in pairs)}


def _settings(pairs: list[str]) -> dict[str, float | bool]:
    """`name=value` pairs; values are numbers, true or false."""
    settings: dict[str, float | bool] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            value = {"true": True, "false": False}[text] if text in ("true", "false") else float(text)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(f"--tissue-set {pair}", "is not name=number", "for example min_object_um2=1000")
        settings[name.strip()] = value
    return settings
