"""Size, arithmetic and speed of the model: presets, per-window cost against peers, cost against kept windows.

    python benchmarks/model.py                 # all parts; the GPU part runs when CUDA is there
    python benchmarks/model.py --parts presets linear --threads 1

Peers are written here in plain torch with the same width, heads, MLP and number of blocks: a ViT with full
attention over all 16 px tokens, the same with attention inside windows of 256 tokens, and our own dense path
(`atlas.dense`), which computes every window of the whole image. Results: benchmarks/results/model.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from atlas import Atlas, AtlasConfig, Runtime, WindowBatch, preset
from atlas.config import PRESETS
from atlas.dense import DenseImage, dense_case
from atlas.layout import WindowTree

RESULTS = Path(__file__).parent / "results" / "model.json"
WINDOW_PX = 256


def grid_batch(side_px: int, keep: float = 1.0, device: str = "cpu", seed: int = 0) -> WindowBatch:
    """Windows of one square image; kept ones form a few blobs, as tissue does."""
    n = -(-side_px // WINDOW_PX)
    rng = torch.Generator().manual_seed(seed)
    if keep >= 1.0:
        mask = torch.ones(n, n, dtype=torch.bool)
    else:
        coarse = torch.rand(1, 1, max(n // 6, 2), max(n // 6, 2), generator=rng)
        field = F.interpolate(coarse, (n, n), mode="bicubic")[0, 0]
        mask = field >= field.flatten().kthvalue(max(1, round((1 - keep) * n * n))).values
    row, col = torch.nonzero(mask, as_tuple=True)
    shape = (len(row), 3, WINDOW_PX, WINDOW_PX)
    if device == "meta":
        pixels = torch.empty(shape, dtype=torch.uint8, device="meta")
    else:
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    one = torch.zeros(1, dtype=torch.long)
    size = torch.tensor([[side_px, side_px]])
    return WindowBatch(pixels, row, col, torch.zeros_like(row), size, torch.ones(1, 2), one)


def forward_flops(cfg: AtlasConfig, side_px: int) -> tuple[float, float]:
    """(whole model, stem) in FLOP = 2 x multiply-add, counted on meta tensors; all windows kept."""
    model = Atlas(cfg).to("meta")
    batch = grid_batch(side_px, device="meta")
    tree = WindowTree.of(batch, cfg).to(torch.device("meta"))
    with torch.no_grad():
        with FlopCounterMode(display=False) as stem_counter:
            tokens = model.stem(torch.empty(batch.pixels_NCHW.shape, device="meta"), tree.neighbours)
        with FlopCounterMode(display=False) as read_counter:
            model.read(tokens, tree)
    stem = float(stem_counter.get_total_flops())
    return stem + float(read_counter.get_total_flops()), stem


def presets_table() -> list[dict[str, Any]]:
    """Parameters and forward arithmetic of every preset."""
    rows = []
    for name in PRESETS:
        cfg = preset(name)
        n_params = sum(p.numel() for p in Atlas(cfg).parameters())
        row: dict[str, Any] = {"preset": name, "dim": cfg.dim, "heads": cfg.heads, "depths": cfg.depths,
                               "stem": cfg.stem, "params_M": round(n_params / 1e6, 2)}  # fmt: skip
        for side_px in (1024, 2048, 4096):
            total, stem = forward_flops(cfg, side_px)
            row[f"gflop_{side_px}"] = round(total / 1e9, 1)
            row[f"stem_share_{side_px}"] = round(stem / total, 3)
            row[f"mflop_per_window_{side_px}"] = round(total / (side_px / WINDOW_PX) ** 2 / 1e6, 1)
        rows.append(row)
    return rows


def stem_table(repeats: int) -> list[dict[str, Any]]:
    """Arithmetic and time of the stem alone for several widths and blocks, and the published one."""
    batch = grid_batch(1024)
    rows = []
    for name, changes in {
        "slim 16": {"stem_width": 16}, "slim 24 (tiny)": {}, "slim 32": {"stem_width": 32},
        "slim 24, no blocks": {"stem_blocks": (0, 0, 0)}, "slim 24, LayerNorm": {"stem_norm": "layer"},
        "slim 64": {"stem_width": 64}, "published (dim 64)": {"stem": "reference", "stem_norm": "batch"},
    }.items():  # fmt: skip
        cfg = preset("tiny", **changes)
        model = Atlas(cfg)
        tree = WindowTree.of(batch, cfg)
        pixels = model.normalise(batch.pixels_NCHW)
        seconds = best_of(lambda m=model, p=pixels, t=tree: m.stem(p, t.neighbours).sum().backward(), repeats)
        _, flop = forward_flops(cfg, 1024)
        mflop_per_token = round(flop / len(batch) / cfg.tokens / 1e6, 3)
        rows.append(
            {"stem": name, "mflop_per_token": mflop_per_token, "train_ms_per_window": ms(seconds, batch)}
        )
    return rows


class PlainViT(nn.Module):
    """Patch embedding and pre-norm blocks; attention over everything or inside windows of 256 tokens."""

    def __init__(self, cfg: AtlasConfig, windowed: bool) -> None:
        super().__init__()
        hidden = int(cfg.dim * cfg.mlp_ratio)
        self.windowed, self.heads = windowed, cfg.heads
        self.embed = nn.Conv2d(3, cfg.dim, 16, 16)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(cfg.dim), "qkv": nn.Linear(cfg.dim, 3 * cfg.dim),
                "out": nn.Linear(cfg.dim, cfg.dim), "norm2": nn.LayerNorm(cfg.dim),
                "mlp": nn.Sequential(nn.Linear(cfg.dim, hidden), nn.GELU(), nn.Linear(hidden, cfg.dim)),
            }) for _ in range(sum(cfg.depths))
        )  # fmt: skip
        self.head = nn.Linear(cfg.dim, cfg.n_outputs)

    def forward(self, pixels_N3hw: Tensor) -> Tensor:
        weight = self.embed.weight
        x = self.embed(pixels_N3hw.to(weight.device, weight.dtype) / 255).flatten(2).transpose(1, 2)
        x = x if self.windowed else x.reshape(1, -1, x.shape[-1])
        for b in self.blocks:
            q, k, v = b["qkv"](b["norm1"](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            x = x + b["out"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            x = x + b["mlp"](b["norm2"](x))
        return self.head(x.mean((0, 1), keepdim=True))


def best_of(fn: Callable[[], Any], repeats: int) -> float:
    """Least wall time of `repeats` runs after one warm-up, seconds."""
    times = []
    for _ in range(repeats + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        fn()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def ms(seconds: float, batch: WindowBatch) -> float:
    return round(1e3 * seconds / len(batch), 3)


def peers(cfg: AtlasConfig, sides_px: list[int], repeats: int, most_full: int) -> list[dict[str, Any]]:
    """Milliseconds per window, forward and forward + backward, all windows kept, on the CPU."""
    rows = []
    for side_px in sides_px:
        batch = grid_batch(side_px)
        n = side_px // WINDOW_PX
        whole = batch.pixels_NCHW.view(n, n, 3, WINDOW_PX, WINDOW_PX).permute(2, 0, 3, 1, 4)
        image = DenseImage(whole.reshape(3, side_px, side_px), torch.ones(n, n, dtype=torch.bool))
        atlas, window_vit, full_vit = Atlas(cfg), PlainViT(cfg, True), PlainViT(cfg, False)
        runs: dict[str, Callable[[], Tensor]] = {
            "atlas": lambda m=atlas, b=batch: m(b).logits_BO.sum(),
            "window ViT": lambda m=window_vit, b=batch: m(b.pixels_NCHW).sum(),
        }
        if side_px <= most_full:
            runs["full ViT"] = lambda m=full_vit, b=batch: m(b.pixels_NCHW).sum()
            runs["atlas, dense path"] = lambda m=atlas, i=image: dense_case(m, [i])[0].sum()
        for name, run in runs.items():
            with torch.no_grad():
                forward = best_of(run, repeats)
            both = best_of(lambda r=run: r().backward(), repeats)
            row = {"model": name, "side_px": side_px, "windows": len(batch)}
            row |= {"forward_ms_per_window": ms(forward, batch), "train_ms_per_window": ms(both, batch)}
            rows.append(row)
            print(json.dumps(rows[-1]), flush=True)
            gc.collect()
    return rows


def linear(cfg: AtlasConfig, side_px: int, keeps: list[float], repeats: int) -> dict[str, Any]:
    """Time and arithmetic of a training step against kept windows on one canvas, with a straight-line fit."""
    rows = []
    for keep in keeps:
        batch = grid_batch(side_px, keep)
        model = Atlas(cfg)
        seconds = best_of(lambda m=model, b=batch: m(b).logits_BO.sum().backward(), repeats)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(batch)
        n_coarse = [len(s.row_W) for s in WindowTree.of(batch, cfg).scales]
        row = {"kept": len(batch), "windows_per_scale": n_coarse, "train_s": round(seconds, 3)}
        row |= {"train_ms_per_window": ms(seconds, batch), "gflop": counter.get_total_flops() / 1e9}
        rows.append(row)
        print(json.dumps(rows[-1]), flush=True)
    x = np.array([r["kept"] for r in rows], float)
    fit = {}
    for key in ("train_s", "gflop"):
        y = np.array([r[key] for r in rows], float)
        slope, start = np.polyfit(x, y, 1)
        left = y - (slope * x + start)
        fit[key] = {
            "slope": slope,
            "intercept": start,
            "r2": 1 - (left @ left) / ((y - y.mean()) @ (y - y.mean())),
        }
    return {"side_px": side_px, "canvas_windows": (side_px // WINDOW_PX) ** 2, "rows": rows, "fit": fit}


def gpu(repeats: int) -> list[dict[str, Any]]:
    """bf16 training steps on CUDA: time, memory, share of peak arithmetic; compile on and off."""
    peak = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
    device_peak = next((v for k, v in peak.items() if k in torch.cuda.get_device_name()), float("nan"))
    jobs = [(name, side_px, 1.0) for name in ("S", "B", "B-slim") for side_px in (1024, 4096)]
    jobs += [("B-slim", 25_088, 0.253)]  # 25 x 20 mm at 1 mpp, a quarter tissue: 0.63 M tokens
    rows = []
    for name, side_px, keep in jobs:
        for backend in ("sdpa", "varlen"):
            for compiled in (False, True):
                model = Atlas(preset(name), Runtime(backend, chunk_windows=256, compile=compiled)).cuda()
                batch = grid_batch(side_px, keep)
                batch.pixels_NCHW = batch.pixels_NCHW.cuda()
                stream = len(batch) > 256
                torch.cuda.reset_peak_memory_stats()

                def step(m=model, b=batch, stream=stream) -> None:
                    from atlas.streaming import loss_and_backward

                    with torch.autocast("cuda", torch.bfloat16):
                        if stream:
                            loss_and_backward(m, b, torch.sum)
                        else:
                            m(b).logits_BO.sum().backward()

                seconds = best_of(step, repeats)
                with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
                    model.runtime = replace(model.runtime, compile=False, backend="sdpa")
                    with FlopCounterMode(display=False) as counter:
                        model(batch)
                flop = 3 * counter.get_total_flops()  # forward and backward; recomputation is not counted
                rows.append({"preset": name, "side_px": side_px, "windows": len(batch), "backend": backend,
                             "compile": compiled, "streamed": stream, "train_s": round(seconds, 4),
                             "peak_GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2),
                             "model_flop_utilisation": round(flop / seconds / device_peak, 3)})  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
                del model
                torch.cuda.empty_cache()
    return rows


def machine(threads: int) -> dict[str, Any]:
    load = [round(x, 1) for x in os.getloadavg()]
    return {"cpu_count": os.cpu_count(), "threads": threads, "torch": torch.__version__, "load_average": load,
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "python": platform.python_version(), "machine": platform.machine()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=["presets", "stem", "peers", "linear", "gpu"])
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument(
        "--most-full", type=int, default=2048, help="largest side for full attention and dense"
    )
    parser.add_argument("--canvas", type=int, default=8192)
    parser.add_argument("--keeps", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.4])
    parser.add_argument("--preset", default="tiny", help="of the CPU parts")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    cfg = preset(args.preset)
    parts: dict[str, Callable[[], Any]] = {
        "presets": presets_table,
        "stem": lambda: stem_table(args.repeats),
        "peers": lambda: peers(cfg, args.sides, args.repeats, args.most_full),
        "linear": lambda: linear(cfg, args.canvas, args.keeps, args.repeats),
        "gpu": lambda: gpu(args.repeats),
    }
    for name in args.parts:
        if name == "gpu" and not torch.cuda.is_available():
            print("gpu: no CUDA device, not run")
            continue
        results[name] = {"machine": machine(args.threads), "result": parts[name]()}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1, default=float) + "\n")
        print(json.dumps(results[name], indent=1, default=float))


if __name__ == "__main__":
    main()
