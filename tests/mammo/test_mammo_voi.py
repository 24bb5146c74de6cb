"""VOI items are kept, and applied at load as DICOM PS3.3 C.11 says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut, apply_windowing
from pydicom.sequence import Sequence

from atlas_path.errors import ConfigError
from atlas_path.slides.mammo import open_mammogram
from atlas_path.slides.mammo.voi import voi_table
from pipelines.demo_mammo_dicom import ExamHeader, mammogram_dataset

Save = Callable[[Dataset], Path]


def attributes_of(path: Path) -> dict:
    with open_mammogram(path) as image:
        attributes = image.store_attributes()
    return json.loads(json.dumps(attributes))  # a store keeps them as JSON


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_equal_the_reference_implementation(
    dataset: Dataset, save: Save, index: int, function: str
) -> None:
    dataset.VOILUTFunction = function
    path = save(dataset)
    table, applied = voi_table(attributes_of(path), f"header[{index}]")
    values = np.arange(4096, dtype=np.uint16)
    want = apply_windowing(values, pydicom.dcmread(path), index=index) / 4095
    np.testing.assert_allclose(table[:4096] / 65535, want, atol=2e-4)
    assert function in applied.applied
    assert applied.fallback is None


def test_table_equals_the_reference_implementation(dataset: Dataset, save: Save) -> None:
    lut = Dataset()
    entries = np.rint(65535 * (np.arange(3000) / 2999) ** 0.5).astype("<u2")
    lut.LUTDescriptor = [3000, 500, 16]
    lut.LUTData = entries.tobytes()
    lut["LUTData"].VR = "OW"
    lut.LUTExplanation = "FOR DOE JOHN"
    dataset.VOILUTSequence = Sequence([lut])
    path = save(dataset)
    attributes = attributes_of(path)
    assert "DOE" not in json.dumps(attributes)
    values = np.arange(4096, dtype=np.uint16)
    reference = pydicom.dcmread(path)
    reference.VOILUTSequence[0].LUTDescriptor = [3000, 500, 16]
    want = apply_voi_lut(values, reference, prefer_lut=True)
    np.testing.assert_array_equal(voi_table(attributes, "lut")[0][:4096], want)
    assert "window" in voi_table(attributes, "header")[1].applied


def test_inversion_comes_after_the_window_and_with_the_fixed_range(
    painted: dict, exam: ExamHeader, save: Save
) -> None:
    """MONOCHROME1 and MONOCHROME2 of the same breast load alike when their windows mirror each other."""
    plain = mammogram_dataset(painted["L", "CC"], "L", "CC", exam, 0.4, 12)
    plain.WindowCenter, plain.WindowWidth = 1500, 2000
    negative = mammogram_dataset(
        painted["L", "CC"], "L", "CC", ExamHeader(**{**exam.__dict__, "maker": "two"}), 0.4, 12
    )
    negative.WindowCenter, negative.WindowWidth, negative.VOILUTFunction = 4095 - 1500, 2000, "LINEAR_EXACT"
    plain.VOILUTFunction = "LINEAR_EXACT"
    del plain.WindowCenterWidthExplanation
    tables = [voi_table(attributes_of(save(made)), "header")[0] for made in (plain, negative)]
    np.testing.assert_allclose(tables[0][:4096].astype(int), tables[1][:4096].astype(int), atol=1)


def test_none_scales_by_bits_stored_not_by_the_type(dataset: Dataset, save: Save) -> None:
    table, applied = voi_table(attributes_of(save(dataset)), "none")
    assert (table[0], table[4095], table[65535]) == (0, 65535, 65535)
    assert applied.applied == "full range 0..4095"


def test_minmax_is_the_range_of_the_breast(dataset: Dataset, save: Save) -> None:
    attributes = attributes_of(save(dataset))
    low, high = attributes["breast_range"]
    table, _ = voi_table(attributes, "minmax")
    assert 0 < low < high < 4095, "the burned-in letters (4095) must not decide the range"
    assert (table[low], table[high]) == (0, 65535)


def test_explanations_are_a_closed_list(dataset: Dataset, save: Save) -> None:
    dataset.WindowCenterWidthExplanation = ["NORMAL", "DOE JOHN", "SOFTER"]
    assert [item["explanation"] for item in attributes_of(save(dataset))["voi"]] == ["NORMAL", "", "SOFTER"]


@pytest.mark.parametrize("choice", ["", "window", "header[-1]", "none[1]", "lut[a]"])
def test_unknown_choices_are_an_error(dataset: Dataset, save: Save, choice: str) -> None:
    with pytest.raises(ConfigError):
        voi_table(attributes_of(save(dataset)), choice)
