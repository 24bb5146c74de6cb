"""Window fractions are exact; outlines go out as GeoJSON, are edited and come back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_path.errors import UsageError
from atlas_path.geometry import Mpp
from atlas_path.tissue import mask_from_geojson, tissue_geojson, window_fractions

MPP = Mpp.square(0.5)
SIZE = (3000, 4200)


@pytest.fixture
def mask() -> np.ndarray:
    """Blobs, one with a hole and an island in it, one that touches the edge."""
    y, x = np.mgrid[0:150, 0:210]
    ring = np.hypot(y - 60, x - 70)
    blobs = (ring < 45) & ~((ring > 12) & (ring < 30))
    return blobs | ((np.abs(y - 110) < 15) & (x > 160)) | ((y == 5) & (x == 5))


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, n) for n in (40, 40, 60, 60, 16, 99)]))
def test_fractions_are_area_integrals(sizes: tuple[int, ...]) -> None:
    """Against brute force: mask and level brought to a grid fine enough for both."""
    rows, cols, height, width, window, seed = sizes
    mask = np.random.default_rng(seed).random((rows, cols)) < 0.4
    fine = np.repeat(np.repeat(mask, height, 0), width, 1).astype(float)  # (rows * height, cols * width)
    got = window_fractions(mask, height, width, window)
    assert got.shape == (-(-height // window), -(-width // window))
    for r in range(got.shape[0]):
        for c in range(got.shape[1]):
            part = fine[r * window * rows : min((r + 1) * window, height) * rows,
                        c * window * cols : min((c + 1) * window, width) * cols]  # fmt: skip
            assert got[r, c] == pytest.approx(part.mean(), abs=1e-5)


def test_outline_round_trip(mask: np.ndarray, tmp_path: Path) -> None:
    document = tissue_geojson(mask, *SIZE)
    assert len(document["features"]) == 4  # outer ring with hole, island, edge piece, single pixel
    path = tmp_path / "tissue.geojson"
    path.write_text(json.dumps(document))
    back = mask_from_geojson(path, mask.shape, *SIZE, MPP)
    assert (back.mask == mask).all()
    assert back.flags == ("edited",)
    assert back.mpp == Mpp.square(10.0)
    for feature in document["features"]:
        for ring in feature["geometry"]["coordinates"]:
            points = np.array(ring)
            assert (points[0] == points[-1]).all()
            assert points.min() >= 0
            assert (points.max(0) <= (SIZE[1], SIZE[0])).all()


def test_origin_moves_the_frame(mask: np.ndarray) -> None:
    whole, cropped = tissue_geojson(mask, *SIZE), tissue_geojson(mask, *SIZE, origin_px=(40, 100))
    ring = lambda document: np.array(document["features"][0]["geometry"]["coordinates"][0])  # noqa: E731
    assert np.allclose(ring(whole) - ring(cropped), (100, 40))
    back = mask_from_geojson(cropped, mask.shape, *SIZE, MPP, origin_px=(40, 100))
    assert (back.mask == mask).all()


def _feature(kind: str, coordinates: list, name: str = "Tissue") -> dict:
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def _box(x0: int, y0: int, x1: int, y1: int) -> list:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def test_edited_outlines() -> None:
    """Overlaps are united, holes and ignored areas are taken out, other geometry is passed over."""
    features = [
        _feature("Polygon", [_box(0, 0, 2000, 1000)]),
        _feature("Polygon", [_box(1000, 0, 3000, 1000), _box(2200, 200, 2600, 600)]),
        _feature("MultiPolygon", [[_box(0, 2000, 400, 2400)], [_box(600, 2000, 1000, 2400)]]),
        _feature("Polygon", [_box(0, 0, 200, 200)], "Ignore*"),
        _feature("Point", [5, 5]),
    ]
    found = mask_from_geojson(features, (150, 210), *SIZE, MPP).mask
    expected = np.zeros((150, 210), bool)
    expected[0:50, 0:150] = True
    expected[10:30, 110:130] = False
    expected[100:120, 0:20] = expected[100:120, 30:50] = True
    expected[0:10, 0:10] = False
    assert (found == expected).all()
    assert mask_from_geojson(features[0], (150, 210), *SIZE, MPP).mask.sum() == 5000
    assert mask_from_geojson(features[0]["geometry"], (150, 210), *SIZE, MPP).mask.sum() == 5000


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("not json", "is not readable GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ('{"type": "Polygon", "coordinates": [[["a", "b"], [1, 2], [3, 4]]]}', "broken coordinates"),
        ('{"type": "Polygon", "coordinates": [[[9e6, 9e6], [9.1e6, 9e6], [9.1e6, 9.1e6]]]}', "on this slide"),
        ('["x"]', "is not GeoJSON"),
    ],
)
def test_bad_outlines(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "edited.geojson"
    path.write_text(content)
    with pytest.raises(UsageError, match=fault) as caught:
        mask_from_geojson(path, (150, 210), *SIZE, MPP)
    assert str(path) in str(caught.value)
