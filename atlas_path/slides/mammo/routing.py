"""Which kind of mammogram a DICOM file is, decided on SOP class first and modality second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atlas_path.slides.mammo.errors import RefusedMammogramError
from atlas_path.slides.mammo.header import DEFLATED, Header
from atlas_path.slides.mammo_options import MammoOptions

Intent = Literal["presentation", "processing", "unknown"]

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
MG_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.2"
MG_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
PROJECTION = ("1.2.840.10008.5.1.4.1.1.13.1.4", "1.2.840.10008.5.1.4.1.1.13.1.5")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_CAPTURE = tuple(f"{SECONDARY_CAPTURE}.{number}" for number in (1, 2, 3, 4))
COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
DIGITAL_XRAY = ("1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1")

SYNTHETIC_WORDS = ("C-VIEW", "CVIEW", "S-VIEW", "V-PREVIEW", "INSIGHT 2D", "SYNTHESIZED 2D", "SYNTHETIC 2D")
LEGACY_TOMOSYNTHESIS_GROUP = 0x7E01


@dataclass(frozen=True)
class Route:
    """Kind, what it was decided on (a closed vocabulary, never the header's text), and intent."""

    image_kind: Literal["ffdm", "synthetic_2d", "tomosynthesis", "film", "secondary_capture", "cr"]
    evidence: str
    intent: Intent


def is_whole_slide(header: Header) -> bool:
    return header.text("SOPClassUID") == WHOLE_SLIDE


def route(header: Header, options: MammoOptions) -> Route:
    """Kind of the image.

    Raises:
        RefusedMammogramError: with the reason of the rule that keeps it out.
    """
    sop = header.text("SOPClassUID")
    if header.pixels_at is None and header.transfer_syntax != DEFLATED:
        raise _refused(header, "holds no image (a report, a presentation state, a key-image note)",
                       "nothing to do: the exam's images are other files", "not_an_image")  # fmt: skip
    if not _is_breast(header, sop):
        raise _refused(header, "is a DICOM image but not a mammogram", "leave it out of the input",
                       "not_mammography")  # fmt: skip
    if sop in PROJECTION:
        raise _refused(header, "is a raw tomosynthesis projection",
                       "export the reconstructed slices or the 2-D view", "projection")  # fmt: skip
    if header.number("SamplesPerPixel") not in (None, 1.0):
        raise _refused(header, "is a colour image (a rendered report or CAD picture)", "leave it out",
                       "not_greyscale")  # fmt: skip
    if sop == TOMOSYNTHESIS:
        return _tomosynthesis(header, options)
    if sop in (SECONDARY_CAPTURE, *MULTI_FRAME_CAPTURE) and _has_legacy_group(header):
        raise _refused(header, "is a tomosynthesis stack hidden in a secondary capture (old Hologic export)",
                       "export it as Breast Tomosynthesis objects", "legacy_tomosynthesis")  # fmt: skip
    if (header.number("NumberOfFrames") or 1.0) > 1:
        raise _refused(header, "holds several frames where one is due", "export it as Breast Tomosynthesis",
                       "multi_frame")  # fmt: skip
    intent = _intent(header, sop)
    if intent == "processing" and options.for_processing == "refuse":
        raise _refused(header, "is raw (FOR PROCESSING)", "export the FOR PRESENTATION image, or accept"
                       " raw ones with for_processing: accept", "for_processing")  # fmt: skip
    return _flat_image(header, sop, intent)


def _tomosynthesis(header: Header, options: MammoOptions) -> Route:
    if options.dbt == "refuse":
        raise _refused(header, "is a tomosynthesis stack", "choose --dbt mip or --dbt slices, or use the"
                       " 2-D views", "tomosynthesis")  # fmt: skip
    return Route("tomosynthesis", "sop_class", _intent(header, TOMOSYNTHESIS))


def _flat_image(header: Header, sop: str, intent: Intent) -> Route:
    if sop in (MG_PRESENTATION, MG_PROCESSING, *DIGITAL_XRAY):
        if "GENERATED_2D" in header.text("ImageType").split("\\"):
            return Route("synthetic_2d", "image_type", intent)
        description = header.text("SeriesDescription")
        if any(word in description for word in SYNTHETIC_WORDS):
            return Route("synthetic_2d", "series_description", intent)
        return Route("ffdm", "sop_class", intent)
    if sop == COMPUTED_RADIOGRAPHY:
        return Route("cr", "sop_class", intent)
    if header.text("ConversionType") == "DF":
        return Route("film", "conversion_type", intent)
    return Route("secondary_capture", "sop_class", intent)


def _is_breast(header: Header, sop: str) -> bool:
    if sop in (MG_PRESENTATION, MG_PROCESSING, TOMOSYNTHESIS, *PROJECTION):
        return True
    return header.text("Modality") == "MG" or header.text("BodyPartExamined") == "BREAST"


def _intent(header: Header, sop: str) -> Intent:
    stated = header.text("PresentationIntentType")
    if sop == MG_PROCESSING or stated == "FOR PROCESSING":
        return "processing"
    return "presentation" if sop == MG_PRESENTATION or stated == "FOR PRESENTATION" else "unknown"


def _has_legacy_group(header: Header) -> bool:
    return bool(header.dataset.group_dataset(LEGACY_TOMOSYNTHESIS_GROUP))


def _refused(header: Header, fault: str, remedy: str, reason: str) -> RefusedMammogramError:
    return RefusedMammogramError(header.subject, fault, remedy, reason)
