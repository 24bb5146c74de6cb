"""Write synthetic mammograms as DICOM files with the headers that real detectors write.

Two makers, as different as real ones: one writes MONOCHROME2 with three windows and SNOMED CT codes, the
other MONOCHROME1 with a sigmoid window and the older SNOMED RT codes. Used by the demo and by the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

MG_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.2"
VIEW_CODES = {
    "SCT": {"CC": "399162004", "MLO": "399368009"},
    "SRT": {"CC": "R-10242", "MLO": "R-10226"},
}
ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    str(JPEG2000Lossless): lambda px: bytes(imagecodecs.jpeg2k_encode(px, level=0, codecformat="j2k")),
    str(JPEGLSLossless): lambda px: bytes(imagecodecs.jpegls_encode(px)),
    str(JPEGLosslessSV1): lambda px: bytes(imagecodecs.ljpeg_encode(px, bitspersample=16)),
    str(HTJ2KLossless): lambda px: bytes(imagecodecs.htj2k_encode(px)),
}


@dataclass(frozen=True)
class ExamHeader:
    """What the images of one exam share. Dates are DICOM dates (YYYYMMDD)."""

    patient_id: str
    patient_name: str
    study_uid: str
    study_date: str
    accession: str
    maker: str = "one"  # 'one' or 'two'


def mammogram_dataset(
    pixels: np.ndarray, laterality: str, view: str, exam: ExamHeader, spacing_mm: float, bits: int
) -> Dataset:
    """A digital mammogram FOR PRESENTATION, uncompressed. `pixels` (height, width) uint16, tissue bright."""
    dataset = Dataset()
    dataset.SOPClassUID = MG_PRESENTATION
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[exam.study_uid, laterality, view])
    dataset.StudyInstanceUID = exam.study_uid
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[exam.study_uid, laterality, view, "series"])
    dataset.Modality = "MG"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.PatientName = exam.patient_name
    dataset.PatientID = exam.patient_id
    dataset.StudyDate = dataset.ContentDate = exam.study_date
    dataset.AccessionNumber = exam.accession
    dataset.BodyPartExamined = "BREAST"
    dataset.ImageLaterality = laterality
    dataset.ViewPosition = view
    dataset.ViewCodeSequence = Sequence([_code(view, "SCT" if exam.maker == "one" else "SRT")])
    dataset.ImagerPixelSpacing = [spacing_mm * 1.05, spacing_mm * 1.05]
    dataset.EstimatedRadiographicMagnificationFactor = 1.05
    dataset.BurnedInAnnotation = "NO"  # untrue, as in real files
    dataset.PatientOrientation = ["A" if laterality == "L" else "P", "L" if view == "CC" else "F"]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "US"
    top = (1 << bits) - 1
    if exam.maker == "one":
        dataset.Manufacturer, dataset.ManufacturerModelName = "HOLOGIC, Inc.", "Selenia Dimensions"
        dataset.PhotometricInterpretation, dataset.PresentationLUTShape = "MONOCHROME2", "IDENTITY"
        dataset.WindowCenter, dataset.WindowWidth = (
            [top * 0.5, top * 0.55, top * 0.45],
            [top, top * 0.8, top * 0.7],
        )
        dataset.WindowCenterWidthExplanation = ["NORMAL", "HARDER", "SOFTER"]
        stored = pixels
    else:
        dataset.Manufacturer, dataset.ManufacturerModelName = "FUJIFILM Corporation", "FDR-3000AWS"
        dataset.PhotometricInterpretation, dataset.PresentationLUTShape = "MONOCHROME1", "INVERSE"
        dataset.WindowCenter, dataset.WindowWidth = top * 0.5, top * 0.7
        dataset.VOILUTFunction = "SIGMOID"
        stored = top - pixels
    dataset.PixelData = np.ascontiguousarray(stored, "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    _add_meta(dataset, ExplicitVRLittleEndian)
    return dataset


def compress(dataset: Dataset, syntax: UID) -> Dataset:
    """Encode the uncompressed pixels of a one-frame data set in place."""
    if syntax == RLELossless:
        dataset.compress(RLELossless, encoding_plugin="pydicom")
    else:
        pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
        dataset.PixelData = encapsulate([ENCODERS[str(syntax)](pixels)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def write(dataset: Dataset, path: Path) -> Path:
    """Save as a DICOM part 10 file; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def _code(view: str, scheme: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = VIEW_CODES[scheme][view], scheme, view
    item.ViewModifierCodeSequence = Sequence([])
    return item


def _add_meta(dataset: Dataset, syntax: UID) -> None:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.ImplementationClassUID = generate_uid(entropy_srcs=["atlas-path demo"])
