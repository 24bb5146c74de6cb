"""Look at a slide as a whole and decide everything about its store, before the first pixel is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atlas_path import __version__
from atlas_path.errors import NoTissueError
from atlas_path.geometry import WINDOW_PX, Grid, Mpp
from atlas_path.slides import Thumbnail, open_slide, read_thumbnail, require_mpp
from atlas_path.slides.base import KeepsAttributes, KnowsItsTissue, Slide
from atlas_path.slides.colour import apply_icc_srgb
from atlas_path.store.aside import Aside
from atlas_path.store.job import Job, kept_windows
from atlas_path.store.layout import write_json
from atlas_path.store.levels import base_of_kept_tiles, codec_for, level_sources, plan_levels
from atlas_path.store.meta import (
    BaseRecord,
    Codec,
    CountRecord,
    LevelRecord,
    MppRecord,
    SourceRecord,
    StoreMeta,
    TissueRecord,
)
from atlas_path.store.options import PreprocessOptions, parameter_hash
from atlas_path.store.overview import (
    background_of,
    display_ranges,
    outline_picture,
    save_jpeg,
)
from atlas_path.store.plan import Base, choose_base
from atlas_path.tissue import (
    TissueMask,
    TissueParams,
    find_tissue,
    mask_from_geojson,
    tissue_geojson,
    window_fractions,
)

THUMBNAIL_PX_MAX = 12_000_000


@dataclass(frozen=True)
class Request:
    """One image to convert.

    Args:
        slide: the source file.
        image_id: names the store.
        out: folder of stores.
        fingerprint: of the source, taken before reading.
        mpp_given: um per px that overrides the file's, or None.
    """

    slide: Path
    image_id: str
    out: Path
    fingerprint: dict[str, Any]
    mpp_given: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A job and what the metadata will say of it."""

    job: Job
    meta: StoreMeta
    fractions: tuple[np.ndarray, ...]
    mask: np.ndarray
    mask_mpp: Mpp
    ranges: tuple[tuple[float, float], ...]
    icc_profile: bytes | None


def prepare(
    request: Request, options: PreprocessOptions, part: Path, threads: int = 2, aside: Aside | None = None
) -> Prepared:
    """Decide how a slide is converted: resolution, tissue, levels, layouts. It will be written in `part`.

    Writes the thumbnail with the tissue outline, whatever follows: before it returns, or by `aside`.

    Raises:
        MissingMppError: the slide's resolution is unknown and nobody gave it.
        ResolutionError: the slide is too coarse for `options.mpp`.
        NoTissueError: no window has tissue.
        UnreadableSlideError: the file cannot be opened.
    """
    if aside is None:
        with Aside() as own:
            return prepare(request, options, part, threads, own)
    with open_slide(request.slide, request.mpp_given, options.mammo) as slide:
        mpp, codec = require_mpp(slide), codec_for(slide, options)
        base = choose_base(_subject(slide), slide.levels, mpp, options.mpp, options.tolerance)
        base = base_of_kept_tiles(slide, base, mpp, codec, options)
        thumbnail = read_thumbnail(slide, _thumbnail_mpp(slide, options), threads)
        overview = thumbnail.pixels
        if options.icc == "srgb":
            overview = apply_icc_srgb(overview, slide.icc_profile)
        tissue = _find(slide, overview, thumbnail, request, options)
        aside.submit(_draw_thumbnail, overview, tissue, request)
        sources = level_sources(slide, base, codec, options)
        sizes = [(source.height_px, source.width_px) for source in sources]
        fractions = tissue_fractions(tissue.mask, sizes)
        keep = kept_windows(fractions, sizes, _scanned(slide, base))
        if not keep[0].any():
            raise NoTissueError(
                _subject(slide),
                "no tissue was found",
                f"look at thumbnails/{request.image_id}.jpg; --tissue none keeps every window",
            )
        full = slide.levels[0]
        aside.submit(_write_outline, tissue, full.height_px, full.width_px, _origin(slide), request)
        background = background_of(slide, overview, tissue)
        job = Job(
            slide_path=request.slide,
            mpp_given=request.mpp_given,
            part=part,
            base=base,
            background=background,
            levels=plan_levels(slide, sources, keep, codec, background, options),
            icc_srgb=options.icc == "srgb",
            max_bad=options.max_bad,
            check_tiles=options.check_tiles,
            mammo=options.mammo,
            subject=_subject(slide),
        )
        return Prepared(
            job=job,
            meta=_meta(slide, job, codec, tissue, request, options),
            fractions=tuple(fractions),
            mask=tissue.mask,
            mask_mpp=tissue.mpp,
            ranges=tuple(display_ranges(overview)),
            icc_profile=slide.icc_profile,
        )


def tissue_fractions(mask: np.ndarray, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """(rows, cols) float32 of each level: from the mask for level 0, from the four below for the others."""
    fractions = [window_fractions(mask, *sizes[0], WINDOW_PX)]
    areas = _areas(sizes[0])
    tissue = fractions[0] * areas
    for size in sizes[1:]:
        grid = Grid(*size)
        tissue, areas = _sum_of_four(tissue, grid), _sum_of_four(areas, grid)
        fractions.append((tissue / areas).astype(np.float32))
    return fractions


def _areas(size: tuple[int, int]) -> np.ndarray:
    """(rows, cols) pixels of each window that lie inside the level."""
    rows, cols = (
        np.minimum(WINDOW_PX, px - np.arange(-(-px // WINDOW_PX)) * WINDOW_PX).astype(np.float64)
        for px in size
    )
    return np.outer(rows, cols)


def _sum_of_four(values: np.ndarray, grid: Grid) -> np.ndarray:
    """(grid.rows, grid.cols) sums over 2 x 2 values."""
    padded = np.zeros((grid.rows * 2, grid.cols * 2))
    inside = values[: grid.rows * 2, : grid.cols * 2]
    padded[: inside.shape[0], : inside.shape[1]] = inside
    return np.asarray(padded.reshape(grid.rows, 2, grid.cols, 2).sum(axis=(1, 3)))


def _find(
    slide: Slide, overview: np.ndarray, thumbnail: Thumbnail, request: Request, options: PreprocessOptions
) -> TissueMask:
    """The tissue mask: from an edited outline if there is one; all for `--tissue none`; else detected."""
    outline = options.outline_of(request.image_id)
    if outline is None and options.tissue == "auto" and isinstance(slide, KnowsItsTissue):
        return TissueMask(slide.tissue_mask(*overview.shape[:2]), thumbnail.mpp, slide.notes)
    if outline is None:
        params = TissueParams(**{**options.tissue_params, "method": options.tissue})
        return find_tissue(overview, thumbnail.mpp, params, thumbnail.valid)
    full, mask_px = slide.levels[0], (overview.shape[0], overview.shape[1])
    return mask_from_geojson(
        outline, mask_px, full.height_px, full.width_px, require_mpp(slide), _origin(slide)
    )


def _thumbnail_mpp(slide: Slide, options: PreprocessOptions) -> float:
    """Radiographs are coarser than any tissue thumbnail: an eighth of their own resolution will do.

    Giants are looked at a little more coarsely, because tissue finding holds the whole picture in memory.
    """
    native, full = float(require_mpp(slide).mean), slide.levels[0]
    largest = native * (full.height_px * full.width_px / THUMBNAIL_PX_MAX) ** 0.5
    least = max(options.tissue_mpp, largest)
    return float(max(least, 8 * native) if isinstance(slide, KnowsItsTissue) else least)


def _subject(slide: Slide) -> str:
    """What errors call the slide: its path, or a pseudonym where the file's name must not be told."""
    return str(getattr(slide, "subject", slide.path))


def _draw_thumbnail(overview: np.ndarray, tissue: TissueMask, request: Request) -> None:
    """`thumbnails/<image_id>.jpg`, with the outline of the tissue."""
    picture = request.out / "thumbnails" / f"{request.image_id}.jpg"
    save_jpeg(picture, outline_picture(overview, tissue.mask))


def _write_outline(
    tissue: TissueMask, height_px: int, width_px: int, origin_px: tuple[int, int], request: Request
) -> None:
    """`tissue/<image_id>.geojson`, to be opened, and edited, in QuPath."""
    outline = tissue_geojson(tissue.mask, height_px, width_px, origin_px)
    write_json(request.out / "tissue" / f"{request.image_id}.geojson", outline, indent=None)


def _origin(slide: Slide) -> tuple[int, int]:
    """(y, x) of the upper left pixel that QuPath shows: it crops slides to their scanned area."""
    return slide.bounds_px[:2] if slide.bounds_px else (0, 0)


def _scanned(slide: Slide, base: Base) -> np.ndarray | None:
    """(rows, cols) bool, the windows of level 0 that touch the scanned area, where the format tells it."""
    if slide.bounds_px is None:
        return None
    grid = Grid(base.height_px, base.width_px)
    y, x, height, width = slide.bounds_px
    rows, cols = np.arange(grid.rows) * WINDOW_PX, np.arange(grid.cols) * WINDOW_PX
    in_y = ((rows + WINDOW_PX) * base.downsample_y > y) & (rows * base.downsample_y < y + height)
    in_x = ((cols + WINDOW_PX) * base.downsample_x > x) & (cols * base.downsample_x < x + width)
    return np.outer(in_y, in_x)


def _meta(
    slide: Slide,
    job: Job,
    codec: Codec,
    tissue: TissueMask,
    request: Request,
    options: PreprocessOptions,
) -> StoreMeta:
    outline = options.outline_of(request.image_id)
    parameters = options.parameters(request.mpp_given, outline)
    windows = job.levels[0].keep.size
    return StoreMeta(
        image_id=request.image_id,
        atlas_path_version=__version__,
        source=SourceRecord(
            name=request.image_id if isinstance(slide, KeepsAttributes) else request.slide.name,
            fingerprint=request.fingerprint,
            reader=slide.reader,
            reader_version=slide.reader_version,
            vendor=slide.vendor,
            compression=slide.compression,
            kind=slide.kind,
            height_px=slide.levels[0].height_px,
            width_px=slide.levels[0].width_px,
            n_levels=len(slide.levels),
            mpp=MppRecord.of(slide.mpp) if slide.mpp else None,
            mpp_source=slide.mpp_source,
            bounds_px=slide.bounds_px,
            has_icc_profile=slide.icc_profile is not None,
            notes=tuple(slide.notes),
        ),
        mpp=MppRecord.of(job.base.mpp),
        mpp_requested=options.mpp,
        base=BaseRecord(
            source_level=job.base.level,
            how=job.base.how,
            downsample_y=job.base.downsample_y,
            downsample_x=job.base.downsample_x,
        ),
        codec=codec,
        dtype=slide.dtype.name,
        background=job.background,
        channel_names=tuple(slide.channel_names),
        levels=tuple(
            LevelRecord(
                height_px=level.height_px,
                width_px=level.width_px,
                origin=level.origin,
                path=str(k) if level.layout else None,
            )
            for k, level in enumerate(job.levels)
        ),
        tissue=TissueRecord(
            method="outline" if outline else options.tissue,
            mpp=MppRecord.of(tissue.mpp),
            area_mm2=round(tissue.area_mm2, 6),
            flags=tissue.flags,
        ),
        counts=CountRecord(windows=windows, stored=job.n_kept, empty=windows - job.n_kept, bad=0, bad_px=0),
        parameters=parameters,
        parameters_sha256=parameter_hash(parameters),
        facts=slide.store_attributes() if isinstance(slide, KeepsAttributes) else {},
    )
