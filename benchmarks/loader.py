"""How fast windows come from stores, and how fast the model eats them, side by side.

    python benchmarks/loader.py --stores STORES [--mpp 1.0] [--workers 0 2] [--preset tiny]

`read` is windows a second that one thread reads from the stores, nothing else; `loader` adds augmentation and
packing, through the background thread (workers 0) or that many processes; `cached` is a second epoch with all
windows in memory; `model` is forward and backward on the device of the run. Start-up of workers is reported
apart. A GPU is fed when `loader` with its workers exceeds `model`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from atlas_path.config import TrainConfig
from atlas_path.store import find_stores, open_store
from pipelines.data import WindowReader
from pipelines.data_loader import PassDataset, PassLoader, plan_epoch
from pipelines.train_pass import backward_pass
from pipelines.train_prepare import Prepared, prepare
from pipelines.train_setup import build_model, choose_device

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stores", type=Path, required=True)
    parser.add_argument("--mpp", type=float, default=1.0)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/loader.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = cohort_of(arguments.stores, Path(scratch))
        rows = measure(table, arguments)
    lines = ["| what | windows/s | start-up s |", "|---|---|---|"]
    lines += [f"| {r['what']} | {r['windows_per_s']:,.0f} | {r['startup_s']:.1f} |" for r in rows]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    machine |= {"load": os.getloadavg()[0], "torch": torch.__version__}
    arguments.out.write_text(json.dumps({"machine": machine, "table": lines, "rows": rows}, indent=1) + "\n")
    print("\n".join(lines))


def cohort_of(stores: Path, scratch: Path) -> Path:
    """A table of all stores with labels that alternate: only speed is looked at."""
    table = scratch / "cohort.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "label", "split"])
        for i, path in enumerate(find_stores([stores])):
            writer.writerow([open_store(path).image_id, i % 2, "train"])
    return table


def config_of(table: Path, arguments: argparse.Namespace, workers: int, cache_gb: float) -> TrainConfig:
    data = {
        "stores": arguments.stores.absolute(),
        "mpp": arguments.mpp,
        "workers": workers,
        "cache_gb": cache_gb,
    }
    return TrainConfig.model_validate(
        {
            "cohort": table,
            "data": data,
            "split": {"tune": 0, "test": 0},
            "model": {"preset": arguments.preset},
        }
    )


def measure(table: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of the table."""
    config = config_of(table, arguments, 0, 0)
    prepared = prepare(config, quiet=True)
    rows = [read_speed(prepared)]
    for workers in arguments.workers:
        rows += loader_speed(prepared, config_of(table, arguments, workers, 0), f"loader, {workers} workers")
    rows += loader_speed(prepared, config_of(table, arguments, 0, 64), "loader, cached", warm=True)
    rows.append(model_speed(prepared, config_of(table, arguments, 0, 64)))
    return rows


def read_speed(prepared: Prepared) -> dict[str, Any]:
    reader, images = WindowReader(0), [i for c in prepared.found.cases.values() for i in c.images]
    started = time.perf_counter()
    for image in images:
        reader.read(image)
    seconds = time.perf_counter() - started
    return row("read, one thread", sum(i.n_windows for i in images), seconds)


def passes_of(prepared: Prepared, config: TrainConfig, epoch: int) -> list[Any]:
    ids = prepared.ids("train")
    sizes = [prepared.found.cases[c].n_windows for c in ids]
    return plan_epoch(ids, sizes, [1.0] * len(ids), config, epoch)


def loader_speed(
    prepared: Prepared, config: TrainConfig, what: str, warm: bool = False
) -> list[dict[str, Any]]:
    loader = PassLoader(PassDataset(prepared.found.cases, prepared.targets, config, False))
    if warm:
        list(loader.run(passes_of(prepared, config, 0)))
    before, started = loader.n_windows, time.perf_counter()
    source = loader.run(passes_of(prepared, config, 1))
    first = len(next(source).batch)
    startup = time.perf_counter() - started
    for _ in source:
        pass
    seconds = time.perf_counter() - started
    n = loader.n_windows - before
    if config.data.workers:  # workers are up when the first pass arrives
        return [row(what, n - first, seconds - startup, startup)]
    return [row(what, n, seconds)]


def model_speed(prepared: Prepared, config: TrainConfig) -> dict[str, Any]:
    device = choose_device(config.runtime)
    cases = [prepared.found.cases[c] for c in prepared.ids("train")]
    model = build_model(config, prepared.targets, cases, WindowReader(0), 0).to(device).train()
    loader = PassLoader(PassDataset(prepared.found.cases, prepared.targets, config, False))
    ready = list(loader.run(passes_of(prepared, config, 0)))
    backward_pass(model, ready[0], config, prepared.targets.kind, device)
    started = time.perf_counter()
    for loaded in ready:
        backward_pass(model, loaded, config, prepared.targets.kind, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    what = f"model {config.model.preset} ({device.type}), forward and backward"
    return row(what, sum(len(r.batch) for r in ready), time.perf_counter() - started)


def row(what: str, n_windows: int, seconds: float, startup: float = 0.0) -> dict[str, Any]:
    return {
        "what": what,
        "windows": n_windows,
        "windows_per_s": n_windows / max(seconds, 1e-9),
        "startup_s": startup,
    }


if __name__ == "__main__":
    main()
