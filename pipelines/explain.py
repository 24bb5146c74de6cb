"""Which number a map explains: a fixed linear combination of the outputs, so that maps stay exact sums.

binary      the logit of the positive class
multiclass  the logit of a class minus the mean logit of all classes (logits alone are defined up to a shift)
multilabel  the logit of a label
ordinal     the mean of the cumulative logits (higher is a higher grade)
survival    the mean hazard logit (higher is more risk)
regression  an output
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas_path.errors import UsageError
from atlas_path.results import Task


@dataclass(frozen=True)
class Explained:
    """`weight_O` makes the explained number from the logits; `what` names it, `label` is its class."""

    weight_O: NDArray[np.float64]
    what: str
    label: str


def explained_output(task: Task, n_outputs: int, label: str | None, predicted: str) -> Explained:
    """What to explain for a case.

    Args:
        label: class asked for; None picks the positive class (binary), the predicted class (multiclass) or
            the first predicted label (multilabel; the first label where none was predicted).
        predicted: `pred_label` of the case.

    Raises:
        UsageError: the task has no such class, or it has no map of its own (binary: the negative class).
    """
    if label is not None and label not in task.classes:
        raise UsageError(
            f"class '{label}'", "the model has no such class", f"choose: {', '.join(task.classes)}"
        )
    weight = np.zeros(n_outputs)
    if task.kind == "binary":
        name = label or task.classes[1]
        sign = 1.0 if name == task.classes[1] else -1.0
        weight[0] = sign
        return Explained(weight, f"contribution to the logit of '{name}'", name)
    if task.kind == "multiclass":
        name = label or (predicted if predicted in task.classes else task.classes[0])
        weight[:] = -1.0 / n_outputs
        weight[task.classes.index(name)] += 1.0
        return Explained(
            weight, f"contribution to the logit of '{name}' against the mean of all classes", name
        )
    if task.kind in ("multilabel", "regression"):
        first = predicted.split(";")[0]
        name = label or (first if first in task.classes else task.classes[0])
        weight[task.classes.index(name)] = 1.0
        kind = "logit of" if task.kind == "multilabel" else "value of"
        return Explained(weight, f"contribution to the {kind} '{name}'", name)
    weight[:] = 1.0 / n_outputs
    if task.kind == "ordinal":
        return Explained(weight, f"contribution to a higher '{task.name}' (mean cumulative logit)", task.name)
    return Explained(weight, f"contribution to the risk of '{task.name}' (mean hazard logit)", task.name)
