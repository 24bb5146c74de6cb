"""`verify`, `status` and `--dry-run`: what is wrong with a store, an image or a plan, in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from atlas_path.cli.main import app
from atlas_path.errors import ExitCode, UsageError
from atlas_path.store import PreprocessOptions
from atlas_path.store.commit import PartFolder, store_path
from atlas_path.store.verify import verify_store
from pipelines.preprocess import preprocess
from pipelines.preprocess_status import status


@pytest.fixture
def stores(make_slide, tmp_path) -> Path:
    """A folder with one finished image, its slide still beside it."""
    make_slide("a.tif")
    out = tmp_path / "out"
    assert preprocess([tmp_path / "slides"], out, PreprocessOptions(workers=0)).exit_code == ExitCode.OK
    return out


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def states(out: Path) -> dict[str, tuple[str, str]]:
    return {image.image_id: (image.state, image.why) for image in status(out)}


def test_a_whole_store_verifies(stores: Path) -> None:
    quick = verify_store(stores / "a.ome.zarr")
    assert quick.ok
    assert quick.n_checksums > 10
    full = verify_store(stores / "a.ome.zarr", full=True)
    assert full.ok
    assert full.n_decoded == full.n_chunks == quick.n_chunks > 0
    done = call("verify", stores)
    assert done.exit_code == ExitCode.OK
    assert "a.ome.zarr: whole" in done.output


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda store: (store / "0/c/0/0/0").unlink(), "0/c/0/0/0 is missing"),
        (lambda store: (store / "0/c/0/0/0").write_bytes(b"x" * 5), "0/c/0/0/0 has 5 bytes instead of"),
        (lambda store: (store / "0/more").write_bytes(b"x"), "0/more does not belong to the store"),
        (lambda store: (store / "complete.json").unlink(), "no completed store is here"),
        (lambda store: _flip(store / "0/c/0/0/0", 100), "0/c/0/0/0 has another content than was written"),
        (lambda store: _flip(store / "0/c/0/0/0", -20), "0/c/0/0/0: this part of the store has an index"),
        (
            lambda store: _flip(store / "labels/tissue/0/c/0/0", 5),
            "labels/tissue/0/c/0/0 has another content",
        ),
    ],
)
def test_damage_is_found_and_named(stores: Path, damage, fault: str) -> None:
    damage(stores / "a.ome.zarr")
    verdict = verify_store(stores / "a.ome.zarr")
    assert any(line.startswith(fault) for line in verdict.faults), verdict.faults
    found = call("verify", stores, "--json")
    assert found.exit_code == ExitCode.ALL_FAILED
    assert json.loads(found.output)["ok"] is False


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_nothing_to_verify(tmp_path) -> None:
    error = call("verify", tmp_path).exception
    assert isinstance(error, UsageError)
    assert "holds no stores" in str(error)


def test_status_says_why(stores: Path, make_slide, tmp_path) -> None:
    assert states(stores)["a"][0] == "done"
    assert "made from the slide as it is now (fingerprint " in states(stores)["a"][1]

    make_slide("a.tif", np.full((600, 600, 3), (190, 110, 160), np.uint8))
    assert states(stores)["a"] == ("stale", "the slide has changed since; run preprocess again")

    make_slide("nompp.tif", mpp=None)
    preprocess([tmp_path / "slides"], stores, PreprocessOptions(workers=0))
    assert states(stores)["nompp"][0] == "failed"
    assert "micrometres per pixel" in states(stores)["nompp"][1]

    preprocess([tmp_path / "slides/a.tif"], stores, PreprocessOptions(workers=0, mpp=1.0))
    assert states(stores)["a"][0] == "stale"
    assert "mpp 0.5 -> 1.0" in states(stores)["a"][1]

    shutil.copytree(stores / "a.ome.zarr", stores / "b.ome.zarr")
    assert states(stores)["b"][0] == "unlisted"
    (stores / "b.ome.zarr/complete.json").unlink()
    assert states(stores)["b"][0] == "incomplete"

    assert preprocess([tmp_path / "slides/a.tif"], stores, PreprocessOptions(workers=0)).records[0].ok
    shutil.rmtree(stores / "a.ome.zarr")
    assert states(stores)["a"][0] == "lost"

    part = PartFolder(store_path(stores, "c"))
    assert states(stores)["c"] == ("being_written", "a run is writing it")
    part.abandon()

    shown = call("status", stores)
    assert shown.exit_code == ExitCode.ALL_FAILED
    assert "nompp: failed: " in shown.output


def test_dry_run_writes_nothing_and_is_near_the_truth(make_slide, tmp_path) -> None:
    make_slide("a.tif")
    make_slide("nompp.tif", mpp=None)
    out = tmp_path / "out"
    shown = call("preprocess", tmp_path / "slides", "-o", out, "--dry-run")
    assert shown.exit_code == ExitCode.OK, shown.output
    assert not out.exists()
    rows = {line.split()[0]: line for line in shown.output.splitlines()}
    assert "no_mpp" in rows["nompp"]
    assert "free" in rows["total:"]
    windows, gigabytes = int(rows["a"].split()[-3]), float(rows["a"].split()[-2])
    result = preprocess([tmp_path / "slides"], out, PreprocessOptions(workers=0))
    assert windows == result.records[0].windows
    written = sum(file.stat().st_size for file in (out / "a.ome.zarr").rglob("c/**/*") if file.is_file())
    assert gigabytes * 1e9 == pytest.approx(written, rel=0.35, abs=1e6)
    assert "up to date" in call("preprocess", tmp_path / "slides", "-o", out, "--dry-run").output


def test_dask_report_needs_workers(make_slide, tmp_path) -> None:
    make_slide("a.tif")
    with pytest.raises(UsageError, match="uses no Dask workers"):
        preprocess([tmp_path / "slides"], tmp_path / "out", PreprocessOptions(workers=0, report=True))
