"""The maps of a scored case: one attribution group an image, and where its level lies on the slide."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atlas_path.geometry import Mpp
from atlas_path.store import Store
from pipelines.attribution_store import Attribution, AttributionInfo, attribution_path, write_attribution
from pipelines.ensemble import CaseMaps, Ensemble
from pipelines.score_feed import ReadyCase
from pipelines.token_map import LevelFrame


def write_maps(
    scores: Path, case: ReadyCase, maps: CaseMaps, ensemble: Ensemble, completeness: float
) -> None:
    """Write the mean maps of a case, cut by image.

    Args:
        completeness: largest completeness error of the members.
    """
    assert maps.contribution_NTO is not None
    attention_NT = maps.attention_NT
    if attention_NT is None:
        attention_NT = np.zeros(maps.contribution_NTO.shape[:2], np.float32)
    start = 0
    for image in case.images:
        own = slice(start, start + image.ref.n_windows)
        start += image.ref.n_windows
        terms = np.ascontiguousarray(maps.contribution_NTO[own])
        info = AttributionInfo(
            image_id=image.planned.image_id,
            case_id=case.plan.case_id,
            task=ensemble.task,
            outputs=output_names(ensemble),
            level=image.ref.level,
            frame=frame_of(image.store, image.ref.level).as_dict(),
            um_first_pixel_yx=first_pixel_um(image.store, image.ref.level),
            bias=maps.bias_O.tolist(),
            case_logits=maps.logits_O.tolist(),
            image_share=_sums(terms).tolist(),
            completeness_error=completeness,
            exact=True,
            model_sha256=ensemble.sha256,
            store=relative(image.store.path, scores),
            store_key=store_key(image.store),
            kind=image.ref.kind,
        )
        attribution = Attribution(info, image.ref.row_col, terms, np.ascontiguousarray(attention_NT[own]))
        write_attribution(attribution_path(scores, image.planned.image_id), attribution)


def _sums(terms_NTO: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(terms_NTO.sum(axis=(0, 1), dtype=np.float64), np.float64)


def output_names(ensemble: Ensemble) -> list[str]:
    """A name for each logit."""
    classes, n = ensemble.task.classes, ensemble.n_outputs
    if ensemble.task.kind == "binary":
        return [classes[1]]
    if ensemble.task.kind == "ordinal":
        return [f"above {name}" for name in classes[:n]]
    return classes if len(classes) == n else [f"output {i}" for i in range(n)]


def frame_of(store: Store, level: int) -> LevelFrame:
    """Where a store's level lies on its slide."""
    shape = store.levels[level]
    y_zero, x_zero = store.to_slide_px(level, 0.0, 0.0)
    y_far, x_far = store.to_slide_px(level, 1024.0, 1024.0)
    bounds = store.meta.source.bounds_px or (0, 0, 0, 0)
    return LevelFrame(
        height_px=shape.height_px,
        width_px=shape.width_px,
        mpp=Mpp(shape.mpp.y, shape.mpp.x),
        origin_y0=y_zero,
        origin_x0=x_zero,
        scale_y=(y_far - y_zero) / 1024.0,
        scale_x=(x_far - x_zero) / 1024.0,
        bounds_y0=float(bounds[0]),
        bounds_x0=float(bounds[1]),
    )


def first_pixel_um(store: Store, level: int) -> tuple[float, float]:
    """Centre of a level's first pixel in the micrometre frame of the store (its own transformation)."""
    base, own = store.levels[0].mpp, store.levels[level].mpp
    return (own.y - base.y) / 2, (own.x - base.x) / 2


def relative(path: Path, start: Path) -> str:
    """A path as seen from a folder, with forward slashes; no absolute path is ever written."""
    return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()


def store_key(store: Store) -> str:
    """Content of the source and parameters of the store."""
    return f"{content_hash(store)}:{store.meta.parameters_sha256}"


def content_hash(store: Store) -> str:
    """Hash of the source file's content; the same slide has the same under any name."""
    return str(store.meta.source.fingerprint.get("sha256", ""))
