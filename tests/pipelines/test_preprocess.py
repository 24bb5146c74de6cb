"""`preprocess`: what it writes, what it refuses, how it resumes, and with which exit code it ends."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from atlas_path.cli.main import app
from atlas_path.errors import CohortError, ExitCode, UsageError
from atlas_path.store import PreprocessOptions, find_stores, open_store
from pipelines.preprocess import preprocess, preprocess_one
from pipelines.work import BatchResult, ImageRecord


def run(inputs: Path | list[Path], out: Path, **options: object) -> BatchResult:
    given = inputs if isinstance(inputs, list) else [inputs]
    return preprocess(given, out, PreprocessOptions(workers=0, **options))


def only(result: BatchResult) -> ImageRecord:
    assert len(result.records) == 1
    return result.records[0]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_folder_becomes_stores_tables_and_pictures(make_slide, tmp_path) -> None:
    make_slide("a.tif")
    make_slide("site1/b.tif")
    out = tmp_path / "out"
    result = run(tmp_path / "slides", out)
    assert result.exit_code == ExitCode.OK
    assert [store.relative_to(out).as_posix() for store in find_stores(out)] == [
        "a.ome.zarr",
        "site1/b.ome.zarr",
    ]
    manifest = rows(out / "manifest.csv")
    assert [row["image_id"] for row in manifest] == ["a", "site1/b"]
    assert {row["status"] for row in manifest} == {"done"}
    assert float(manifest[0]["mpp"]) == pytest.approx(0.5)
    assert float(manifest[0]["tissue_mm2"]) > 0.05
    assert rows(out / "failures.csv") == []
    assert (out / "thumbnails/site1/b.jpg").is_file()
    assert json.loads((out / "tissue/site1/b.geojson").read_text())["type"] == "FeatureCollection"
    record = json.loads(next((out / "runs").iterdir()).read_text())
    assert record["exit_code"] == 0
    assert record["options"]["mpp"] == 0.5
    assert "2 images: 2 done (2 in this run), 0 not" in (out / "summary.md").read_text()
    assert not list(out.rglob(".*.part"))


def test_bad_slides_are_named_and_the_others_go_on(make_slide, tmp_path) -> None:
    good = make_slide("good.tif")
    folder = good.parent
    (folder / "empty.svs").write_bytes(b"")
    (folder / "cut.tif").write_bytes(good.read_bytes()[: good.stat().st_size // 3])
    (folder / "text.tif").write_text("not an image at all\n")
    make_slide("nompp.tif", mpp=None)
    make_slide("glass.tif", np.full((700, 700, 3), 244, np.uint8))
    make_slide("coarse.tif", mpp=4.0)
    out = tmp_path / "out"
    result = run(folder, out)
    assert result.exit_code == ExitCode.SOME_FAILED
    reasons = {record.image_id: record.reason for record in result.records}
    assert reasons == {
        "good": "written",
        "empty": "unreadable",
        "cut": "unreadable",
        "text": "unreadable",
        "nompp": "no_mpp",
        "glass": "no_tissue",
        "coarse": "too_coarse",
    }
    failures = {row["image_id"]: row for row in rows(out / "failures.csv")}
    assert len(failures) == 6
    for image_id, row in failures.items():
        assert image_id in row["error"]  # the file
        assert row["error"].count(";") >= 1  # the remedy
        assert "\n" not in row["error"]
    assert failures["glass"]["status"] == "no_tissue"
    assert (out / "thumbnails/glass.jpg").is_file()
    assert [store.name for store in find_stores(out)] == ["good.ome.zarr"]
    assert not list(out.rglob(".*.part"))


def test_exit_code_when_nothing_worked(make_slide, tmp_path) -> None:
    make_slide("nompp.tif", mpp=None)
    assert run(tmp_path / "slides", tmp_path / "out").exit_code == ExitCode.ALL_FAILED


def test_a_second_run_does_nothing_and_a_changed_slide_is_done_again(make_slide, tmp_path) -> None:
    make_slide("a.tif")
    out = tmp_path / "out"
    assert only(run(tmp_path / "slides", out)).reason == "written"
    before = (out / "a.ome.zarr/complete.json").stat().st_mtime_ns
    again = only(run(tmp_path / "slides", out))
    assert (again.status, again.reason) == ("done", "up_to_date")
    assert (out / "a.ome.zarr/complete.json").stat().st_mtime_ns == before
    make_slide("a.tif", np.full((600, 600, 3), (190, 110, 160), np.uint8))
    changed = only(run(tmp_path / "slides", out))
    assert (changed.reason, changed.height_px) == ("written", 600)
    assert open_store(out / "a.ome.zarr").levels[0].height_px == 600


def test_other_parameters_are_refused_unless_forced(make_slide, tmp_path) -> None:
    make_slide("a.tif")
    out = tmp_path / "out"
    run(tmp_path / "slides", out)
    refused = run(tmp_path / "slides", out, mpp=1.0)
    assert only(refused).reason == "stale"
    assert "mpp 0.5 -> 1.0" in only(refused).error
    assert refused.exit_code == ExitCode.ALL_FAILED
    assert open_store(out / "a.ome.zarr").levels[0].mpp.mean == pytest.approx(0.5)
    assert only(run(tmp_path / "slides", out, mpp=1.0, force=True)).reason == "written"
    assert open_store(out / "a.ome.zarr").levels[0].mpp.mean == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("native", "wanted", "effective", "how"),
    [
        (0.5, 0.5, 0.5, "native"),
        (0.54, 0.5, 0.54, "native"),
        (0.25, 0.5, 0.5, "scaled"),
        (0.23, 0.5, 0.46, "scaled"),
        (0.25, 1.0, 1.0, "native"),  # its level of 4x
        (0.35, 0.5, 0.5, "resampled"),
        (0.31, "native", 0.31, "native"),
    ],
)
def test_resolution(make_slide, tmp_path, native, wanted, effective, how) -> None:
    make_slide("a.tif", mpp=native)
    record = only(run(tmp_path / "slides", tmp_path / "out", mpp=wanted))
    store = open_store(tmp_path / "out" / record.store)
    assert store.meta.base.how == how
    assert store.levels[0].mpp.mean == pytest.approx(effective, rel=0.003)
    field_um = store.levels[0].height_px * store.levels[0].mpp.y
    assert field_um == pytest.approx(1500 * native, rel=0.005)
    y, x = store.to_slide_px(1, 10, 20)
    assert y == pytest.approx(10 * 2 * store.levels[0].mpp.y / native, rel=1e-6)
    assert x == pytest.approx(20 * 2 * store.levels[0].mpp.x / native, rel=1e-6)


def test_resampling_does_not_drift(make_slide, tmp_path) -> None:
    """A landmark far from the origin stays where it is in micrometres."""
    pixels = np.full((3000, 3000, 3), 244, np.uint8)
    pixels[2800:2820, 2500:2520] = (150, 60, 120)
    make_slide("a.tif", pixels, mpp=0.35, compression="deflate")
    record = only(run(tmp_path / "slides", tmp_path / "out", tissue="none"))
    store = open_store(tmp_path / "out" / record.store)
    level = store.levels[0]
    image = store.read_region(0, 0, 0, level.height_px, level.width_px)
    y, x = (c.mean() + 0.5 for c in np.nonzero(image[1] < 150))
    assert store.to_slide_px(0, y, x) == pytest.approx((2810, 2510), abs=1)


def test_mpp_table_beats_the_metadata(make_slide, tmp_path) -> None:
    make_slide("a.tif", mpp=0.25)
    make_slide("b.tif", mpp=None)
    table = tmp_path / "mpp.csv"
    table.write_text("wsi,mpp\na.tif,0.5\nb,0.5\n")
    result = run(tmp_path / "slides", tmp_path / "out", mpp_csv=table)
    assert [(r.mpp, r.mpp_source, r.height_px) for r in result.records] == [(0.5, "given", 1500)] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,um\na,0.5\n", "has the columns slide, um"),
        ("wsi,mpp\na,fast\n", "line 2: mpp of 'a' is 'fast'"),
    ],
)
def test_a_wrong_mpp_table_stops_before_anything_is_written(make_slide, tmp_path, text, message) -> None:
    make_slide("a.tif")
    table = tmp_path / "mpp.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "slides", tmp_path / "out", mpp_csv=table)
    assert not (tmp_path / "out").exists()


def test_a_cohort_names_slides_cases_and_mpp(make_slide, tmp_path) -> None:
    make_slide("a.tif", mpp=None)
    table = tmp_path / "cohort.csv"
    table.write_text("case_id,patient_id,path,image_id,mpp,label\nc1,p1,slides/a.tif,first,0.5,1\n")
    record = only(run([], tmp_path / "out", cohort=table))
    assert (record.image_id, record.case_id, record.status) == ("first", "c1", "done")
    table.write_text("case_id,patient_id,path,image_id,mpp,label\nc1,p1,slides/gone.tif,first,0.5,1\n")
    with pytest.raises(CohortError, match=r"row 2: slides/gone.tif"):
        run([], tmp_path / "out2", cohort=table)


def test_an_edited_outline_replaces_detection(make_slide, tmp_path) -> None:
    make_slide("a.tif")
    ring = [[0, 0], [512, 0], [512, 256], [0, 256], [0, 0]]
    outline = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        ],
    }
    (tmp_path / "edited").mkdir()
    (tmp_path / "edited/a.geojson").write_text(json.dumps(outline))
    record = only(run(tmp_path / "slides", tmp_path / "out", tissue_geojson=tmp_path / "edited"))
    store = open_store(tmp_path / "out" / record.store)
    assert store.meta.tissue.method == "outline"
    assert store.kept_windows(0).tolist() == [[0, 0], [0, 1]]


def test_stores_inside_the_inputs_are_not_converted_again(make_slide, tmp_path) -> None:
    make_slide("a.tif")
    out = tmp_path / "slides" / "stores"
    run(tmp_path / "slides", out)
    assert [record.image_id for record in run(tmp_path / "slides", out).records] == ["a"]


def test_preprocess_one(make_slide, tmp_path) -> None:
    from atlas_path.slides import find_slides

    (source,) = find_slides([make_slide("a.tif")])
    record = preprocess_one(source, tmp_path / "out", PreprocessOptions())
    assert record.ok
    assert preprocess_one(source, tmp_path / "out", PreprocessOptions()).reason == "up_to_date"


def test_command_line(make_slide, tmp_path) -> None:
    make_slide("a.tif")
    make_slide("nompp.tif", mpp=None)
    out = tmp_path / "out"
    command = ["preprocess", str(tmp_path / "slides"), "-o", str(out), "--workers", "0"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "1 of 2 slides done" in done.output
    assert "not done: nompp" in done.output
    wrong = CliRunner().invoke(app, [*command, "--mpp", "fine"])
    assert isinstance(wrong.exception, UsageError)
    assert str(wrong.exception).startswith("--mpp: 'fine' is no resolution")
    unknown = CliRunner().invoke(app, [*command, "--tissue-set", "min_um2=3"])
    assert isinstance(unknown.exception, UsageError)
    assert "unknown: min_um2" in str(unknown.exception)


def test_real_slides(shared, tmp_path) -> None:
    result = run(shared / "data/wsi", tmp_path / "out")
    assert {r.image_id: (r.status, r.reason) for r in result.records} == {
        "CMU-1-Small-Region": ("done", "written"),
        "test3-DAPI-2-387": ("done", "written"),
        "camelyon16_lowres_SM": ("failed", "too_coarse"),
    }
    assert result.exit_code == ExitCode.SOME_FAILED
    coarse = run(shared / "data/wsi/camelyon16_lowres_SM.dcm", tmp_path / "native", mpp="native")
    assert only(coarse).mpp == pytest.approx(28.97, abs=0.01)
