"""Do the maps point at the evidence? Planted lesions, weak labels, exact removal; three seeds.

    python benchmarks/attribution.py --seeds 0 1 2 --steps 300

Images of 256 px hold noise and *distractors*: patches of 3 x 3 tokens with fine stripes in one direction.
Positive images also hold one *lesion*: the same stripes, as strong, in the other direction. The model sees
only the image's label. Windows are 64 px here (4 x 4 tokens, three scales), and are dropped at random in
training so that removing one is nothing new. Two models are trained, one per head, and every map is judged
by

- pointing: the largest token lies in the lesion (chance: the lesion's share of the area);
- token AUROC: lesion tokens against all others;
- deletion and insertion: mean probability while windows are taken away, or given back, best first (low, high
  is good).

Results: benchmarks/results/attribution.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import atlas.attention
from atlas import Atlas, Runtime, WindowBatch, preset
from atlas.attribution import attention, contributions, integrated_gradients, occlusion
from atlas.blocks import to_blocks
from atlas.layout import WindowTree
from atlas.losses import task_loss

RESULTS = Path(__file__).parent / "results" / "attribution.json"
SIDE_PX, WINDOW_PX, TOKEN_PX, LESION_TOKENS = 256, 64, 16, 3
GRID, K = SIDE_PX // WINDOW_PX, WINDOW_PX // TOKEN_PX
SMALL = {"window_tokens": K, "downsample": 2, "dim": 32, "heads": 2, "depths": (1, 1, 1), "stem_width": 16,
         "stem_blocks": (0, 0, 0), "position_hidden": 32, "evidence_hidden": 32,
         "context": "attention"}  # fmt: skip


def stripes(direction: int, rng: np.random.Generator) -> np.ndarray:
    """A patch of 48 px with stripes of 6 px along one diagonal, random phase."""
    y, x = np.mgrid[: LESION_TOKENS * TOKEN_PX, : LESION_TOKENS * TOKEN_PX]
    return np.sin(2 * np.pi * (x + direction * y) / 8.5 + rng.uniform(0, 2 * np.pi))


def paint(positive: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image (3, 256, 256) uint8 and the lesion's tokens (16, 16) bool."""
    image = rng.normal(0, 1, (SIDE_PX, SIDE_PX))
    truth = np.zeros((SIDE_PX // TOKEN_PX,) * 2, bool)
    places = [(r, c) for r in range(0, 14, 3) for c in range(0, 14, 3)]
    picked = rng.permutation(len(places))[: 3 + int(positive)]
    for i, place in enumerate(picked):
        row, col = places[place]
        lesion = positive and i == 0
        at = np.s_[
            row * TOKEN_PX : (row + LESION_TOKENS) * TOKEN_PX,
            col * TOKEN_PX : (col + LESION_TOKENS) * TOKEN_PX,
        ]
        image[at] += 1.5 * stripes(1 if lesion else -1, rng)
        if lesion:
            truth[row : row + LESION_TOKENS, col : col + LESION_TOKENS] = True
    grey = np.clip(128 + 32 * image, 0, 255).astype(np.uint8)
    return np.broadcast_to(grey, (3, *grey.shape)), truth


def collate(images: list[np.ndarray], keep: float, rng: np.random.Generator) -> WindowBatch:
    """Images as cases; every window is kept with probability `keep`, at least one an image."""
    windows, places = [], []
    for i, image in enumerate(images):
        kept = rng.random((GRID, GRID)) < keep
        kept[rng.integers(GRID), rng.integers(GRID)] = True
        for row, col in np.argwhere(kept):
            windows.append(
                image[:, row * WINDOW_PX : (row + 1) * WINDOW_PX, col * WINDOW_PX : (col + 1) * WINDOW_PX]
            )
            places.append((i, row, col))
    image_N, row_N, col_N = torch.tensor(np.array(places)).T
    n = len(images)
    return WindowBatch(
        torch.from_numpy(np.stack(windows)), row_N, col_N, image_N, torch.full((n, 2), SIDE_PX),
        torch.ones(n, 2), torch.arange(n),
    )  # fmt: skip


def train(head: str, seed: int, steps: int, images_per_step: int) -> Atlas:
    """A small model from image labels alone, half of the positives' windows dropped at random."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Atlas(preset("tiny", head=head, **SMALL), Runtime("sdpa", chunk_windows=10_000))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20) * 0.5 * (1 + np.cos(np.pi * step / steps))
        labels = np.arange(images_per_step) % 2 == 1
        painted = [paint(bool(label), rng) for label in labels]
        batch = collate([image for image, _ in painted], keep=rng.uniform(0.6, 1.0), rng=rng)
        still = torch.tensor([float(visible(batch, i, truth)) for i, (_, truth) in enumerate(painted)])
        loss = task_loss("binary", model(batch).logits_BO, still)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


def visible(batch: WindowBatch, image: int, truth: np.ndarray) -> bool:
    """Whether any window that is left shows some of the lesion."""
    for i in torch.nonzero(batch.image_N == image)[:, 0].tolist():
        row, col = int(batch.row_N[i]) * K, int(batch.col_N[i]) * K
        if truth[row : row + K, col : col + K].any():
            return True
    return False


@torch.no_grad()
def rollout(model: Atlas, batch: WindowBatch) -> Tensor:
    """Bottom-up attention rollout, (N, T, 1): the mean head's weights sent back through the attention.

    Through the self-attention of the top window as (I + A) / 2, then from every coarse token to the window it
    covers with the weights of the last block of each stage. All windows of one image must be there.
    """
    seen: list[Tensor] = []
    written = atlas.attention._plain

    def recording(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
        identity = torch.eye(k.shape[2]).expand(*k.shape[:3], k.shape[2])
        seen.append(
            written(q, k, identity, attn_mask).mean(1)
        )  # what attention does to one-hot values: its weights
        return written(q, k, v, attn_mask)

    before = model.runtime
    atlas.attention._plain, model.runtime = recording, Runtime("plain", chunk_windows=10_000)
    try:
        model(batch)
    finally:
        atlas.attention._plain, model.runtime = written, before
    tree = WindowTree.of(batch, model.cfg)
    n_top = len(model.stages[-1])
    relevance_TD = torch.full((1, model.cfg.tokens, 1), 1.0 / model.cfg.tokens)
    for weight in reversed(seen[len(seen) - n_top :]):
        relevance_TD = 0.5 * relevance_TD + 0.5 * weight.transpose(1, 2) @ relevance_TD
    end = len(seen) - n_top
    for low in reversed(range(tree.n_scales - 1)):
        n_active = tree.n_scales - low
        weight = seen[
            end - n_active + 1
        ]  # of the stage's last block: the read of scale low + 1 from scale low
        blocks = to_blocks(relevance_TD, model.cfg.downsample, model.cfg.window_tokens)
        relevance_TD = weight.transpose(1, 2) @ blocks[tree.scales[low].slot_W]
        end -= (2 * n_active - 1) * len(model.stages[low])
    return relevance_TD[tree.place_N]


@torch.no_grad()
def removal_curves(model: Atlas, batch: WindowBatch, map_NT1: Tensor) -> tuple[float, float]:
    """Mean probability while windows are deleted, and inserted, largest sum of the map first."""
    order = torch.argsort(map_NT1.sum((1, 2)), descending=True)
    n = len(order)
    deleted = [float(torch.sigmoid(model(batch.select(order[i:])).logits_BO)) for i in range(n)]
    inserted = [float(torch.sigmoid(model(batch.select(order[: i + 1])).logits_BO)) for i in range(n)]
    return float(np.mean(deleted)), float(np.mean(inserted))


def judge(model: Atlas, maps: dict[str, Callable], seed: int, n_images: int) -> tuple[float, dict[str, Any]]:
    """Test AUC of the model, and of every map the scores in the module's text, over positive images."""
    rng = np.random.default_rng(10_000 + seed)
    painted = [paint(i % 2 == 1, rng) for i in range(4 * n_images)]
    with torch.no_grad():
        batch = collate([image for image, _ in painted], 1.1, rng)
        logits = model(batch).logits_BO[:, 0].numpy()
    auc = float(roc_auc_score([truth.any() for _, truth in painted], logits))
    scores: dict[str, list[list[float]]] = {name: [] for name in maps}
    for image, truth in [p for p in painted if p[1].any()][:n_images]:
        batch = collate([image], 1.1, rng)
        for name, make in maps.items():
            map_NT1 = make(model, batch).detach()
            grid = torch.zeros(GRID, GRID, K, K)
            grid[batch.row_N, batch.col_N] = map_NT1[..., 0].unflatten(1, (K, K))
            raster = grid.transpose(1, 2).reshape(GRID * K, GRID * K).numpy()
            points = float(truth.flatten()[raster.argmax()])
            token_auc = float(roc_auc_score(truth.flatten(), raster.flatten()))
            scores[name].append([points, token_auc, *removal_curves(model, batch, map_NT1)])
    names = ("pointing", "token_auroc", "deletion", "insertion")
    return auc, {k: dict(zip(names, np.mean(v, 0).round(3).tolist(), strict=True)) for k, v in scores.items()}


def completeness(model: Atlas, seed: int) -> float:
    """Largest |sum of contributions + bias - logit| over a batch, in float32."""
    rng = np.random.default_rng(seed)
    batch = collate([paint(i % 2 == 1, rng)[0] for i in range(8)], 0.8, rng)
    with torch.no_grad():
        out = model(batch, maps=True)
    total = (
        torch.zeros_like(out.logits_BO).index_add(0, batch.image_N, out.contribution_NTO.sum(1)) + out.bias_O
    )
    return float((total - out.logits_BO).detach().abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images-per-step", type=int, default=16)
    parser.add_argument("--test-images", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    maps: dict[str, dict[str, Callable]] = {
        "local_evidence": {"contributions": contributions, "attention": attention, "occlusion": occlude,
                           "integrated gradients": integrated_gradients},
        "reference": {"integrated gradients": integrated_gradients, "attention rollout": rollout,
                      "occlusion": occlude},
    }  # fmt: skip
    runs = []
    for seed in args.seeds:
        for head, of_head in maps.items():
            start = time.perf_counter()
            model = train(head, seed, args.steps, args.images_per_step)
            auc, scores = judge(model, of_head, seed, args.test_images)
            run: dict[str, Any] = {"seed": seed, "head": head, "test_auc": round(auc, 3), "maps": scores}
            if head == "local_evidence":
                run["completeness_fp32"] = completeness(model, seed)
            run["seconds"] = round(time.perf_counter() - start, 1)
            runs.append(run)
            print(json.dumps(run), flush=True)
    chance = LESION_TOKENS**2 / (SIDE_PX // TOKEN_PX) ** 2
    result = {"options": vars(args), "chance_of_pointing": chance, "runs": runs}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def occlude(model: Atlas, batch: WindowBatch) -> Tensor:
    """Every window removed on its own."""
    return occlusion(model, batch, top=GRID * GRID)


if __name__ == "__main__":
    main()
