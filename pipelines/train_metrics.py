"""The one number per task that early stopping watches."""

from __future__ import annotations

import numpy as np

SCORE_NAMES = {
    "binary": "auroc",
    "multiclass": "macro_auroc",
    "multilabel": "macro_auroc",
    "ordinal": "concordance",
    "regression": "r2",
    "survival": "c_index",
}


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve by ranks (ties count half); None without both classes."""
    from scipy.stats import rankdata

    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return None
    return float((rankdata(score)[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def concordance(time: np.ndarray, risk: np.ndarray, event: np.ndarray) -> float | None:
    """Harrell's C: of all pairs whose order is known, the share in which the earlier event has more risk."""
    earlier = (time[:, None] < time[None]) & event[:, None]
    pairs = int(earlier.sum())
    if not pairs:
        return None
    higher = (risk[:, None] > risk[None]) + 0.5 * (risk[:, None] == risk[None])
    return float((higher * earlier).sum() / pairs)


def accuracy(kind: str, probability_BK: np.ndarray, target: np.ndarray, known: np.ndarray) -> float | None:
    """Share of cases whose likeliest class is theirs; None for tasks without one class a case."""
    if kind not in ("binary", "multiclass", "ordinal") or not known.any():
        return None
    return float((probability_BK[known].argmax(1) == target[known]).mean())


def score_of(
    kind: str, logits_BO: np.ndarray, probability_BK: np.ndarray, target: np.ndarray, known: np.ndarray
) -> float | None:
    """Score of a task, larger is better; None when the labels at hand do not define it."""
    if kind == "multilabel":
        columns = range(logits_BO.shape[1])
        found = [auroc(logits_BO[known[:, k], k], target[known[:, k], k] > 0.5) for k in columns]
        values = [v for v in found if v is not None]
        return float(np.mean(values)) if values else None
    logits_BO, probability_BK, target = logits_BO[known], probability_BK[known], target[known]
    if not len(target):
        return None
    if kind == "binary":
        return auroc(logits_BO[:, 0], target == 1)
    if kind == "multiclass":
        found = [auroc(probability_BK[:, k], target == k) for k in range(probability_BK.shape[1])]
        values = [v for v in found if v is not None]
        return float(np.mean(values)) if values else None
    if kind == "ordinal":
        rank = logits_BO.mean(1)
        return concordance(-target.astype(float), rank, np.ones(len(target), bool))
    if kind == "regression":
        spread = float(((target - target.mean()) ** 2).sum())
        return 1 - float(((logits_BO[:, 0] - target) ** 2).sum()) / spread if spread else None
    survival = np.cumsum(-np.logaddexp(0, logits_BO), axis=1)  # log of surviving every bin so far
    return concordance(target[:, 0].astype(float), -np.exp(survival).sum(1), target[:, 1] == 1)
