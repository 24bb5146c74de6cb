"""Maps against lesions: planted evidence is found, at the right place, in CSV, circle and GeoJSON truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atlas_path.errors import UsageError
from atlas_path.geometry import Mpp
from atlas_path.report.schema import Metrics
from atlas_path.results import Task
from pipelines.attribution_store import Attribution, AttributionInfo, attribution_path, write_attribution
from pipelines.evaluate import EvaluateOptions, compute
from pipelines.evaluate_localise import peaks
from pipelines.evaluate_truth import read_truth
from pipelines.token_map import LevelFrame

SLIDE_PX, SLIDE_MPP, LEVEL_MPP = 4096, 0.5, 1.0
SCALE = LEVEL_MPP / SLIDE_MPP
FAST = EvaluateOptions(resamples=200)


def write_map(scores: Path, case: str, spots: list[tuple[float, float]], seed: int = 0) -> None:
    """A map of noise with positive evidence around spots (x, y in slide pixels)."""
    random = np.random.default_rng(seed)
    side = int(SLIDE_PX / SCALE / 256)
    windows = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    token = np.arange(256)
    row = windows[:, :1] * 16 + token // 16
    col = windows[:, 1:] * 16 + token % 16
    y, x = (row + 0.5) * 16 * SCALE, (col + 0.5) * 16 * SCALE
    values = random.normal(0, 0.01, size=(len(windows), 256))
    for spot_x, spot_y in spots:
        values += np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / (2 * 200.0**2))
    frame = LevelFrame(
        height_px=int(SLIDE_PX / SCALE), width_px=int(SLIDE_PX / SCALE), mpp=Mpp.square(LEVEL_MPP),
        scale_y=SCALE, scale_x=SCALE,
    )  # fmt: skip
    task = Task(kind="binary", name="malignancy", classes=["benign", "malignant"])
    info = AttributionInfo(
        image_id=f"slides/{case}", case_id=case, task=task, outputs=["malignant"], level=1,
        frame=frame.as_dict(), bias=[0.0], case_logits=[1.0], image_share=[1.0], completeness_error=0.0,
        exact=True, model_sha256="ab" * 32,
    )  # fmt: skip
    contribution = values.astype(np.float32)[:, :, None]
    attention = np.full(values.shape, 1 / values.size, np.float32)
    stored = Attribution(info, windows.astype(np.int64), contribution, attention)
    write_attribution(attribution_path(scores, info.image_id), stored)


@pytest.fixture
def mapped(tmp_path: Path, scores: Path, table: pd.DataFrame) -> tuple[Path, pd.DataFrame]:
    """Six positive test cases with one lesion each (five found, one missed) and four negatives."""
    test = table[table["split"] == "test"]
    lesions = []
    for k, case in enumerate(test["case_id"][test["label"] == 1].head(6)):
        x, y = 800.0 + 400 * k, 2600.0 - 300 * k
        lesions.append({"slide_id": case, "x": x - 300, "y": y - 300, "width": 600, "height": 600})
        write_map(scores, case, [(x, y)] if k else [(3500.0, 3500.0)], seed=k)
    for case in test["case_id"][test["label"] == 0].head(4):
        write_map(scores, case, [(2000.0, 2000.0)], seed=99)
    return scores, pd.DataFrame(lesions)


def localised(tmp_path: Path, scores: Path, truth: Path, **options: object) -> Metrics:
    chosen = EvaluateOptions(resamples=200, truth=truth, **options)
    return compute(scores, tmp_path / "cohort.csv", tmp_path / "report", chosen)


def test_pointing_and_froc_from_stored_maps(tmp_path: Path, mapped: tuple[Path, pd.DataFrame]) -> None:
    scores, lesions = mapped
    lesions.to_csv(tmp_path / "lesions.csv", index=False)
    metrics = localised(tmp_path, scores, tmp_path / "lesions.csv")
    (found,) = metrics.localisation
    assert found.pointing.value == pytest.approx(5 / 6)
    assert found.pointing.n == 6
    widened = (600 * SLIDE_MPP + 75) ** 2  # a square of 300 um, widened by 37.5 um on every side
    assert found.pointing_chance == pytest.approx(widened / (SLIDE_PX * SLIDE_MPP) ** 2, rel=0.05)
    assert found.pointing_p is not None
    assert found.pointing_p < 0.001
    assert found.froc is not None
    assert (found.froc.n_images, found.froc.n_lesions, found.froc.n_ignored) == (10, 6, 0)
    assert found.froc.at["8"] >= 5 / 6
    assert "malignant" in found.map
    assert sum(size.n for size in found.sizes) == 6
    assert "lesions.csv" in metrics.provenance.inputs


def test_small_lesions_are_ignored_by_the_rule(tmp_path: Path, mapped: tuple[Path, pd.DataFrame]) -> None:
    scores, lesions = mapped
    small = lesions.assign(x=lesions["x"] + 250, y=lesions["y"] + 250, width=100, height=100)  # 50 um
    small.to_csv(tmp_path / "lesions.csv", index=False)
    (found,) = localised(tmp_path, scores, tmp_path / "lesions.csv").localisation
    assert found.froc is None
    assert any("below 275 um" in note for note in found.notes)
    assert found.pointing.value == pytest.approx(5 / 6)


def test_geojson_and_circles_say_the_same(tmp_path: Path, mapped: tuple[Path, pd.DataFrame]) -> None:
    scores, lesions = mapped
    folder = tmp_path / "annotations"
    folder.mkdir()
    for row in lesions.itertuples():
        corners = [
            [row.x, row.y],
            [row.x + 600, row.y],
            [row.x + 600, row.y + 600],
            [row.x, row.y + 600],
            [row.x, row.y],
        ]
        feature = {
            "type": "Feature",
            "properties": {},
            "geometry": {"type": "Polygon", "coordinates": [corners]},
        }
        document = {"type": "FeatureCollection", "features": [feature]}
        (folder / f"{row.slide_id}.geojson").write_text(json.dumps(document))
    lesions.to_csv(tmp_path / "lesions.csv", index=False)
    box = localised(tmp_path, scores, tmp_path / "lesions.csv").localisation[0]
    polygon = localised(tmp_path, scores, folder).localisation[0]
    assert polygon == box
    circles = lesions.assign(x=lesions["x"] + 300, y=lesions["y"] + 300, radius=300)[
        ["slide_id", "x", "y", "radius"]
    ]
    circles.to_csv(tmp_path / "circles.csv", index=False)
    circle = localised(tmp_path, scores, tmp_path / "circles.csv").localisation[0]
    assert circle.pointing.value == box.pointing.value
    assert circle.pointing_chance == pytest.approx(np.pi * 187.5**2 / (SLIDE_PX * SLIDE_MPP) ** 2, rel=0.05)


def test_detections_from_a_table(tmp_path: Path, mapped: tuple[Path, pd.DataFrame]) -> None:
    scores, lesions = mapped
    lesions.to_csv(tmp_path / "lesions.csv", index=False)
    hits = [
        {"image_id": r.slide_id, "confidence": 0.9, "x": r.x + 10, "y": r.y + 10}
        for r in lesions.itertuples()
    ]
    misses = [{"image_id": r.slide_id, "confidence": 0.8, "x": 10, "y": 10} for r in lesions.itertuples()]
    pd.DataFrame(hits[:5] + misses[:3]).to_csv(tmp_path / "detections.csv", index=False)
    options = {"detections": tmp_path / "detections.csv", "truth_mpp": SLIDE_MPP}
    (found,) = localised(tmp_path, scores, tmp_path / "lesions.csv", **options).localisation
    assert found.pointing.value == pytest.approx(5 / 6)  # an image without a detection points nowhere
    assert found.froc is not None
    assert found.froc.sensitivity[0] == pytest.approx(5 / 6)
    assert max(found.froc.false_positives) == pytest.approx(3 / found.froc.n_images)
    with pytest.raises(UsageError, match="give --truth-mpp"):
        localised(tmp_path, scores, tmp_path / "lesions.csv", detections=tmp_path / "detections.csv")


def test_peaks_are_local_maxima_far_apart() -> None:
    values = np.zeros((64, 64), np.float32)
    values[10, 12], values[11, 13], values[50, 40] = 5.0, 1.0, 3.0
    values[:5] = np.nan
    row, col, score = peaks(values, 16.0, 16.0)
    assert (row[0], col[0]) in {(10, 12), (10, 13), (11, 12), (11, 13)}
    assert (row[1], col[1]) == (50, 40)
    assert len(row) == 2
    assert score[0] > score[1] > 0


def test_a_map_without_positive_evidence_still_points_somewhere() -> None:
    row, _, score = peaks(np.full((16, 16), -1.0, np.float32), 16.0, 16.0)
    assert len(row) == 1
    assert score[0] > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("slide_id,x,y\na,1,2\n", "give image_id and x,y,width,height"),
        ("slide_id,x,y,radius\na,1,two,3\n", "row 2 has no usable"),
    ],
)
def test_truth_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "lesions.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_truth(path)


def test_truth_without_maps_or_without_evaluated_lesions(tmp_path: Path, scores: Path) -> None:
    path = tmp_path / "lesions.csv"
    path.write_text("slide_id,x,y,width,height\nother,1,2,3,4\n")
    with pytest.raises(UsageError, match="no stored maps"):
        localised(tmp_path, scores, path)
    write_map(scores, "case119_0", [(100.0, 100.0)])
    with pytest.raises(UsageError, match="no evaluated image has a lesion"):
        localised(tmp_path, scores, path)
