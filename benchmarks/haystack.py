"""Does it learn from slide labels alone? Slides of real benign glands that hide malignant fields.

    python benchmarks/haystack.py --difficulty easy --seed 0 1 2 --model atlas mil mean --minutes 8
    python benchmarks/haystack.py --difficulty hard --seed 0 1 2 --model atlas mil mean --minutes 10

Cohorts come from `tools/make_haystack.py` over the GlaS fields of the shared test material (90 slides of
4096 px, 0.62 um/px, patients of train and test disjoint): a third is test, the rest is train and tune. Three
models on the same stem, cohort, augmentation, start and budget:

    atlas   multi-scale attention, local-evidence head (the `tiny` preset)
    mil     gated attention over the mean token of each window (Ilse et al. 2018)
    mean    the mean token of the case, then a linear layer

Reported: AUROC on the test slides with its 95 % interval (DeLong, logit scale), and lesion pointing: the
share of positive test slides whose highest contribution lies on a lesion, beside what a random point would
reach. The tuning slides share source patients with the training slides, so they cannot choose an epoch
honestly: the last epoch's averaged weights are the result.

The fields of a slide come from several patients and so in several stains, and over 15 patients a stain goes
with a label by chance: `model.normalise: window` takes each window's own stain away
(`--set model.normalise=cohort` shows what happens without).

A run uses one thread, and its budget is processor time, so that other work on the machine takes nothing
from it: two runs fit side by side on two cores. `--start windows`: for four fifths of the budget every
window votes alone (`optim.window_epochs`), six of each case in an epoch, each resampled, turned and stained
by its own draw: with one draw a case the same windows were learned by heart.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atlas import Atlas, AtlasOutput
from atlas.heads import case_softmax, window_mean
from atlas.layout import WindowTree
from atlas_path.config import TrainConfig
from atlas_path.stats.delong import covariance, interval, placements
from atlas_path.stats.pointing import pointing
from pipelines.data import WindowReader, pack, read_case
from pipelines.distributed import World
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.pretrain import pretrain
from pipelines.train_loop import Trainer
from pipelines.train_prepare import Prepared, prepare
from pipelines.train_setup import build_model, choose_device
from pipelines.train_weights import load_best

ROOT = Path(__file__).resolve().parents[1]
LESIONS = {"easy": 16, "hard": 4}
KEPT = {"easy": [0.3, 0.6], "hard": [0.6, 1.0]}  # share of windows: where lesions are few none may be lost
WINDOW_SHARE = 0.8  # of the budget
RECIPE: dict[str, Any] = {
    "data": {"mpp": 1.24, "min_tissue": 0.5},
    "augment": {"stain": 0.2, "brightness": 0.0, "contrast": 0.0, "grid_shift": True, "mpp_jitter": 0.25},
    "optim": {
        "lr": 5e-4,
        "warmup_epochs": 1,
        "cases_per_step": 8,
        "cases_per_pass": 8,
        "window_draw": 6,
        "ema": 0.95,
    },
    "model": {"preset": "tiny", "normalise": "window"},
    "split": {"tune": 0.1},
}


class StemPool(Atlas):
    """The stem of an Atlas, and one way of pooling instead of its attention over scales."""

    def __init__(self, whole: Atlas, pool: str) -> None:
        super().__init__(whole.cfg)
        self.load_state_dict(whole.state_dict())
        del self.stages, self.last_read
        self.head = PoolHead(whole.cfg.dim, whole.cfg.n_outputs, pool == "mil")  # type: ignore[assignment]

    def read(self, stem_WTD: Tensor, tree: WindowTree, maps: bool = False) -> AtlasOutput:
        """Logits, and with `maps` every token's share of them."""
        fine = tree.scales[0]
        valid_WT1 = fine.valid_WT[..., None].float()
        head: PoolHead = self.head  # type: ignore[assignment]
        tokens_WTD = head.norm(stem_WTD.float())
        if head.gate is None or head.score is None:
            weight_WT1 = valid_WT1
        else:
            value, gate = head.gate(window_mean(tokens_WTD, fine.valid_WT)).chunk(2, -1)
            score_W1 = head.score(torch.tanh(value) * torch.sigmoid(gate))
            every_W1 = torch.ones_like(fine.valid_WT[:, :1])
            alpha_W11 = case_softmax(score_W1[:, None], every_W1, fine.case_W, tree.n_cases)
            weight_WT1 = alpha_W11 * valid_WT1 / valid_WT1.sum(1, keepdim=True).clamp_min(1)
        total_B = torch.zeros(tree.n_cases).index_add(0, fine.case_W, weight_WT1.sum((1, 2)))
        weight_WT1 = weight_WT1 / total_B[fine.case_W][:, None, None]
        terms_WTO = (tokens_WTD @ head.linear.weight.T) * weight_WT1
        sums_BO = torch.zeros(tree.n_cases, terms_WTO.shape[-1]).index_add(0, fine.case_W, terms_WTO.sum(1))
        contribution = terms_WTO[tree.place_N] if maps else None
        return AtlasOutput(sums_BO + head.linear.bias, contribution, None, head.linear.bias)


class PoolHead(nn.Module):
    """A linear layer behind the pooled tokens, and the gate of attention pooling."""

    def __init__(self, dim: int, n_outputs: int, gated: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim) if gated else None
        self.score = nn.Linear(dim, 1) if gated else None
        self.linear = nn.Linear(dim, n_outputs)

    def window_logits(self, local_WTD: Tensor, valid_WT: Tensor) -> Tensor:
        """Every window alone, as in `LocalEvidenceHead.window_logits`."""
        logits_WO: Tensor = self.linear(window_mean(self.norm(local_WTD), valid_WT))
        return logits_WO


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--difficulty", choices=LESIONS, nargs="+", default=["easy"])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--model", choices=["atlas", "mil", "mean"], nargs="+", default=["atlas"])
    parser.add_argument(
        "--minutes", type=float, default=20, help="processor time of one run, pretraining included"
    )
    parser.add_argument("--slides", type=int, default=90)
    parser.add_argument(
        "--start", choices=["none", "windows", "pretrain"], default="windows", help="what comes first"
    )
    parser.add_argument("--set", action="append", default=[], help="section.key=value, as in `train --set`")
    parser.add_argument("--scratch", type=Path, default=ROOT / "scratch" / "haystack")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/haystack.json")
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for difficulty in arguments.difficulty:
        for seed in arguments.seed:
            cohort = make_cohort(arguments.scratch, difficulty, seed, arguments.slides)
            for model in arguments.model:
                result = one_run(cohort, difficulty, seed, model, arguments)
                print(json.dumps(result), flush=True)
                runs = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else []
                runs.append(result)
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps({"table": table(runs), "runs": runs}, indent=1) + "\n")
    print("\n".join(table(runs)))


def make_cohort(scratch: Path, difficulty: str, seed: int, n_slides: int) -> Path:
    """Slides and stores of one cohort, made once."""
    shared = Path(os.environ.get("ATLAS_PATH_SHARED", ROOT.parent / "shared"))
    folder = scratch / f"{difficulty}{seed}_{n_slides}"
    if not (folder / "cohort.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        tool = [
            sys.executable,
            str(shared / "tools/make_haystack.py"),
            str(shared / "data/glas"),
            str(folder),
        ]
        options = ["--slides", str(n_slides), "--lesions", str(LESIONS[difficulty]), "--seed", str(seed)]
        subprocess.run([*tool, *options], check=True)
    preprocess([folder / "slides"], folder / "stores", PreprocessOptions(mpp="native"))
    return folder


def one_run(
    folder: Path, difficulty: str, seed: int, kind: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train one model within the budget and judge it on the test slides."""
    config = config_for(folder, difficulty, seed, kind, arguments)
    device = choose_device(config.runtime)
    prepared = prepare(config, quiet=True)
    started = time.process_time()
    if arguments.start == "pretrain":
        config.pretrain.epochs = max(1, config.pretrain.epochs)
        config.model.init_from = pretrain(config, force=True)
    cases = [prepared.found.cases[c] for c in prepared.ids("train")]
    model = build_model(config, prepared.targets, cases, WindowReader(0), 0)
    if kind != "atlas":
        model = StemPool(model, kind)
    train_ids, tune_ids = prepared.ids("train"), prepared.ids("tune")
    run_dir = config.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    trainer = Budgeted(
        config, model, prepared.found.cases, prepared.targets, train_ids, tune_ids, run_dir, World(), device
    )
    trainer.begun, trainer.budget_s = started, arguments.minutes * 60
    trainer.window_share = WINDOW_SHARE if arguments.start == "windows" else 0.0
    trainer.fit()
    minutes = (time.process_time() - started) / 60
    load_best(trainer.checkpoints, model)
    facts = judge(model, prepared, folder, config)
    names = {"difficulty": difficulty, "seed": seed, "model": kind, "start": arguments.start}
    return {
        **names,
        "minutes": round(minutes, 1),
        "epochs": trainer.progress.epoch,
        **facts,
        "set": arguments.set,
    }


class Budgeted(Trainer):
    """A trainer whose schedule follows the processor's clock, and which keeps the last averaged weights."""

    begun = 0.0
    budget_s = 0.0
    window_share = 0.0

    def _end_epoch(self, log: Any) -> None:
        spent, done, optim = time.process_time() - self.begun, self.progress.epoch + 1, self.config.optim
        optim.epochs = done + max(0, int((self.budget_s - spent) / spent * done))
        optim.window_epochs = (
            done + 1 if spent < self.window_share * self.budget_s else min(optim.window_epochs, done)
        )
        self.progress.best = None  # the last epoch is the result
        super()._end_epoch(log)


def config_for(
    folder: Path, difficulty: str, seed: int, kind: str, arguments: argparse.Namespace
) -> TrainConfig:
    """The recipe, with what was set on the command line."""
    import yaml

    values: dict[str, Any] = {section: dict(content) for section, content in RECIPE.items()}
    values |= {"name": f"{kind}_{arguments.start}", "cohort": folder / "cohort.csv", "out": folder / "runs"}
    values["data"]["stores"] = folder / "stores"
    values["augment"]["keep_windows"] = KEPT[difficulty]
    values["runtime"] = {"seed": seed, "memory": "plain", "device": "cpu", "threads": 1}
    values["optim"]["epochs"] = 1000
    values["optim"]["window_epochs"] = int(arguments.start == "windows")
    for item in arguments.set:
        key, _, value = item.partition("=")
        section, _, name = key.rpartition(".")
        target = values.setdefault(section, {}) if section else values
        target[name] = yaml.safe_load(value)
    config = TrainConfig.model_validate(values)
    if config.run_dir.exists():
        import shutil

        shutil.rmtree(config.run_dir)
    return config


@torch.no_grad()
def judge(model: Atlas, prepared: Prepared, folder: Path, config: TrainConfig) -> dict[str, Any]:
    """Test AUROC with its interval, and lesion pointing with its chance."""
    lesions: dict[str, list[tuple[int, int, int, int]]] = {}
    with (folder / "lesions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            box = tuple(int(row[k]) for k in ("x", "y", "width", "height"))
            lesions.setdefault(row["slide_id"], []).append(box)  # type: ignore[arg-type]
    reader = WindowReader(0)
    labels, scores, hits, chances = [], [], [], []
    model.eval()
    for case_id in prepared.ids("test"):
        case = prepared.found.cases[case_id]
        batch = pack([read_case(reader, case)])
        out = model(batch, maps=True)
        label = int(prepared.targets.value[case_id])
        labels.append(label)
        scores.append(float(out.logits_BO[0, 0]))
        if label:
            assert out.contribution_NTO is not None
            ratio = 0.62005 / case.images[0].mpp[0]
            highest = int(out.contribution_NTO[..., 0].argmax())
            window, token = divmod(highest, 256)
            y = (int(batch.row_N[window]) * 256 + token // 16 * 16 + 8) / ratio
            x = (int(batch.col_N[window]) * 256 + token % 16 * 16 + 8) / ratio
            boxes = lesions[case_id]
            hits.append(any(bx <= x < bx + w and by <= y < by + h for bx, by, w, h in boxes))
            area = sum(w * h for _, _, w, h in boxes)
            chances.append(min(1.0, area * ratio**2 / (case.n_windows * 256**2)))
    placed = placements(labels, scores)
    area = float(placed.auroc_k[0])
    n_positive = sum(labels)
    low, high, method = interval(area, float(covariance(placed)[0, 0]), n_positive, len(labels) - n_positive)
    judged = pointing(hits, chances, [str(i) for i in range(len(hits))])
    return {
        "auroc": round(area, 4),
        "auroc_95": [round(low, 4), round(high, 4)],
        "interval": method,
        "pointing": round(float(np.mean(hits)), 4),
        "pointing_chance": round(float(np.mean(chances)), 4),
        "pointing_p": judged.p,
        "n_test": len(labels),
    }


def table(runs: list[dict[str, Any]]) -> list[str]:
    """A Markdown table, one line a run."""
    lines = [
        "| cohort | seed | model | start | min | epochs | test AUROC (95 %) | pointing (chance) |",
        "|---" * 8 + "|",
    ]
    for run in runs:
        low, high = run["auroc_95"]
        names = " | ".join(str(run[key]) for key in ("difficulty", "seed", "model"))
        start = " ".join([run["start"], *run["set"]])
        points = f"{run['pointing']:.2f} ({run['pointing_chance']:.2f})"
        area = f"{run['auroc']:.3f} ({low:.2f}-{high:.2f})"
        lines.append(f"| {names} | {start} | {run['minutes']:.0f} | {run['epochs']} | {area} | {points} |")
    return lines


if __name__ == "__main__":
    main()
