"""Does the stored map point at the lesions? Pointing game and CAMELYON16 FROC on the evaluated images.

Detections come from the map of the explained output (see `explain`): tokens are summed under a Gaussian of
75 um (at least one token), and local maxima at least 150 um apart with positive evidence are detections, at
most 50 an image. The pointing game takes the highest of them. Nothing here was tuned on lesions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from atlas_path.errors import UsageError
from atlas_path.geometry import TOKEN_PX
from atlas_path.report.schema_base import Number
from atlas_path.report.schema_other import FrocResult, LocalisationResult, SizeBin
from atlas_path.stats import froc, pointing
from atlas_path.stats.froc import ImageHits
from atlas_path.stats.intervals import Floats, proportion
from pipelines.evaluate_cases import CaseTable
from pipelines.evaluate_inputs import Predictions, read_text_table, rename_columns
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import numbers
from pipelines.evaluate_truth import Points, Raster, Truth, read_truth

SMOOTH_UM = 75.0
APART_UM = 150.0
MOST_DETECTIONS = 50
ONE_FALSE_POSITIVE = 1.0
SLIDE_SIZES_UM = (
    ("below 0.5 mm", 0.0, 500.0),
    ("0.5 to 2 mm", 500.0, 2000.0),
    ("2 mm and more", 2000.0, np.inf),
)
BREAST_SIZES_UM = (("below 10 mm", 0.0, 1e4), ("10 to 20 mm", 1e4, 2e4), ("20 mm and more", 2e4, np.inf))


@dataclass(frozen=True)
class ImageFinding:
    """One evaluated image: its hits, and for images with lesions whether the highest point lies on one."""

    image_id: str
    patient: str
    hits: ImageHits
    pointed: bool | None
    chance: float | None


def localise(
    predictions: Predictions, cases: CaseTable, options: EvaluateOptions, files: list[Path]
) -> list[LocalisationResult]:
    """Judge the stored maps, or the detections of a table, against the truth; empty without `--truth`.

    Raises:
        UsageError: neither maps nor detections are at hand, or no evaluated image has a lesion.
    """
    if options.truth is None:
        return []
    truth = read_truth(options.truth)
    files += [options.truth] if options.truth.is_file() else sorted(options.truth.glob("*.geojson"))
    if options.detections is not None:
        files.append(options.detections)
        findings, source = _from_table(truth, cases, options), f"detections of {options.detections.name}"
    else:
        findings, source = _from_maps(truth, predictions, cases)
    with_lesion = [f for f in findings if f.pointed is not None]
    if not with_lesion:
        raise UsageError(options.truth, "no evaluated image has a lesion in it", "check image_id and --split")
    unused = truth.unused(f.image_id for f in findings)
    notes = [f"{len(unused)} images of the truth table are not among the evaluated images"] if unused else []
    return [_result(findings, with_lesion, source, notes, options)]


def _result(
    findings: list[ImageFinding],
    with_lesion: list[ImageFinding],
    source: str,
    notes: list[str],
    options: EvaluateOptions,
) -> LocalisationResult:
    pointed = pointing.pointing(
        [bool(f.pointed) for f in with_lesion],
        [f.chance or 0.0 for f in with_lesion],
        [f.patient for f in with_lesion],
    )
    result = LocalisationResult(
        map=source,
        pointing=Number.of(pointed.rate),
        pointing_chance=pointed.chance,
        pointing_p=pointed.p,
        tolerance_um=froc.WIDEN_UM,
        notes=notes,
    )
    hits = [f.hits for f in findings]
    if any(h.best_l.size for h in hits):
        curve = froc.froc(hits)
        score = froc.froc_estimate(
            hits, [f.patient for f in findings], min(1000, options.resamples), options.seed
        )
        keep = np.unique(
            np.linspace(0, curve.threshold.size - 1, min(400, curve.threshold.size)).round().astype(int)
        )
        result.froc = FrocResult(
            n_images=len(hits),
            n_lesions=sum(h.best_l.size for h in hits),
            n_ignored=sum(h.n_ignored for h in hits),
            n_detections=sum(h.n_detections for h in hits),
            false_positives=curve.false_positives[keep].tolist(),
            sensitivity=curve.sensitivity[keep].tolist(),
            at={f"{rate:g}": float(v) for rate, v in zip(froc.FALSE_POSITIVES, curve.at, strict=True)},
            score=Number.of(score),
        )
        result.sizes = _by_size(findings, curve)
    else:
        result.notes.append("all lesions are below 275 um: CAMELYON's rule leaves none for the FROC")
    return result


def _by_size(findings: list[ImageFinding], curve: froc.Froc) -> list[SizeBin]:
    """Lesions found at one false positive an image, by their major axis."""
    allowed = np.flatnonzero(curve.false_positives <= ONE_FALSE_POSITIVE)
    threshold = float(curve.threshold[allowed[0]])
    size = np.concatenate([f.hits.size_um_l for f in findings])
    best = np.concatenate([f.hits.best_l for f in findings])
    patient = np.concatenate([np.full(f.hits.best_l.size, f.patient, dtype=object) for f in findings]).astype(
        str
    )
    rows = []
    for label, low, high in BREAST_SIZES_UM if np.median(size) >= 5000 else SLIDE_SIZES_UM:
        inside = (size >= low) & (size < high)
        if inside.any():
            hit = proportion((best >= threshold)[inside], patient[inside])
            rows.append(SizeBin(label=label, n=int(inside.sum()), hit=Number.of(hit)))
    return rows


def _from_maps(truth: Truth, predictions: Predictions, cases: CaseTable) -> tuple[list[ImageFinding], str]:
    """Detections from `attribution/*.zarr` of the scores folder."""
    from pipelines.attribution_store import read_attribution
    from pipelines.explain import explained_output

    folder = predictions.folder / "attribution" if predictions.folder else None
    paths = sorted(folder.rglob("*.zarr")) if folder is not None and folder.is_dir() else []
    if not paths:
        raise UsageError(
            "--truth", "there are no stored maps to judge", "score with maps, or give --detections"
        )
    patients = dict(zip(cases.evaluated["case_id"], cases.evaluated["patient_id"], strict=True))
    findings, what = [], ""
    for path in paths:
        stored = read_attribution(path)
        if stored.info.case_id not in patients:
            continue
        explained = explained_output(stored.info.task, len(stored.info.bias), None, "")
        token_map = stored.token_map(explained.weight_O, explained.what)
        frame, what = token_map.frame, explained.what
        um_x, um_y = frame.mpp.x / frame.scale_x, frame.mpp.y / frame.scale_y
        raster = Raster.over(
            frame.origin_x0,
            frame.origin_y0,
            frame.width_px * frame.scale_x,
            frame.height_px * frame.scale_y,
            um_x,
            um_y,
        )
        row, col, score = peaks(token_map.raster(), TOKEN_PX * frame.mpp.y, TOKEN_PX * frame.mpp.x)
        y0, x0 = frame.to_slide_px((row + 0.5) * TOKEN_PX, (col + 0.5) * TOKEN_PX)
        row_NT, col_NT = token_map.token_row_col()
        inside = token_map.tokens_inside()
        token_y0, token_x0 = frame.to_slide_px(
            (row_NT[inside] + 0.5) * TOKEN_PX, (col_NT[inside] + 0.5) * TOKEN_PX
        )
        bounds = np.array([frame.bounds_x0, frame.bounds_y0]) if truth.from_qupath else np.zeros(2)
        outlines = [outline + bounds for outline in truth.of(stored.info.image_id)]
        findings.append(
            _judge(
                outlines, stored.info.image_id, patients[stored.info.case_id], raster, score, x0, y0,
                np.asarray(token_x0), np.asarray(token_y0),
            )
        )  # fmt: skip
    return findings, f"stored map: {what}"


def peaks(
    values: NDArray[Any], token_um_y: float, token_um_x: float
) -> tuple[np.ndarray, np.ndarray, Floats]:
    """Row, column and score of the map's local maxima, highest first; tokens without a value count as 0.

    At least one is returned, even where no evidence is positive, so that the map always points somewhere.
    """
    known = np.isfinite(values)
    sigma = [max(SMOOTH_UM / token_um_y, 0.5), max(SMOOTH_UM / token_um_x, 0.5)]
    smooth = ndimage.gaussian_filter(np.where(known, values, 0.0).astype(np.float64), sigma, mode="constant")
    size = [2 * max(1, round(APART_UM / um / 2)) + 1 for um in (token_um_y, token_um_x)]
    highest = ndimage.maximum_filter(smooth, size=size, mode="constant", cval=-np.inf)
    row, col = np.nonzero(known & (smooth == highest) & (smooth > 0))
    if not row.size:
        best = int(np.where(known, smooth, -np.inf).argmax())
        row, col = (np.array([v]) for v in np.unravel_index(best, smooth.shape))
        return row, col, np.maximum(smooth[row, col], np.finfo(float).tiny)
    order = np.argsort(-smooth[row, col], kind="stable")[:MOST_DETECTIONS]
    return row[order], col[order], smooth[row, col][order]


def _judge(
    outlines: list[Points], image_id: str, patient: str, raster: Raster, score: Floats, x0: Floats,
    y0: Floats,    token_x0: Floats, token_y0: Floats,
) -> ImageFinding:  # fmt: skip
    if not outlines:
        return ImageFinding(image_id, patient, froc.judge(None, score, y0, x0), None, None)
    lesions = raster.lesions(outlines)
    x, y = raster.to_px(np.asarray(x0), np.asarray(y0))
    hits = froc.judge(lesions, score, y, x)
    top = int(np.argmax(score)) if score.size else -1
    pointed = bool(_inside(lesions.labels, y[top : top + 1], x[top : top + 1])[0]) if top >= 0 else False
    token_x, token_y = raster.to_px(token_x0, token_y0)
    chance = float(_inside(lesions.labels, token_y, token_x).mean()) if token_x.size else 0.0
    return ImageFinding(image_id, patient, hits, pointed, chance)


def _inside(labels: np.ndarray, y: Floats, x: Floats) -> np.ndarray:
    row, col = np.floor(y).astype(int), np.floor(x).astype(int)
    within = (row >= 0) & (col >= 0) & (row < labels.shape[0]) & (col < labels.shape[1])
    found = np.zeros(row.size, dtype=bool)
    found[within] = labels[row[within], col[within]] > 0
    return found


def _from_table(truth: Truth, cases: CaseTable, options: EvaluateOptions) -> list[ImageFinding]:
    """Detections from a CSV (image_id, confidence, x, y in level-0 px); chance is over the covered area."""
    if options.detections is None or options.truth_mpp is None:
        raise UsageError("--detections", "micrometres per pixel are unknown", "give --truth-mpp")
    aliases = {"image_id": ("slide_id", "slide", "image"), "confidence": ("score", "prob", "probability")}
    table = rename_columns(read_text_table(options.detections), aliases)
    if not {"image_id", "confidence", "x", "y"} <= set(table.columns):
        raise UsageError(
            options.detections, f"columns are {', '.join(table.columns)}", "give image_id,confidence,x,y"
        )
    mpp = options.truth_mpp
    patients = _image_patients(cases)
    found = dict(list(table.groupby("image_id")))
    findings = []
    for image_id, patient in patients.items():
        rows = found.get(image_id, table.iloc[:0])
        score, x, y = (numbers(rows[c]) for c in ("confidence", "x", "y"))
        usable = np.isfinite(score) & np.isfinite(x) & np.isfinite(y)
        score, x, y = score[usable], x[usable], y[usable]
        corners = [outline.max(0) for outline in truth.of(image_id)]
        far_x = max([*x.tolist(), *(float(c[0]) for c in corners), 1.0]) + 100 / mpp
        far_y = max([*y.tolist(), *(float(c[1]) for c in corners), 1.0]) + 100 / mpp
        raster = Raster.over(0.0, 0.0, far_x, far_y, mpp, mpp)
        grid_y, grid_x = np.mgrid[0 : raster.height, 0 : raster.width]
        findings.append(
            _judge(
                truth.of(image_id), image_id, patient, raster, score, x, y,
                (grid_x.ravel() + 0.5) * raster.mpp / mpp, (grid_y.ravel() + 0.5) * raster.mpp / mpp,
            )
        )  # fmt: skip
    return findings


def _image_patients(cases: CaseTable) -> dict[str, str]:
    """Image (or case, where images are not listed) -> patient, for the evaluated cases."""
    table = cases.evaluated
    if "image_id" in table.columns and not (table["image_id"] == "(several)").any():
        return dict(zip(table["image_id"], table["patient_id"], strict=True))
    return dict(zip(table["case_id"], table["patient_id"], strict=True))
