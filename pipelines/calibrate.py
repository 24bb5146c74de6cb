"""Probabilities one can read as such, and thresholds frozen before the test split is looked at.

Everything here is fitted on the tuning split. With few tuning cases a perfect separation would drive the
scale to infinity, so targets are smoothed as Platt (1999) proposed: (n+ + 1) / (n+ + 2) and 1 / (n- + 2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize

MIN_CASES = 8
MIN_PER_CLASS_FOR_PLATT = 10
RULES = {"sens95": ("sensitivity", 0.95), "sens90": ("sensitivity", 0.90), "spec95": ("specificity", 0.95),
         "spec90": ("specificity", 0.90)}  # fmt: skip


def fit_calibration(
    kind: str, method: str, logits_BO: np.ndarray, target: np.ndarray, known: np.ndarray
) -> dict[str, Any]:
    """Fit a calibration of logits.

    Args:
        kind: task kind; regression and survival are never calibrated.
        method: auto, temperature, platt (binary only) or none.
        logits_BO: raw logits of the tuning cases.
        target: (B,) classes or (B, O) for multilabel.
        known: mask of `target`.

    Returns:
        `{"method", "parameters", "fitted_on", "n"}`; `parameters` is `{"scale", "shift"}`, applied to logits
        as `scale * logit + shift` (a temperature T is scale 1 / T, shift 0).
    """
    rows = known if known.ndim == 1 else known.any(1)
    n = int(rows.sum())
    none = {"method": "none", "parameters": {}, "fitted_on": "tune" if n else "nothing", "n": n}
    if method == "none" or kind not in ("binary", "multiclass", "multilabel", "ordinal") or n < MIN_CASES:
        return none
    if kind == "binary":
        positives = int(target[rows].sum())
        if min(positives, n - positives) < 2:
            return none
        if method == "auto":
            enough = min(positives, n - positives) >= MIN_PER_CLASS_FOR_PLATT
            method = "platt" if enough else "temperature"
    elif method != "none":
        method = "temperature"
    logits = np.asarray(logits_BO, np.float64)

    def loss(parameters: np.ndarray) -> float:
        shift = parameters[1] if method == "platt" else 0.0
        return _smoothed_loss(kind, np.exp(parameters[0]) * logits + shift, target, known)

    start = np.zeros(2 if method == "platt" else 1)
    bounds = [(-4.0, 4.0), (-20.0, 20.0)][: len(start)]
    fit = minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    scale, shift = float(np.exp(fit.x[0])), float(fit.x[1]) if method == "platt" else 0.0
    return {"method": method, "parameters": {"scale": scale, "shift": shift}, "fitted_on": "tune", "n": n}


def apply_calibration(logits_BO: np.ndarray, calibration: dict[str, Any]) -> np.ndarray:
    """Calibrated logits; the input where nothing was fitted."""
    parameters = calibration.get("parameters") or {}
    return np.asarray(logits_BO * parameters.get("scale", 1.0) + parameters.get("shift", 0.0))


def _smoothed_loss(kind: str, logits_BO: np.ndarray, target: np.ndarray, known: np.ndarray) -> float:
    if kind == "multiclass":
        n_classes = logits_BO.shape[1]
        smooth = 1.0 / (len(target) / n_classes + n_classes)
        want = np.full(logits_BO.shape, smooth / n_classes)
        want[np.arange(len(target)), target] += 1 - smooth
        log_p = logits_BO - np.logaddexp.reduce(logits_BO, axis=1, keepdims=True)
        return float(-(want * log_p).sum(1)[known].mean())
    if kind == "ordinal":
        hits = (np.asarray(target)[:, None] > np.arange(logits_BO.shape[1])[None]).astype(float)
        mask = np.broadcast_to(known[:, None], hits.shape)
    else:
        hits, mask = np.asarray(target, float).reshape(logits_BO.shape), known.reshape(logits_BO.shape)
    positive = (hits * mask).sum(0)
    negative = ((1 - hits) * mask).sum(0)
    want = np.where(hits > 0.5, (positive + 1) / (positive + 2), 1 / (negative + 2))
    losses = np.logaddexp(0, logits_BO) - want * logits_BO
    return float(losses[mask].mean())


def operating_points(
    kind: str,
    classes: Sequence[str],
    probability_BK: np.ndarray,
    target: np.ndarray,
    known: np.ndarray,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Thresholds on calibrated probabilities (`>=` is positive), fitted on the tuning split.

    Binary tasks get thresholds for the positive class, multilabel and multiclass ones for every class against
    the rest. A class without both positives and negatives gets the threshold 0.5 with rule 'default'.

    Returns:
        One record a point with name, class, threshold, rule, sensitivity, specificity, n and a SHA-256 over
        all of these, so that a later change can be seen.
    """
    if kind not in ("binary", "multiclass", "multilabel"):
        return []
    points = []
    for column in range(1 if kind == "binary" else 0, len(classes)):
        if kind == "multilabel":
            hit, rows = target[:, column] > 0.5, known[:, column]
        else:
            hit, rows = target == column, known
        score, hit = probability_BK[rows, column], hit[rows]
        both = bool(hit.any() and (~hit).any())
        for name in names if both else ["default"]:
            threshold, rule = (
                _threshold(name, score, hit) if both else (0.5, "0.5: no tuning cases of both kinds")
            )
            called = score >= threshold
            point = {
                "name": name,
                "class": classes[column],
                "threshold": threshold,
                "rule": rule,
                "fitted_on": "tune" if both else "nothing",
                "sensitivity": float(called[hit].mean()) if hit.any() else None,
                "specificity": float((~called[~hit]).mean()) if (~hit).any() else None,
                "n": int(rows.sum()),
            }
            points.append(point | {"sha256": point_hash(point)})
    return points


def point_hash(point: dict[str, Any]) -> str:
    """SHA-256 of an operating point's canonical JSON without its own hash."""
    plain = {k: v for k, v in point.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _threshold(name: str, score: np.ndarray, hit: np.ndarray) -> tuple[float, str]:
    values = np.unique(score)
    cuts = np.concatenate([[values[0]], (values[1:] + values[:-1]) / 2])  # between neighbours: no ties
    sensitivity = np.asarray([(score[hit] >= c).mean() for c in cuts])
    specificity = np.asarray([(score[~hit] < c).mean() for c in cuts])
    if name == "youden":
        best = sensitivity + specificity
        ties = np.flatnonzero(best >= best.max() - 1e-12)
        return float(cuts[ties[len(ties) // 2]]), "largest sensitivity + specificity on tune"
    what, least = RULES[name]
    if what == "sensitivity":
        allowed = np.flatnonzero(sensitivity >= least)
        return float(cuts[allowed[-1]]), f"highest threshold with sensitivity >= {least:g} on tune"
    allowed = np.flatnonzero(specificity >= least)
    rule = f"lowest threshold with specificity >= {least:g} on tune"
    return (float(cuts[allowed[0]]), rule) if len(allowed) else (float(np.nextafter(values[-1], 2.0)), rule)
