"""From a prediction back to the tokens: four kinds of map, all (N, T, O), windows in the order they were
given.

- `contributions`: the exact terms of the logit (local-evidence head); add up to logit - bias. Free.
- `integrated_gradients`: effect of the stem tokens on a path from featureless ones; add up to logit - start.
- `occlusion`: change of the logit when windows are taken away, coarse to fine. One pass per removal.
- `attention`: weight in the read-out, unsigned, the same for all outputs: a diagnostic, not an explanation.

Adding up is not faithfulness: check a map against removal (`occlusion`) before believing it.

Shapes: N windows as given, W windows in tree order, T tokens of a window, D width, B cases, O logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas.batch import WindowBatch
from atlas.layout import WindowTree
from atlas.model import Atlas
from atlas.streaming import checkpointed, stem_tokens


@torch.no_grad()
def contributions(model: Atlas, batch: WindowBatch) -> Tensor:
    """Signed contribution of every token to every logit, (N, T, O).

    Raises:
        ValueError: the model's head does not decompose.
    """
    found: Tensor | None = model(batch, maps=True).contribution_NTO
    if found is None:
        raise ValueError(f"contributions: head '{model.cfg.head}' is not a sum over tokens; use another map")
    return found


@torch.no_grad()
def attention(model: Atlas, batch: WindowBatch) -> Tensor:
    """Weight of every token in the read-out, (N, T, O), the same for every output.

    Raises:
        ValueError: the model's head has no read-out weights.
    """
    found: Tensor | None = model(batch, maps=True).attention_NT
    if found is None:
        raise ValueError(f"attention: head '{model.cfg.head}' weighs all tokens alike; use another map")
    return found[..., None].expand(-1, -1, model.cfg.n_outputs)


def integrated_gradients(
    model: Atlas, batch: WindowBatch, steps: int = 16, outputs: Sequence[int] | None = None
) -> Tensor:
    """Integrated gradients (arXiv 1703.01365) of each logit along stem tokens, (N, T, O).

    The path runs from the token that the stem gives for featureless pixels (zero after normalisation, far
    from any border) to the tokens of the batch; midpoint rule. The sum over a case is its logit minus the
    logit at the start of the path, up to the error of the rule.

    Args:
        model: any Atlas in evaluation mode, either head.
        batch: any batch.
        steps: points on the path; each costs a forward and a backward pass per output.
        outputs: logits to explain; the others stay zero. None: all.
    """
    tree = WindowTree.of(batch, model.cfg).to(model.device)
    with torch.no_grad():
        end_WTD = stem_tokens(model, batch, tree)
        start_D = featureless_token(model)
    total = end_WTD.new_zeros(*end_WTD.shape[:2], model.cfg.n_outputs)
    with checkpointed(model):
        for output in range(model.cfg.n_outputs) if outputs is None else outputs:
            grad_WTD = torch.zeros_like(end_WTD)
            for i in range(steps):
                point_WTD = torch.lerp(
                    start_D.expand_as(end_WTD), end_WTD, (i + 0.5) / steps
                ).requires_grad_()
                logit = model.read(point_WTD, tree).logits_BO[:, output].sum()
                grad_WTD += torch.autograd.grad(logit, point_WTD)[0]
            total[..., output] = ((end_WTD - start_D) * grad_WTD).sum(-1) / steps
    return total[tree.place_N]


@torch.no_grad()
def featureless_token(model: Atlas) -> Tensor:
    """The stem's token in the middle of an image of zeros, (D,)."""
    px, k = model.cfg.window_px, model.cfg.window_tokens
    side = 3
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    size = torch.full((1, 2), side * px)
    blank = model.normalise.mean_C[:, None, None].expand(len(grid), -1, px, px)
    one = torch.zeros(len(grid), dtype=torch.long)
    batch = WindowBatch(blank, grid[:, 0], grid[:, 1], one, size, torch.ones(1, 2), one[:1])
    tree = WindowTree.of(batch, model.cfg).to(model.device)
    centre = int(tree.place_N[len(grid) // 2])
    token: Tensor = stem_tokens(model, batch, tree)[centre].unflatten(0, (k, k))[k // 2, k // 2]
    return token


@torch.no_grad()
def occlusion(model: Atlas, batch: WindowBatch, output: int = 0, top: int = 8) -> Tensor:
    """Change of each logit when a window is taken away, (N, T, O): logit with it minus logit without.

    Works down the tree: every window of the coarsest scale that has more than one window in its case is
    removed on its own, then the parts of the `top` ones that matter most for `output`, and so on. Removal is
    exact: a window that is not there is background. A window that was not removed alone shares the change of
    the smallest removed window around it, per token; the only window of a case stays zero.

    Args:
        model: any Atlas in evaluation mode.
        batch: any batch; cases are done one after the other.
        output: the logit that decides where to look closer.
        top: how many windows are opened per scale.
    """
    n_tokens = model.cfg.tokens
    result = model.normalise.mean_C.new_zeros(len(batch), n_tokens, model.cfg.n_outputs)
    for case in range(batch.n_cases):
        at_N = torch.nonzero(batch.case_I[batch.image_N] == case)[:, 0]
        for windows_n, change_O in _removals(model, batch, case, at_N, output, top):
            result[at_N[windows_n]] = change_O / (len(windows_n) * n_tokens)
    return result


def _removals(
    model: Atlas, batch: WindowBatch, case: int, at_N: Tensor, output: int, top: int
) -> list[tuple[Tensor, Tensor]]:
    """(windows removed together, as positions in `at_N`; change of the case's logits), coarse to fine."""
    images = torch.nonzero(batch.case_I == case)[:, 0]
    renumber = torch.zeros_like(batch.case_I).index_copy_(
        0, images, torch.arange(len(images), device=images.device)
    )
    part = batch.select(at_N)
    alone = WindowBatch(
        part.pixels_NCHW, part.row_N, part.col_N, renumber[part.image_N], batch.size_I2[images],
        batch.mpp_I2[images], torch.zeros_like(images),
        None if batch.embed_I is None else batch.embed_I[images],
    )  # fmt: skip
    whole_O = model(alone).logits_BO[0]
    s, found = model.cfg.downsample, []
    open_n = torch.ones(len(at_N), dtype=torch.bool, device=at_N.device)
    n_scales = WindowTree.of(alone, model.cfg).n_scales
    for level in reversed(range(n_scales)):
        place = torch.stack([alone.image_N, alone.row_N // s**level, alone.col_N // s**level], 1)
        groups, group_n = torch.unique(place, dim=0, return_inverse=True)
        if len(groups) == 1:
            continue
        changes = []
        for g in torch.unique(group_n[open_n]).tolist():
            gone_n = group_n == g
            change_O = whole_O - model(alone.select(~gone_n)).logits_BO[0]
            changes.append((g, change_O))
            found.append((torch.nonzero(gone_n)[:, 0], change_O))
        changes.sort(key=lambda c: -abs(float(c[1][output])))
        open_n = torch.isin(group_n, torch.tensor([g for g, _ in changes[:top]], device=group_n.device))
    return found
