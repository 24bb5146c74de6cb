"""One image file -> one row about it, or the reason why it is left out. Reads headers, decodes no pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from atlas_path.dicom import Pseudonyms, cbis_patient
from atlas_path.errors import SlideError
from atlas_path.slides.mammo import mammogram_id
from atlas_path.slides.mammo.acquire import header_facts, require_view
from atlas_path.slides.mammo.codes import view_from_words
from atlas_path.slides.mammo.decode import check_syntax
from atlas_path.slides.mammo.frames import Frames, layout_of
from atlas_path.slides.mammo.header import Header, read_header, subject_of
from atlas_path.slides.mammo.table import FILM_SUFFIXES, FilmRow, film_row
from atlas_path.slides.mammo_options import MammoOptions

OLDEST_AGE = 90
AGE_BAND_YEARS = 5


@dataclass(frozen=True)
class Keys:
    """Identifiers as the hospital knows them; they go into the private table and nowhere else."""

    path: Path
    patient_id: str = ""
    study_uid: str = ""
    accession: str = ""
    study_date: str = ""


@dataclass(frozen=True)
class ExamImage:
    """One usable image. Everything but `keys` may be written anywhere."""

    image_id: str
    exam_id: str
    patient_id: str
    view: str
    laterality: str
    modifiers: tuple[str, ...] = ()
    image_kind: str = "film"
    intent: str = "unknown"
    manufacturer: str = ""
    model: str = ""
    mpp: float | None = None
    mpp_source: str = ""
    age: str = ""
    exam_day: int | None = None
    flags: tuple[str, ...] = ()
    taken_at: float = 0.0
    keys: Keys = field(default=Keys(Path()), repr=False)

    @property
    def is_diagnostic(self) -> bool:
        return "diagnostic_view" in self.flags


@dataclass(frozen=True)
class Excluded:
    """An image that is left out: pseudonym, short code, and the line a person reads."""

    image_id: str
    reason: str
    message: str
    path: Path = field(default=Path(), repr=False)


def describe_image(path: Path, options: MammoOptions, pseudonyms: Pseudonyms) -> ExamImage | Excluded:
    """What the header (or the film table) says of an image, by the rules of the reader."""
    try:
        row = film_row(path)
        if row is not None and path.suffix.lower() in FILM_SUFFIXES:
            return _film(path, row, options, pseudonyms)
        return _dicom(path, row, options, pseudonyms)
    except SlideError as error:
        return Excluded(error.subject.rpartition(" ")[2], error.reason, str(error), path)


def _dicom(path: Path, row: FilmRow | None, options: MammoOptions, pseudonyms: Pseudonyms) -> ExamImage:
    header = read_header(path)
    facts, spacing, flags = header_facts(header, options, row)
    with path.open("rb") as file:
        check_syntax(Frames(file, header, layout_of(header)))  # cut files show without decoding
    patient, exam, keys = _whose(header, pseudonyms)
    mpp, source = (row.mpp, "table") if row and row.mpp else (spacing.mpp, spacing.source)
    return ExamImage(
        image_id=mammogram_id(path),
        exam_id=exam,
        patient_id=patient,
        view=facts["view"] or "",
        laterality=facts["laterality"] or "",
        modifiers=tuple(facts["modifiers"]),
        image_kind=facts["image_kind"],
        intent=facts["intent"],
        manufacturer=facts["manufacturer"] or "",
        model=facts["model"] or "",
        mpp=None if mpp is None else round(mpp.mean, 4),
        mpp_source=source or "",
        age=age_band(header.text("PatientAge")),
        exam_day=pseudonyms.shifted_day(keys.study_date, patient),
        flags=tuple(flags),
        taken_at=header.number("ContentTime") or header.number("AcquisitionTime") or 0.0,
        keys=keys,
    )


def _whose(header: Header, pseudonyms: Pseudonyms) -> tuple[str, str, Keys]:
    """(patient, exam, identifiers): CBIS-DDSM calls every film a patient and a study of its own."""
    raw = str(header.dataset.get("PatientID") or "").strip()
    study = header.text("StudyInstanceUID")
    keys = Keys(header.path, raw, study, header.text("AccessionNumber"), header.text("StudyDate"))
    cbis = cbis_patient(raw)
    if cbis:
        return pseudonyms.patient_id(cbis, "CBIS-DDSM"), pseudonyms.exam_id(f"CBIS-DDSM {cbis}"), keys
    issuer = header.text("IssuerOfPatientID")
    patient = pseudonyms.patient_id(raw, issuer) if raw else pseudonyms.patient_id(study, "study")
    return patient, pseudonyms.exam_id(study or str(header.path.parent)), keys


def _film(path: Path, row: FilmRow, options: MammoOptions, pseudonyms: Pseudonyms) -> ExamImage:
    view = view_from_words(row.view, row.laterality)
    require_view(subject_of(path), view, options)
    image_id = mammogram_id(path)
    exam = row.exam_id or image_id
    return ExamImage(
        image_id=image_id,
        exam_id=pseudonyms.exam_id(exam),
        patient_id=pseudonyms.patient_id(row.patient_id or exam),
        view=view.view or "",
        laterality=view.laterality or "",
        mpp=None if row.mpp is None else row.mpp.mean,
        mpp_source="table" if row.mpp else "",
        flags=() if row.mpp else ("no_spacing",),
        keys=Keys(path, row.patient_id or "", row.exam_id or "", row.exam_id or ""),
    )


def age_band(text: str) -> str:
    """A DICOM age ('052Y') as a band of five years; 90 and more are one band; '' when unknown."""
    if len(text) != 4 or not text[:3].isdigit() or text[3] != "Y":
        return ""
    years = int(text[:3])
    if years >= OLDEST_AGE:
        return f"{OLDEST_AGE}+"
    low = years // AGE_BAND_YEARS * AGE_BAND_YEARS
    return f"{low}-{low + AGE_BAND_YEARS - 1}"
