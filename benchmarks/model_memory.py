"""Peak memory of one training step against kept windows: plain backward, and streamed.

    python benchmarks/model_memory.py --plain 64 128 256 512 --stream 256 512 1024 2048 4000

Every point runs in a process of its own and reports the growth of the peak resident set (CPU) or the peak of
the CUDA allocator. Pixels (uint8, 192 KiB a window) are reported apart: a training loop may keep them in
files or on the host. Results: benchmarks/results/model_memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "model_memory.json"
MIB = 2**20


def one_step(mode: str, n_windows: int, preset_name: str, threads: int, device: str) -> dict[str, Any]:
    """One training step over `n_windows` of a square image of at most 60 % tissue."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does
    import torch

    from atlas import Atlas, WindowBatch, preset
    from atlas.streaming import loss_and_backward

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    side = int((n_windows / 0.6) ** 0.5) + 1
    chosen = torch.randperm(side * side)[:n_windows].sort().values
    pixels = torch.randint(0, 256, (n_windows, 3, 256, 256), dtype=torch.uint8)
    one = torch.zeros(1, dtype=torch.long)
    batch = WindowBatch(
        pixels, chosen // side, chosen % side, torch.zeros(n_windows, dtype=torch.long),
        torch.full((1, 2), side * 256), torch.ones(1, 2), one,
    )  # fmt: skip
    model = Atlas(preset(preset_name)).to(device)
    small = batch.select(torch.arange(min(4, n_windows)))
    model(small).logits_BO.sum().backward()  # libraries and kernels are loaded before the count starts
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    if mode == "plain":
        model(batch).logits_BO.sum().backward()
    else:
        loss_and_backward(model, batch, torch.sum)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    step = torch.cuda.max_memory_allocated() if device == "cuda" else peak - before
    return {
        "mode": mode, "windows": n_windows, "seconds": round(seconds, 2), "step_MiB": round(step / MIB),
        "pixels_MiB": round(pixels.numel() / MIB), "process_peak_MiB": round(peak / MIB),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plain", type=int, nargs="*", default=[64, 128, 256, 512])
    parser.add_argument("--stream", type=int, nargs="*", default=[256, 512, 1024, 2048, 4000])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(one_step(args.point[0], int(args.point[1]), args.preset, args.threads, args.device)))
        return
    rows = []
    for mode, counts in (("plain", args.plain), ("stream", args.stream)):
        for n in counts:
            options = ["--preset", args.preset, "--threads", str(args.threads), "--device", args.device]
            command = [sys.executable, __file__, "--point", mode, str(n), *options]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    per_window = {}
    for mode in ("plain", "stream"):
        mine = [r for r in rows if r["mode"] == mode]
        if len(mine) > 1:
            rise = mine[-1]["step_MiB"] - mine[0]["step_MiB"]
            per_window[mode] = round(rise / (mine[-1]["windows"] - mine[0]["windows"]), 3)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[f"{args.preset} {args.device}"] = {
        "threads": args.threads,
        "rows": rows,
        "MiB_per_window": per_window,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print("MiB per window:", per_window)


if __name__ == "__main__":
    main()
