"""No identifier leaves a header: a canary in every text element, and not one byte of it comes out."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless

from atlas_path.dicom import Pseudonyms, cbis_patient
from atlas_path.dicom.pseudonym import SALT_VARIABLE, salt_path
from atlas_path.errors import SlideError, UsageError
from atlas_path.slides import open_slide
from atlas_path.slides.mammo import mammogram_id, open_mammogram
from pipelines.demo_mammo_dicom import compress

Save = Callable[[Dataset], Path]
CANARIES = ("CANARY", "19660606", "1.2.826.0.1.3680043.8.498.7777", "060606", "066Y", "31337")
TEXT_OF_VR = {
    "AE": "CANARY AE", "AS": "066Y", "CS": "CANARY", "DA": "19660606", "DS": "31337", "DT": "19660606060606",
    "IS": "31337", "LO": "CANARY LO", "LT": "CANARY LT", "PN": "CANARY^PN", "SH": "CANARY SH",
    "ST": "CANARY ST", "TM": "060606", "UC": "CANARY UC", "UI": "1.2.826.0.1.3680043.8.498.7777.1",
    "UR": "http://CANARY/", "UT": "CANARY UT",
}  # fmt: skip
NEEDED_TO_BE_READ = {
    "SOPClassUID", "Modality", "PhotometricInterpretation", "ImageLaterality", "ViewPosition",
    "NumberOfFrames", "PresentationIntentType", "RescaleSlope", "RescaleIntercept", "WindowCenter",
    "WindowWidth", "ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor", "PixelSpacing",
    "ImageType",
}  # fmt: skip


def with_canaries(dataset: Dataset) -> Dataset:
    """Put a canary into every element of the dictionary that can hold text, date, UID or number text."""
    added = 0
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        element = Tag(tag)
        text = TEXT_OF_VR.get(vr)
        if not text or not keyword or retired or element.group in (0x0000, 0x0002, 0x0004, 0xFFFE):
            continue
        if keyword in NEEDED_TO_BE_READ:
            continue
        dataset.add_new(element, vr, text)
        added += 1
    assert added > 1000, "the dictionary has more text elements than that"
    block = dataset.private_block(0x0011, "CANARY MAKER", create=True)
    block.add_new(0x01, "LO", "CANARY PRIVATE")
    dataset.add_new(0x60000022, "LO", "CANARY OVERLAY")
    dataset.file_meta.SourceApplicationEntityTitle = "CANARY AE"
    return dataset


def leaks(text: str) -> list[str]:
    return [canary for canary in CANARIES if canary.lower() in text.lower()]


def test_attributes_of_a_header_full_of_canaries(dataset: Dataset, save: Save) -> None:
    path = save(with_canaries(dataset))
    path = path.rename(path.with_name("CANARY_19660606.dcm"))
    with open_mammogram(path) as image:
        text = json.dumps(image.store_attributes()) + repr(
            (image.vendor, image.notes, image.channel_names, image.compression, image.mpp_source)
        )
    assert leaks(text) == []
    assert leaks(mammogram_id(path)) == []


@pytest.mark.parametrize("fault", ["cut", "processing", "no_view", "bits", "syntax", "report"])
def test_errors_and_warnings_of_a_header_full_of_canaries(
    dataset: Dataset, save: Save, fault: str, caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with_canaries(dataset)
    if fault == "processing":
        dataset.PresentationIntentType = "FOR PROCESSING"
    if fault == "no_view":
        del dataset.ViewPosition, dataset.ViewCodeSequence
    if fault == "bits":
        dataset.BitsStored = 77
    if fault == "report":
        del dataset.PixelData
    if fault == "syntax":
        compress(dataset, JPEG2000Lossless)
    path = save(dataset)
    path = path.rename(path.with_name("CANARY_19660606.dcm"))
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    if fault == "syntax":
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.90", b"1.2.826.0.1.3680043.31"))
    recwarn.clear()  # of the writing above
    with caplog.at_level(logging.DEBUG), pytest.raises(SlideError) as caught:
        open_slide(path)
    chain, error = [], caught.value
    while error is not None:
        chain.append(f"{error!s} {error!r}")
        error = None if error.__suppress_context__ else (error.__cause__ or error.__context__)
    printed = capfd.readouterr()
    text = "\n".join([*chain, caplog.text, printed.out, printed.err, *(str(w.message) for w in recwarn)])
    assert leaks(text) == []


def test_malformed_values_warn_nobody(
    dataset: Dataset, save: Save, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """pydicom quotes values that break their type's rules in its warnings."""
    path = save(dataset)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"1.2.826.0.1.3680043.8.498.1", b"CANARY CANARY CANARY CANARY"))
    with open_mammogram(path) as image:
        assert leaks(json.dumps(image.store_attributes())) == []
    assert leaks(caplog.text + "".join(str(w.message) for w in recwarn)) == []


def test_ids_are_salted_and_kinds_apart() -> None:
    one, other = Pseudonyms(b"salt-one"), Pseudonyms(b"salt-two")
    assert one.patient_id("4711") == one.patient_id(" 4711 ")
    assert (
        len({one.patient_id("4711"), one.exam_id("4711"), one.image_id("4711"), other.patient_id("4711")})
        == 4
    )
    assert one.patient_id("4711", issuer="A") != one.patient_id("4711", issuer="B")


def test_days_keep_intervals_and_hide_dates() -> None:
    ids = Pseudonyms(b"salt-one")
    first, second = ids.shifted_day("20200101", "p1"), ids.shifted_day("20210101", "p1")
    assert first is not None
    assert second is not None
    assert second - first == 366
    shifts = {ids.shifted_day("20200101", f"p{i}") for i in range(50)}
    assert len(shifts) > 40
    assert ids.shifted_day("", "p1") is None
    assert ids.shifted_day("2020-01-01", "p1") is None


def test_kept_salt_is_private_and_stable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SALT_VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first = Pseudonyms.of_site()
    assert Pseudonyms.of_site() == first
    assert stat.S_IMODE(salt_path().stat().st_mode) == 0o600
    assert [file.name for file in salt_path().parent.iterdir()] == ["id_salt"]
    monkeypatch.setenv(SALT_VARIABLE, "short")
    with pytest.raises(UsageError, match="too short"):
        Pseudonyms.of_site()


def test_cbis_patients() -> None:
    assert cbis_patient("Mass-Test_P_00173_LEFT_CC") == "P_00173"
    assert cbis_patient("Calc-Training_P_00005_RIGHT_MLO_1") == "P_00005"
    assert cbis_patient("P_00005") is None


def test_random_bytes_never_crash_the_reader(dataset: Dataset, save: Save) -> None:
    """Damage anywhere in the header is an error of ours or a readable file, never another exception."""
    path = save(dataset)
    raw = path.read_bytes()
    rng = np.random.default_rng(3)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(raw)
        at = int(rng.integers(132, 1400))
        damaged[at : at + 4] = rng.bytes(4)
        path.write_bytes(bytes(damaged))
        try:
            open_slide(path).close()
            outcomes.add("ok")
        except SlideError as error:
            outcomes.add(error.reason)
    assert len(outcomes) > 1
