"""Pixels, grey values, spacing, views and kinds of mammograms that are as they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from atlas_path.geometry import Mpp
from atlas_path.slides import KeepsAttributes, KnowsItsTissue, Slide, find_slides, open_slide
from atlas_path.slides.mammo import MammogramSlide, MammoOptions, mammogram_id, open_mammogram
from atlas_path.slides.mammo.codes import MODIFIER_CODES, VIEW_CODES, view_of
from atlas_path.slides.mammo.spacing import spacing_of
from pipelines.demo_mammo_dicom import ExamHeader, compress, mammogram_dataset
from pipelines.demo_mammo_paint import BITS

Save = Callable[[Dataset], Path]
KEEP = MammoOptions(outside_breast="keep")


def pixels_of(path: Path, options: MammoOptions = KEEP) -> np.ndarray:
    with open_mammogram(path, options=options) as image:
        level = image.levels[0]
        return image.read_region(0, 0, 0, level.height_px, level.width_px)[..., 0]


def test_a_mammogram_is_a_slide(dataset: Dataset, save: Save) -> None:
    with open_slide(save(dataset)) as image:
        assert isinstance(image, Slide)
        assert isinstance(image, KeepsAttributes)
        assert isinstance(image, KnowsItsTissue)
        assert (image.reader, image.kind, image.dtype, image.n_channels) == ("mammo", "mono", np.uint16, 1)
        assert image.read_region(0, -3, -3, 5, 5).shape == (5, 5, 1)


@pytest.mark.parametrize(
    "syntax",
    [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, HTJ2KLossless],
    ids=lambda uid: uid.name[:24],
)
@pytest.mark.parametrize("maker", ["one", "two"])
def test_lossless_syntaxes_give_the_painted_pixels(
    painted: dict[tuple[str, str], np.ndarray], exam: ExamHeader, save: Save, syntax: UID, maker: str
) -> None:
    """Maker two writes MONOCHROME1: the fixed bit range undoes it exactly."""
    want = painted["R", "MLO"]
    header = ExamHeader(**{**exam.__dict__, "maker": maker})
    path = save(compress(mammogram_dataset(want, "R", "MLO", header, 0.4, BITS), syntax))
    np.testing.assert_array_equal(pixels_of(path), want)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_uncompressed_syntaxes(painted: dict, dataset: Dataset, tmp_path: Path, syntax: UID) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    path = tmp_path / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(pixels_of(path), painted["L", "CC"])


def test_extended_jpeg_of_12_bits(painted: dict, dataset: Dataset, save: Save) -> None:
    coded = imagecodecs.jpeg8_encode(painted["L", "CC"], level=98, bitspersample=12)
    dataset.PixelData = encapsulate([coded])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    error = pixels_of(save(dataset)).astype(int) - painted["L", "CC"]
    assert np.abs(error).mean() < 8


def test_fragments_of_one_frame_are_joined(painted: dict, dataset: Dataset, save: Save) -> None:
    coded = imagecodecs.jpegls_encode(painted["L", "CC"])
    dataset.PixelData = encapsulate([coded], fragments_per_frame=5)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    np.testing.assert_array_equal(pixels_of(save(dataset)), painted["L", "CC"])


def test_overlay_bits_above_the_stored_ones_are_removed(painted: dict, dataset: Dataset, save: Save) -> None:
    dataset.PixelData = (painted["L", "CC"] | 0x8000).astype("<u2").tobytes()
    np.testing.assert_array_equal(pixels_of(save(dataset)), painted["L", "CC"])


def test_signed_values_keep_their_order(dataset: Dataset, painted: dict, save: Save) -> None:
    dataset.PixelRepresentation = 1
    signed = painted["L", "CC"].astype(int) - 2048
    dataset.PixelData = (signed & 0xFFF).astype("<u2").tobytes()
    np.testing.assert_array_equal(pixels_of(save(dataset)), painted["L", "CC"])


def test_letters_outside_the_breast_are_masked_and_the_breast_is_untouched(
    painted: dict, dataset: Dataset, save: Save
) -> None:
    path = save(dataset)
    raw, masked = pixels_of(path), pixels_of(path, MammoOptions())
    with open_mammogram(path) as image:
        breast = image.tissue_mask(*raw.shape)
        assert 0.1 < breast.mean() < 0.6
        assert image.store_attributes()["chest_wall"] == "left"
    letters = raw == 4095
    letters[:, : raw.shape[1] // 2] = False
    assert letters.sum() > 50, "the painter burned no letters"
    assert not masked[letters].any()
    np.testing.assert_array_equal(masked[breast], raw[breast])


def test_tissue_mask_at_any_size(dataset: Dataset, save: Save) -> None:
    with open_mammogram(save(dataset)) as image:
        large, small = image.tissue_mask(576, 448), image.tissue_mask(72, 56)
    assert abs(large.mean() - small.mean()) < 0.01


def test_orientation_is_kept_and_its_contradiction_flagged(
    painted: dict, exam: ExamHeader, save: Save
) -> None:
    mirrored = np.ascontiguousarray(painted["L", "CC"][:, ::-1])
    path = save(mammogram_dataset(mirrored, "L", "CC", exam, 0.4, BITS))
    np.testing.assert_array_equal(pixels_of(path), mirrored)
    with open_mammogram(path) as image:
        attributes = image.store_attributes()
    assert attributes["chest_wall"] == "right"
    assert "side_flipped" in attributes["flags"]


@pytest.mark.parametrize(("code", "view"), VIEW_CODES.items())
def test_every_view_code_is_read(code: str, view: str) -> None:
    dataset, item = Dataset(), Dataset()
    item.CodeValue = code
    dataset.ViewCodeSequence = Sequence([item])
    dataset.ViewPosition = "CC" if view != "CC" else "MLO"  # the code wins
    assert view_of(dataset).view == view


@pytest.mark.parametrize(("code", "name"), MODIFIER_CODES.items())
def test_every_modifier_code_is_read(code: str, name: str) -> None:
    dataset, view, modifier = Dataset(), Dataset(), Dataset()
    view.CodeValue, modifier.CodeValue = "399162004", code
    view.ViewModifierCodeSequence = Sequence([modifier])
    dataset.ViewCodeSequence = Sequence([view])
    assert view_of(dataset).modifiers == (name,)


def test_side_by_the_documented_order() -> None:
    dataset, group, anatomy = Dataset(), Dataset(), Dataset()
    dataset.Laterality = "L"
    assert (view_of(dataset).laterality, view_of(dataset).laterality_source) == ("L", "Laterality")
    anatomy.FrameLaterality = "R"
    group.FrameAnatomySequence = Sequence([anatomy])
    dataset.SharedFunctionalGroupsSequence = Sequence([group])
    assert view_of(dataset).laterality_source == "FrameLaterality"
    dataset.ImageLaterality = "L"
    assert (view_of(dataset).laterality, view_of(dataset).laterality_source) == ("L", "ImageLaterality")


def test_spacing_rules() -> None:
    dataset = Dataset()
    dataset.PixelSpacing = [0.25, 0.25]
    assert spacing_of(dataset).mpp is None
    dataset.PixelSpacingCalibrationType = "FIDUCIAL"
    assert spacing_of(dataset).mpp == Mpp(250.0, 250.0)
    dataset.ImagerPixelSpacing = [0.5, 0.6]
    assert spacing_of(dataset).source == "imager spacing (detector plane)"
    dataset.EstimatedRadiographicMagnificationFactor = 1.5
    spacing = spacing_of(dataset)
    assert spacing.mpp is not None
    assert (round(spacing.mpp.y, 3), round(spacing.mpp.x, 3)) == (333.333, 400.0)
    assert spacing.is_magnified
    dataset.EstimatedRadiographicMagnificationFactor = 0
    assert spacing_of(dataset).source == "imager spacing (detector plane)"
    dataset.ImagerPixelSpacing = [0, 0]
    assert spacing_of(dataset).source == "calibrated pixel spacing"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "ffdm"),
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]}, "synthetic_2d"),
        ({"SeriesDescription": "L CC C-View"}, "synthetic_2d"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ConversionType": "DF"}, "film"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ConversionType": "WSD"}, "secondary_capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"}, "cr"),
    ],
)
def test_kinds_are_routed_and_marked(dataset: Dataset, save: Save, changes: dict, kind: str) -> None:
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    with open_mammogram(save(dataset)) as image:
        assert image.store_attributes()["image_kind"] == kind


def _tomosynthesis(dataset: Dataset, painted: dict) -> tuple[Dataset, np.ndarray]:
    slices = np.stack([painted["L", "CC"], painted["L", "CC"] // 2, np.roll(painted["L", "CC"], 9, axis=0)])
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.13.1.3"
    dataset.NumberOfFrames = 3
    dataset.PixelData = slices.astype("<u2").tobytes()
    for keyword in ("ImagerPixelSpacing", "ImageLaterality", "WindowCenter", "WindowWidth"):
        delattr(dataset, keyword)
    group, measures, anatomy, voi = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [0.1, 0.1]
    anatomy.FrameLaterality = "L"
    voi.WindowCenter, voi.WindowWidth = 500, 900
    group.PixelMeasuresSequence = Sequence([measures])
    group.FrameAnatomySequence = Sequence([anatomy])
    group.FrameVOILUTSequence = Sequence([voi])
    dataset.SharedFunctionalGroupsSequence = Sequence([group])
    return dataset, slices


def test_tomosynthesis_is_refused_projected_or_stacked(dataset: Dataset, painted: dict, save: Save) -> None:
    made, slices = _tomosynthesis(dataset, painted)
    path = save(made)
    with pytest.raises(Exception, match="tomosynthesis stack") as caught:
        open_slide(path)
    assert getattr(caught.value, "reason", "") == "tomosynthesis"
    mip = MammoOptions(dbt="mip", outside_breast="keep")
    np.testing.assert_array_equal(pixels_of(path, mip), slices.max(0))
    with open_mammogram(path, options=MammoOptions(dbt="slices", outside_breast="keep")) as stack:
        assert (stack.n_channels, stack.kind, stack.mpp) == (3, "multichannel", Mpp(100.0, 100.0))
        np.testing.assert_array_equal(
            stack.read_region(0, 0, 0, *slices.shape[1:]), np.moveaxis(slices, 0, 2)
        )
        assert stack.store_attributes()["voi"][0]["center"] == 500


def test_compressed_tomosynthesis_is_read_frame_by_frame(dataset: Dataset, painted: dict, save: Save) -> None:
    made, slices = _tomosynthesis(dataset, painted)
    made.PixelData = encapsulate([imagecodecs.jpegls_encode(one) for one in slices], has_bot=True)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = JPEGLSLossless
    path = save(made)
    np.testing.assert_array_equal(
        pixels_of(path, MammoOptions(dbt="mip", outside_breast="keep")), slices.max(0)
    )


def test_films_of_a_table(tmp_path: Path, painted: dict) -> None:
    want = painted["R", "MLO"]
    (tmp_path / "films").mkdir()
    cv2.imwrite(str(tmp_path / "films" / "DOE_JOHN.png"), want)
    cv2.imwrite(str(tmp_path / "films" / "negative.pgm"), 4095 - want)
    cv2.imwrite(str(tmp_path / "films" / "undescribed.png"), want)
    (tmp_path / "mammograms.csv").write_text(
        "file,view,laterality,spacing_mm,bits,photometric,image_id\n"
        "films/DOE_JOHN.png,MLO,right,0.2,12,,\n"
        "films/negative.pgm,MLO,R,0.2,12,MONOCHROME1,film-2\n"
    )
    for name in ("DOE_JOHN.png", "negative.pgm"):
        np.testing.assert_array_equal(pixels_of(tmp_path / "films" / name), want)
    sources = {one.path.name: one.image_id for one in find_slides([tmp_path])}
    assert sources["negative.pgm"] == "film-2"
    assert "DOE" not in sources["DOE_JOHN.png"]
    with open_slide(tmp_path / "films" / "DOE_JOHN.png") as image:
        assert isinstance(image, MammogramSlide)
        assert image.mpp == Mpp(200.0, 200.0)
        assert image.store_attributes()["view_source"] == "table"
    with open_slide(tmp_path / "films" / "undescribed.png") as image:
        assert image.reader != "mammo"


def test_dicom_without_suffix_is_found_and_named_by_a_pseudonym(dataset: Dataset, save: Save) -> None:
    path = save(dataset)
    bare = path.rename(path.with_name("DOE JOHN 1.2.840.113"))
    (source,) = find_slides([bare.parent])
    assert source.image_id == mammogram_id(bare)
    assert source.image_id.startswith("i")
    assert "DOE" not in source.image_id


def test_pseudonyms_depend_on_the_salt(dataset: Dataset, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(dataset)
    first = mammogram_id(path)
    assert mammogram_id(path) == first
    monkeypatch.setenv("ATLAS_PATH_ID_SALT", "the salt of another site")
    assert mammogram_id(path) != first


def test_real_films(shared: Path) -> None:
    with open_slide(shared / "data/mammo/cbis_malign0_RCC_rle.dcm", mpp=50.0) as film:
        attributes = film.store_attributes()  # type: ignore[attr-defined]
    assert (attributes["view"], attributes["laterality"]) == ("CC", "R")
    assert attributes["chest_wall"] == "right"
    with open_slide(shared / "data/mammo/MG1_J2KI.dcm") as film:
        attributes = film.store_attributes()  # type: ignore[attr-defined]
        level = film.levels[0]
        corner = film.read_region(0, 0, level.width_px - 1000, 1200, 1000)  # the letters 'L MLO' stand here
    assert (level.height_px, level.width_px) == (4664, 3064)
    assert (attributes["view"], attributes["laterality"], attributes["image_kind"]) == ("MLO", "L", "film")
    assert attributes["chest_wall"] == "left"
    assert "lossy" in attributes["flags"]
    assert not corner.any()
