"""Killed, starved and raced: no incomplete store is ever visible, and a second run makes the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from atlas_path.errors import ExitCode, UsageError
from atlas_path.store import PreprocessOptions, find_stores
from atlas_path.store.commit import PartFolder, part_folders, store_path, sweep
from atlas_path.store.verify import verify_store
from pipelines import cluster as cluster_module
from pipelines.preprocess import preprocess
from pipelines.preprocess_status import status
from pipelines.work import read_manifest

PATIENCE_S = 120


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """A slide tall enough for two bands and to be caught in the middle, and a small one.

    Their pixels are noise, so that their stores are large, too.
    """
    folder = tmp_path_factory.mktemp("slides")
    for name, height in (("a", 17500), ("b", 900)):
        pixels = np.random.default_rng(len(name)).integers(100, 200, (height, 800, 3), np.uint8)
        tifffile.imwrite(
            folder / f"{name}.tif",
            pixels,
            tile=(256, 256),
            photometric="rgb",
            compression="deflate",
            compressionargs={"level": 1},
            resolution=(20000.0, 20000.0),
            resolutionunit="CENTIMETER",
        )
    return folder


@pytest.fixture(scope="module")
def undisturbed(slides: Path, tmp_path_factory) -> dict[str, bytes]:
    """All files of the stores of a run that nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed")
    result = preprocess([slides], out, PreprocessOptions(workers=0, tissue="none"))
    assert result.exit_code == ExitCode.OK
    return content(out)


def content(out: Path) -> dict[str, bytes]:
    return {
        file.relative_to(out).as_posix(): file.read_bytes()
        for store in find_stores(out)
        for file in store.rglob("*")
        if file.is_file()
    }


def start(slides: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "atlas_path.cli.main", "preprocess", str(slides), "-o", str(out)]
    command += ["--tissue", "none", "--workers", str(workers)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heed_interrupts
    )


def heed_interrupts() -> None:
    """What a shell starts in the background ignores SIGINT, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until a condition holds; fail when the process ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def is_writing(out: Path, image_id: str) -> bool:
    """A shard of the image lies in an unfinished store."""
    return any(out.glob(f".{image_id}.*.part/0/c/0/*/*"))


def run_again_and_compare(slides: Path, out: Path, undisturbed: dict[str, bytes]) -> None:
    result = preprocess([slides], out, PreprocessOptions(workers=0, tissue="none"))
    assert result.exit_code == ExitCode.OK
    assert part_folders(out) == []
    assert all(verify_store(store, full=True).ok for store in find_stores(out))
    assert content(out) == undisturbed


def test_the_driver_is_killed(slides: Path, tmp_path, undisturbed) -> None:
    out = tmp_path / "out"
    process = start(slides, out, workers=0)
    wait_for(lambda: is_writing(out, "a"), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert find_stores(out) == []
    assert [image.state for image in status(out)] == ["incomplete"]
    run_again_and_compare(slides, out, undisturbed)


def test_it_is_interrupted(slides: Path, tmp_path, undisturbed) -> None:
    many, out = tmp_path / "many", tmp_path / "out"
    many.mkdir()
    for name in ("a", "b", *(f"c{i}" for i in range(8))):  # enough to be at work when the signal arrives
        os.link(slides / ("b.tif" if name == "b" else "a.tif"), many / f"{name}.tif")
    process = start(many, out, workers=0)
    wait_for(lambda: is_writing(out, "a"), process)
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == ExitCode.INTERRUPTED, output
    assert "run the same command again" in output
    assert part_folders(out) == []
    assert len(find_stores(out)) < 10
    for link in many.glob("c*.tif"):
        link.unlink()
    for store in out.glob("c*.ome.zarr"):
        shutil.rmtree(store)
    run_again_and_compare(many, out, undisturbed)


def test_a_slide_that_kills_its_worker_is_set_aside(slides: Path, tmp_path, undisturbed) -> None:
    """allowed-failures 1: the second death ends the slide, and the other slide is still made."""
    out = tmp_path / "out"
    process = start(slides, out, workers=1)
    for _ in range(2):
        wait_for(lambda: is_writing(out, "a"), process)
        for pid in writers_below(process.pid, out):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(is_live for _, is_live in part_folders(out)), process)
        for folder, _ in part_folders(out):
            shutil.rmtree(folder)  # so that the next attempt is seen to begin
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == ExitCode.SOME_FAILED, output
    records = {record.image_id: record for record in read_manifest(out / "manifest.csv")}
    assert records["a"].reason == "worker_died"
    assert "out of memory" in records["a"].error
    assert records["b"].ok
    assert [store.name for store in find_stores(out)] == ["b.ome.zarr"]
    run_again_and_compare(slides, out, undisturbed)


def writers_below(pid: int, out: Path) -> list[int]:
    """Processes below `pid` that hold a file of an unfinished store open (its lock)."""
    return [
        child.pid
        for child in psutil.Process(pid).children(recursive=True)
        if any(str(out) in file.path for file in child.open_files())
    ]


def test_two_runs_on_one_folder(slides: Path, tmp_path, undisturbed) -> None:
    out = tmp_path / "out"
    runs = [start(slides, out, workers=0) for _ in range(2)]
    outputs = [run.communicate(timeout=PATIENCE_S)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert content(out) == undisturbed
    assert part_folders(out) == []
    assert [record.ok for record in read_manifest(out / "manifest.csv")] == [True, True]


def test_a_giant_in_bands_has_the_same_bytes(slides: Path, tmp_path, undisturbed) -> None:
    options = PreprocessOptions(workers=2, tissue="none", giant_px=10_000_000)
    result = preprocess([slides], tmp_path / "out", options)
    assert [record.error for record in result.records] == ["", ""]
    assert content(tmp_path / "out") == undisturbed


def test_a_running_cluster_is_used(slides: Path, tmp_path, undisturbed, monkeypatch) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        address = cluster.scheduler_address
        options = PreprocessOptions(scheduler=address, tissue="none", limit=1)
        result = preprocess([slides / "b.tif"], tmp_path / "out", options)
        assert [record.error for record in result.records] == [""]
    assert content(tmp_path / "out") == {k: v for k, v in undisturbed.items() if k.startswith("b.ome.zarr")}
    monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT_S", 1)
    with pytest.raises(UsageError, match="no Dask scheduler answers there"):
        preprocess([slides / "a.tif"], tmp_path / "out", options)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_disk_is_full(slides: Path, small_disk: Path, undisturbed) -> None:
    result = preprocess([slides], small_disk / "out", PreprocessOptions(workers=0, tissue="none"))
    reasons = {record.image_id: record.reason for record in result.records}
    assert reasons == {"a": "disk_full", "b": "written"}
    assert result.exit_code == ExitCode.SOME_FAILED
    failure = result.failures[0].error
    assert "no space left" in failure
    assert "run the command again" in failure
    assert part_folders(small_disk / "out") == []
    stores = find_stores(small_disk / "out")
    assert [store.name for store in stores] == ["b.ome.zarr"]
    assert verify_store(stores[0], full=True).ok
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    run_again_and_compare(slides, small_disk / "out", undisturbed)


def test_only_dead_writers_are_swept(tmp_path) -> None:
    living = PartFolder(store_path(tmp_path, "site/living"))
    dead = PartFolder(store_path(tmp_path, "dead"))
    os.close(dead._lock_fd)  # what the kernel does for a process that dies
    assert sweep(tmp_path) == [dead.path]
    assert living.path.is_dir()
    living.abandon()
    assert part_folders(tmp_path) == []
