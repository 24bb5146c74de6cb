"""Every window votes by itself: a cheap start that gives attention something to attend to.

Attention over a whole case learns slowly from slide labels alone: until single tokens say something useful
there is nothing to weigh, and until they are weighed they are hardly taught. So the first epochs
(`optim.window_epochs`) train only the stem and the evidence network: each window is read alone, as the mean
of its tokens' evidence, and learns the label of its case. Benign windows are equally common on both sides and
cancel; what remains is what positive cases have more of. This is the local-evidence model with uniform
attention, window by window, so nothing is thrown away when attention joins in. A pass costs a fraction of a
full one, as no window looks at another.

Slide labels only: no label of any window is needed or used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas import Atlas, WindowBatch
from atlas.layout import WindowTree
from atlas.losses import task_loss
from atlas.streaming import stem_tokens


def window_logits(model: Atlas, batch: WindowBatch) -> tuple[Tensor, Tensor]:
    """Logits of every window on its own and the case it belongs to.

    Returns:
        (W, O) and (W,), in the tree's order of windows.
    """
    tree = WindowTree.of(batch, model.cfg).to(model.device)
    fine = tree.scales[0]
    local_WTD = stem_tokens(model, batch, tree)
    with torch.autocast(local_WTD.device.type, enabled=False):
        logits_WO = model.head.window_logits(local_WTD.float(), fine.valid_WT)  # type: ignore[operator]
        return logits_WO, fine.case_W


def window_losses(
    kind: str, model: Atlas, batch: WindowBatch, target: Tensor, known: Tensor, smoothing: float
) -> Tensor:
    """Mean loss of the windows of every case against the label of the case, (B,); 0 where it is not known."""
    logits_WO, case_W = window_logits(model, batch)
    losses = []
    for case in range(len(target)):
        rows = logits_WO[case_W == case]
        if len(rows) and bool(known[case].any()):
            labels = target[case].expand(len(rows), *target.shape[1:])
            mask = known[case].expand(len(rows), *known.shape[1:])
            losses.append(task_loss(kind, rows, labels, mask, label_smoothing=smoothing))
        else:
            losses.append(logits_WO.sum() * 0.0)
    return torch.stack(losses)


def some_windows(batch: WindowBatch, limit: int) -> WindowBatch:
    """At most `limit` windows of a batch, drawn with torch's seeded generator."""
    if len(batch) <= limit:
        return batch
    return batch.select(torch.randperm(len(batch))[:limit].sort().values)
