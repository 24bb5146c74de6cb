"""Several exclusive classes, ordered grades, and continuous outcomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from atlas_path.errors import CohortError, UsageError
from atlas_path.report.schema_base import Number
from atlas_path.report.schema_other import ClassesResult, RegressionResult
from atlas_path.stats import agreement, bootstrap, discrimination
from atlas_path.stats.intervals import Floats, clusters
from atlas_path.stats.ranking import divide
from pipelines.evaluate_cases import CaseTable, Ledger, nothing_left
from pipelines.evaluate_inputs import TaskFacts
from pipelines.evaluate_options import EvaluateOptions
from pipelines.evaluate_outcomes import numbers, plain

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 2000
SUM_TOLERANCE = 1e-3


def classes_result(
    task: TaskFacts, cases: CaseTable, options: EvaluateOptions
) -> tuple[ClassesResult, pd.DataFrame]:
    """Confusion, accuracy, kappa and one-against-rest AUROCs; the rows used come back too.

    Raises:
        UsageError: a class has no column of probabilities.
        CohortError: nothing is left to evaluate.
    """
    names, ledger = list(task.classes), cases.ledger
    ordered = task.kind == "ordinal"
    if ordered and all(_is_number(name) for name in names):
        names = sorted(names, key=float)
    columns = [f"prob_{name}" for name in names]
    absent = [c for c in columns if c not in cases.evaluated.columns]
    if absent:
        raise UsageError("the predictions", f"no column {absent[0]}", "give one prob_<class> column a class")
    truth, prob, table = _usable(cases.evaluated, task.label_columns[0], names, columns, ledger)
    patient = table["patient_id"].to_numpy()
    predicted = _predicted(table, prob, names, ordered)
    draws, seed, k = options.resamples // 2, options.seed, len(names)
    accuracy, balanced = agreement.accuracy_estimates(truth, predicted, patient, k, draws, seed)
    weights = "quadratic" if ordered else "none"
    macro, each = discrimination.macro_auroc(truth, prob, names, patient, draws, seed)
    return ClassesResult(
        classes=names,
        ordered=ordered,
        n=truth.size,
        n_patients=clusters(patient)[1],
        counts={name: int((truth == i).sum()) for i, name in enumerate(names)},
        confusion=agreement.confusion(truth, predicted, k).tolist(),
        accuracy=Number.of(accuracy),
        balanced_accuracy=Number.of(balanced),
        kappa=Number.of(agreement.kappa_estimate(truth, predicted, patient, k, weights, draws, seed)),
        kappa_weights="quadratic" if ordered else "none",
        macro_auroc=Number.of(macro),
        class_auroc={name: Number.of(found) for name, found in each.items()},
    ), table


def _usable(
    table: pd.DataFrame, label_column: str, names: list[str], columns: list[str], ledger: Ledger
) -> tuple[np.ndarray, Floats, pd.DataFrame]:
    index = {plain(name).lower(): i for i, name in enumerate(names)}
    cells = [plain(cell).lower() for cell in table[label_column]]
    truth = np.array([index.get(cell, -1) for cell in cells])
    blank = np.array([cell == "" for cell in cells], dtype=bool)
    prob = np.stack([numbers(table[c]) for c in columns], axis=1)
    case = table["case_id"].to_numpy()
    ledger.add("label_missing", f"no label in {label_column}", "excluded", case[blank], "no label")
    unknown = (truth < 0) & ~blank
    what = f"label in {label_column} is none of the classes {', '.join(names)}"
    ledger.add("label_unknown", what, "excluded", case[unknown], "unknown label")
    gone = (truth >= 0) & ~np.isfinite(prob).all(1)
    ledger.add("prob_missing", "a class probability is missing", "excluded", case[gone], "no probability")
    keep = (truth >= 0) & np.isfinite(prob).all(1)
    if not keep.any():
        raise CohortError("the cohort", nothing_left(label_column, ledger), "see --label and --split")
    wrong = keep & ((prob < 0).any(1) | (prob > 1).any(1) | (np.abs(prob.sum(1) - 1) > SUM_TOLERANCE))
    ledger.add(
        "prob_outside", "class probabilities leave [0, 1] or do not sum to 1", "used as scores", case[wrong]
    )
    return truth[keep], prob[keep], table[keep].reset_index(drop=True)


def _predicted(table: pd.DataFrame, prob: Floats, names: list[str], ordered: bool) -> np.ndarray:
    """The stored label where there is one, else the most probable class (ordered: the median class)."""
    own = (prob.cumsum(1) >= 0.5).argmax(1) if ordered else prob.argmax(1)
    if "pred_label" not in table.columns:
        return np.asarray(own)
    index = {plain(name).lower(): i for i, name in enumerate(names)}
    stored = np.array([index.get(plain(cell).lower(), -1) for cell in table["pred_label"]])
    return np.asarray(np.where(stored >= 0, stored, own))


def regression_result(
    task: TaskFacts, cases: CaseTable, options: EvaluateOptions
) -> tuple[RegressionResult, pd.DataFrame]:
    """Errors and correlations of a continuous outcome; the rows used come back too.

    Raises:
        UsageError: no column of predicted values.
        CohortError: fewer than three usable cases.
    """
    table, ledger = cases.evaluated, cases.ledger
    wanted = [f"value_{c}" for c in task.classes] + ["value", "prob"]
    column = next((c for c in wanted if c in table.columns), None)
    column = column or next((str(c) for c in table.columns if str(c).startswith("value_")), None)
    if column is None:
        raise UsageError("the predictions", "no column of predicted values", "name it 'value'")
    observed, predicted = numbers(table[task.label_columns[0]]), numbers(table[column])
    case = table["case_id"].to_numpy()
    ledger.add("label_missing", "no number as label", "excluded", case[~np.isfinite(observed)], "no label")
    gone = np.isfinite(observed) & ~np.isfinite(predicted)
    ledger.add("prob_missing", "no predicted value", "excluded", case[gone], "no prediction")
    keep = np.isfinite(observed) & np.isfinite(predicted)
    if keep.sum() < 3:
        raise CohortError(
            "the cohort", "fewer than three cases have both a label and a prediction", "see --label"
        )
    y, x, used = observed[keep], predicted[keep], table[keep].reset_index(drop=True)
    patient = used["patient_id"].to_numpy()
    rank_y, rank_x = _ranks(y), _ranks(x)

    def make(statistic: Callable[[Floats], Floats], scale: str = "bca") -> Number:
        return Number.of(
            bootstrap.estimate(statistic, patient, options.resamples // 2, options.seed, scale=scale)
        )

    def mean(values: Floats) -> Callable[[Floats], Floats]:
        return lambda w: w @ values / w.sum(1)

    return RegressionResult(
        n=int(keep.sum()),
        n_patients=clusters(patient)[1],
        mean_absolute_error=make(mean(np.abs(y - x))),
        root_mean_square_error=make(lambda w: np.sqrt(w @ (y - x) ** 2 / w.sum(1))),
        r2=make(lambda w: 1 - divide(w @ (y - x) ** 2, _moment(w, y, y))),
        pearson=make(lambda w: _correlation(w, x, y)),
        spearman=make(lambda w: _correlation(w, rank_x, rank_y)),
        bias=make(mean(x - y), "identity"),
        slope=make(lambda w: divide(_moment(w, x, y), _moment(w, x, x)), "identity"),
        points=[(float(a), float(b)) for a, b in zip(x[:MOST_POINTS], y[:MOST_POINTS], strict=True)],
    ), used


def _moment(weight: Floats, a: Floats, b: Floats) -> Floats:
    """Weighted sum of products of deviations, (B,)."""
    total = weight.sum(1)
    return np.asarray(weight @ (a * b) - (weight @ a) * (weight @ b) / total)


def _correlation(weight: Floats, a: Floats, b: Floats) -> Floats:
    return divide(
        _moment(weight, a, b), np.sqrt(np.maximum(_moment(weight, a, a) * _moment(weight, b, b), 0))
    )


def _ranks(values: Floats) -> Floats:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
