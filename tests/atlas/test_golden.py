"""The numbers of this implementation stay what they were when the published fixtures were met."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("make_golden", HERE / "make_golden.py")
make_golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_golden)
GOLDEN = json.loads(make_golden.GOLDEN.read_text())


@pytest.mark.parametrize("name", make_golden.CONFIGS)
def test_numbers_are_unchanged(name: str):
    got, want = make_golden.numbers(name), GOLDEN[name]
    assert got["logits"] == pytest.approx(want["logits"], rel=1e-10, abs=1e-12)
    if want["contribution_per_window"] is not None:
        assert got["contribution_per_window"] == pytest.approx(
            want["contribution_per_window"], rel=1e-8, abs=1e-12
        )
    largest = max(want["gradient_norm"].values())
    assert got["gradient_norm"] == pytest.approx(want["gradient_norm"], rel=1e-7, abs=1e-10 * largest)


def test_pairing_matters_with_three_scales():
    released, spatial = GOLDEN["published pairing"]["logits"], GOLDEN["published, true parents"]["logits"]
    assert max(abs(a - b) for a, b in zip(released, spatial, strict=True)) > 1e-4
