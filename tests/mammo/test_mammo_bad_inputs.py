"""Every line of the list of bad mammograms: what is wrong with each, and the answer it must get."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from atlas_path.errors import SlideError
from atlas_path.slides import open_slide
from atlas_path.slides.mammo import MammoOptions, open_mammogram
from atlas_path.slides.mammo.voi import voi_table
from pipelines.demo_mammo_dicom import ExamHeader, compress, mammogram_dataset

Save = Callable[[Dataset], Path]
ENCAPSULATED = [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, HTJ2KLossless]


def reason_of(path: Path, options: MammoOptions | None = None) -> str:
    with pytest.raises(SlideError) as caught:
        open_slide(path, mammo=options)
    assert path.name not in str(caught.value), "a file name may be a patient's name"
    assert "\n" not in str(caught.value)
    revived = pickle.loads(pickle.dumps(caught.value))
    assert (revived.reason, str(revived)) == (caught.value.reason, str(caught.value))
    return str(caught.value.reason)


def flags_of(path: Path, options: MammoOptions | None = None) -> list[str]:
    with open_mammogram(path, options=options) as image:
        return list(image.store_attributes()["flags"])


# line 10: no preamble, cut, size doubled


def test_without_preamble_is_not_dicom(dataset: Dataset, save: Save) -> None:
    path = save(dataset)
    path.write_bytes(path.read_bytes()[132:])
    assert reason_of(path) == "not_dicom"


@pytest.mark.parametrize("content", [b"", b"patient DOE JOHN\n" * 20])
def test_empty_or_text_file_is_not_dicom(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "DOE_JOHN.dcm"
    path.write_bytes(content)
    assert reason_of(path) == "not_dicom"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_cut_uncompressed_file_is_truncated(dataset: Dataset, save: Save, share: float) -> None:
    path = save(dataset)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    assert reason_of(path) == "truncated"


def test_cut_in_the_header_is_an_error(dataset: Dataset, save: Save) -> None:
    path = save(dataset)
    path.write_bytes(path.read_bytes()[:600])
    assert reason_of(path) in ("truncated", "damaged", "not_an_image")


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda uid: uid.name[:24])
def test_cut_compressed_file_is_truncated(dataset: Dataset, save: Save, syntax: UID) -> None:
    path = save(compress(dataset, syntax))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    assert reason_of(path) == "truncated"


@pytest.mark.parametrize("syntax", ENCAPSULATED[1:], ids=lambda uid: uid.name[:24])
def test_stream_cut_inside_a_whole_file_is_truncated(dataset: Dataset, save: Save, syntax: UID) -> None:
    """The file is complete, the stream in it is not: decoders would fill the rest silently."""
    compress(dataset, syntax)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: int(len(frame) * 0.6)]])
    assert reason_of(save(dataset)) == "truncated"


def test_run_lengths_that_end_early_are_damaged(dataset: Dataset, save: Save) -> None:
    compress(dataset, RLELossless)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: int(len(frame) * 0.6)]])
    assert reason_of(save(dataset)) == "damaged"


def test_rows_doubled_is_damaged(dataset: Dataset, save: Save) -> None:
    dataset.Rows *= 2
    assert reason_of(save(dataset)) == "damaged"


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda uid: uid.name[:24])
def test_rows_doubled_in_a_compressed_file_is_damaged(dataset: Dataset, save: Save, syntax: UID) -> None:
    compress(dataset, syntax)
    dataset.Rows *= 2
    assert reason_of(save(dataset)) == "damaged"


@pytest.mark.parametrize(("keyword", "value"), [("BitsStored", 20), ("BitsAllocated", 32), ("Columns", 0)])
def test_impossible_layout_is_damaged(dataset: Dataset, save: Save, keyword: str, value: int) -> None:
    setattr(dataset, keyword, value)
    assert reason_of(save(dataset)) == "damaged"


# line 11: JPEG 2000 damaged in its header (caught) and in its middle (undetectable: hashed and said so)


def test_damaged_jpeg2000_header_is_an_error_in_this_process(dataset: Dataset, save: Save) -> None:
    compress(dataset, JPEG2000Lossless)
    frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    frame[4:44] = np.random.default_rng(0).bytes(40)
    dataset.PixelData = encapsulate([bytes(frame)])
    assert reason_of(save(dataset)) == "damaged"


def test_damage_inside_jpeg2000_is_not_seen_but_the_source_is_hashed(dataset: Dataset, save: Save) -> None:
    whole = save(compress(copy.deepcopy(dataset), JPEG2000Lossless))
    compress(dataset, JPEG2000Lossless)
    frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    middle = len(frame) // 2
    frame[middle : middle + 40] = np.random.default_rng(0).bytes(40)
    dataset.PixelData = encapsulate([bytes(frame)])
    damaged = save(dataset)
    with open_mammogram(whole) as good, open_mammogram(damaged) as bad:
        a, b = good.store_attributes(), bad.store_attributes()
    assert "cannot be detected" in b["integrity"]
    assert a["source_sha256"] != b["source_sha256"]
    assert a["pixel_sha256"] != b["pixel_sha256"]


def test_a_patch_the_decoder_lost_is_flagged(dataset: Dataset, save: Save) -> None:
    """Plausibility: tissue is never flat, a lost code block is."""
    pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns).copy()
    pixels[230:330, 20:120] = 1500
    dataset.PixelData = pixels.tobytes()
    assert "flat_blocks" in flags_of(save(dataset))


# line 12: transfer syntaxes nobody knows, files without pixels


def test_unknown_transfer_syntax_is_named(dataset: Dataset, save: Save) -> None:
    path = save(compress(dataset, JPEG2000Lossless))
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.99"))
    with pytest.raises(SlideError, match=r"1\.2\.840\.10008\.1\.2\.4\.99") as caught:
        open_slide(path)
    assert caught.value.reason == "transfer_syntax"


def test_private_transfer_syntax_is_not_quoted(dataset: Dataset, save: Save) -> None:
    path = save(compress(dataset, JPEG2000Lossless))
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.90", b"1.2.999.20240131.47110"))
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert caught.value.reason == "transfer_syntax"
    assert "4711" not in str(caught.value)


def test_report_without_pixels_is_skipped(dataset: Dataset, save: Save) -> None:
    del dataset.PixelData
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.88.33", "SR"
    assert reason_of(save(dataset)) == "not_an_image"


def test_another_modality_is_refused(dataset: Dataset, save: Save) -> None:
    dataset.SOPClassUID, dataset.Modality, dataset.BodyPartExamined = (
        "1.2.840.10008.5.1.4.1.1.2",
        "CT",
        "CHEST",
    )
    assert reason_of(save(dataset)) == "not_mammography"


def test_colour_capture_is_refused(dataset: Dataset, save: Save) -> None:
    dataset.SOPClassUID, dataset.SamplesPerPixel = "1.2.840.10008.5.1.4.1.1.7", 3
    assert reason_of(save(dataset)) == "not_greyscale"


# line 13: side and view missing


def test_no_laterality(dataset: Dataset, save: Save) -> None:
    del dataset.ImageLaterality
    assert reason_of(save(dataset)) == "no_laterality"


def test_both_breasts(dataset: Dataset, save: Save) -> None:
    dataset.ImageLaterality = "B"
    assert reason_of(save(dataset)) == "both_sides"


def test_no_view(dataset: Dataset, save: Save) -> None:
    del dataset.ViewPosition
    dataset.ViewCodeSequence = Sequence([])
    assert reason_of(save(dataset)) == "no_view"


def test_unknown_view_can_be_accepted(dataset: Dataset, save: Save) -> None:
    del dataset.ImageLaterality
    with open_mammogram(save(dataset), options=MammoOptions(unknown_view="accept")) as image:
        assert image.store_attributes()["laterality"] is None


# line 14: windows, flat images, inversion, padding


@pytest.mark.parametrize(
    ("choice", "width", "why"),
    [("header", 0, "window width 0"), ("header[7]", 100, "1 such items"), ("lut", 9, "0 such")],
)
def test_unusable_voi_falls_back_to_minmax_and_says_so(
    dataset: Dataset, save: Save, choice: str, width: int, why: str
) -> None:
    dataset.WindowCenter, dataset.WindowWidth, dataset.WindowCenterWidthExplanation = 2000, width, ""
    with open_mammogram(save(dataset)) as image:
        table, applied = voi_table(image.store_attributes(), choice)
    assert why in (applied.fallback or "")
    assert applied.applied.startswith("minmax")
    assert table.min() == 0
    assert table.max() == 65535


def test_constant_image_is_flat(dataset: Dataset, save: Save) -> None:
    dataset.PixelData = np.full((dataset.Rows, dataset.Columns), 800, "<u2").tobytes()
    assert reason_of(save(dataset)) == "flat"


def test_inversion_that_the_header_contradicts_is_flagged(dataset: Dataset, save: Save) -> None:
    dataset.PresentationLUTShape = "INVERSE"
    assert "photometric_disagrees" in flags_of(save(dataset))


@pytest.mark.parametrize("shape", ["IDENTITY", None])
def test_negative_that_does_not_say_inverse_is_turned_by_its_photometric_and_flagged(
    painted: dict, exam: ExamHeader, save: Save, shape: str | None
) -> None:
    """MONOCHROME1 decides, with the fixed range; that INVERSE is missing is told, not hidden."""
    negative = mammogram_dataset(
        painted["L", "CC"], "L", "CC", ExamHeader(**{**exam.__dict__, "maker": "two"}), 0.4, 12
    )
    if shape is None:
        del negative.PresentationLUTShape
    else:
        negative.PresentationLUTShape = shape
    path = save(negative)
    assert {"photometric_disagrees", "photometric_unconfirmed"} & set(flags_of(path)) == {
        "photometric_unconfirmed" if shape is None else "photometric_disagrees"
    }
    with open_mammogram(path) as image:
        level = image.levels[0]
        pixels = image.read_region(0, 0, 0, level.height_px, level.width_px)[..., 0]
    inside = pixels > 0  # letters and air outside the breast are masked
    assert inside.mean() > 0.1
    np.testing.assert_array_equal(pixels[inside], painted["L", "CC"][inside])


def test_padding_is_background_and_out_of_the_range(dataset: Dataset, save: Save) -> None:
    pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns).copy()
    pixels[200:240, 40:140] = 4095
    dataset.PixelData = pixels.tobytes()
    dataset.PixelPaddingValue = 4095
    with open_mammogram(save(dataset)) as image:
        region = image.read_region(0, 200, 40, 40, 100)
        assert image.store_attributes()["breast_range"][1] < 4000
    assert not region.any()


# line 15: kinds that other readers take without a word


def test_for_processing_is_refused_by_default(dataset: Dataset, save: Save) -> None:
    dataset.PresentationIntentType = "FOR PROCESSING"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2.1"
    path = save(dataset)
    assert reason_of(path) == "for_processing"
    with open_mammogram(path, options=MammoOptions(for_processing="accept")) as image:
        assert image.store_attributes()["intent"] == "processing"


def test_several_frames_in_a_mammogram_are_refused(dataset: Dataset, save: Save) -> None:
    dataset.NumberOfFrames = 2
    dataset.PixelData = dataset.PixelData * 2
    assert reason_of(save(dataset)) == "multi_frame"


def test_tomosynthesis_projection_is_refused(dataset: Dataset, save: Save) -> None:
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.13.1.4"
    assert reason_of(save(dataset)) == "projection"


def test_tomosynthesis_hidden_in_a_secondary_capture_is_refused(dataset: Dataset, save: Save) -> None:
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.private_block(0x7E01, "HOLOGIC, Inc.", create=True).add_new(0x10, "LO", "slices")
    assert reason_of(save(dataset)) == "legacy_tomosynthesis"


def test_missing_spacing_stays_unknown(dataset: Dataset, save: Save) -> None:
    del dataset.ImagerPixelSpacing
    dataset.PixelSpacing = [0.07, 0.07]  # uncalibrated: not believed
    path = save(dataset)
    with open_mammogram(path) as image:
        assert image.mpp is None
        assert "no_spacing" in image.store_attributes()["flags"]
    with open_slide(path, mpp=70.0) as image:
        assert image.mpp is not None
        assert (image.mpp.y, image.mpp_source) == (70.0, "given")


@pytest.mark.parametrize(
    ("keyword", "value", "flag"),
    [
        ("EstimatedRadiographicMagnificationFactor", 1.8, "magnified"),
        ("FieldOfViewHorizontalFlip", "YES", "flipped_by_header"),
        ("BreastImplantPresent", "YES", "implant"),
        ("PartialView", "YES", "partial_view"),
        ("BurnedInAnnotation", "YES", "burned_in_annotation"),
        ("LossyImageCompression", "01", "lossy"),
        ("ImageLaterality", "R", "side_flipped"),
    ],
)
def test_policy_flags(dataset: Dataset, save: Save, keyword: str, value: object, flag: str) -> None:
    setattr(dataset, keyword, value)
    assert flag in flags_of(save(dataset))


def test_a_damaged_file_does_not_stop_the_next(dataset: Dataset, save: Save) -> None:
    good, bad = save(dataset), save(dataset)
    bad.write_bytes(bad.read_bytes()[:-1000])
    assert reason_of(bad) == "truncated"
    with open_slide(good) as image:
        assert image.reader == "mammo"
    assert pydicom.dcmread(good).Rows == image.levels[0].height_px
