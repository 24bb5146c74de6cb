"""View, side and view modifiers of a mammogram: by code first, by text second.

Codes are those of DICOM PS3.16 CID 4014 (views) and CID 4015 (modifiers), in SNOMED CT (`SCT`) and in the
older SNOMED RT (`SRT`, also written `SNM3` or `99SDM`) that most archives still hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from atlas_path.slides.mammo.header import items_of, text_of

VIEW_CODES: dict[str, str] = {
    "399162004": "CC", "R-10242": "CC",
    "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML",
    "399352003": "LM", "R-10228": "LM",
    "399099002": "LMO", "R-10230": "LMO",
    "399196006": "FB", "R-10244": "FB",
    "399188001": "SIO", "R-102D0": "SIO",
    "441555000": "ISO", "R-40AAA": "ISO",
    "399192008": "XCCL", "R-1024A": "XCCL",
    "399101009": "XCCM", "R-1024B": "XCCM",
    "127457009": "SPECIMEN", "G-8310": "SPECIMEN",
}  # fmt: skip
VIEWS = tuple(dict.fromkeys(VIEW_CODES.values()))
STANDARD_VIEWS = ("CC", "MLO")
VIEW_WORDS = {view: view for view in VIEWS} | {"XCC": "XCCL", "ML0": "MLO", "MLOID": "MLO", "CCID": "CC"}

MODIFIER_CODES: dict[str, str] = {
    "399011000": "axillary_tail", "R-102D1": "axillary_tail",
    "399161006": "cleavage", "R-102D2": "cleavage",
    "399209000": "implant_displaced", "R-102D5": "implant_displaced",
    "399163009": "magnification", "R-102D6": "magnification",
    "399055006": "spot", "R-102D7": "spot",
    "399226006": "rolled", "R-102D4": "rolled",
    "399197002": "rolled", "R-102D3": "rolled",
    "415670009": "rolled", "R-102C9": "rolled",
    "414493004": "rolled", "R-102CA": "rolled",
    "399110001": "tangential", "R-102C2": "tangential",
    "442581004": "nipple_in_profile", "R-40AB3": "nipple_in_profile",
    "442580003": "axillary_tissue", "R-40AB2": "axillary_tissue",
    "441752004": "anterior_compression", "P2-00161": "anterior_compression",
    "442593008": "infra_mammary_fold", "R-40ABE": "infra_mammary_fold",
}  # fmt: skip
MODIFIERS = tuple(dict.fromkeys(MODIFIER_CODES.values()))
DIAGNOSTIC_MODIFIERS = frozenset({"spot", "magnification", "tangential", "rolled"})
"""Views taken to work up a finding: their very presence predicts cancer."""


@dataclass(frozen=True)
class View:
    """View and side of one image; None where nothing usable says it. Sources name the element used."""

    view: str | None
    view_source: str | None
    laterality: str | None  # 'L', 'R' or 'B' (both breasts in one image)
    laterality_source: str | None
    modifiers: tuple[str, ...] = ()

    @property
    def is_diagnostic(self) -> bool:
        return bool(DIAGNOSTIC_MODIFIERS.intersection(self.modifiers))


def view_of(dataset: Dataset) -> View:
    """View, side and modifiers of a DICOM image.

    View: ViewCodeSequence, then ViewPosition, then PatientOrientation, where CBIS-DDSM puts it. Side:
    ImageLaterality, then FrameLaterality (tomosynthesis), then Laterality.
    """
    view, view_source = _view(dataset)
    laterality, laterality_source = _laterality(dataset)
    return View(view, view_source, laterality, laterality_source, _modifiers(dataset))


def view_from_words(view: str | None, laterality: str | None) -> View:
    """View and side as a table gives them ('MLO', 'left', ...)."""
    known_view = VIEW_WORDS.get((view or "").strip().upper())
    side = (laterality or "").strip().upper()[:1]
    known_side = side if side in ("L", "R", "B") else None
    return View(known_view, "table" if known_view else None, known_side, "table" if known_side else None)


def _view(dataset: Dataset) -> tuple[str | None, str | None]:
    for item in items_of(dataset, "ViewCodeSequence"):
        code = VIEW_CODES.get(text_of(item, "CodeValue"))
        if code:
            return code, "ViewCodeSequence"
    word = VIEW_WORDS.get(text_of(dataset, "ViewPosition"))
    if word:
        return word, "ViewPosition"
    word = VIEW_WORDS.get(text_of(dataset, "PatientOrientation"))
    if word:  # not what the standard means by it, but what CBIS-DDSM writes
        return word, "PatientOrientation"
    return None, None


def _modifiers(dataset: Dataset) -> tuple[str, ...]:
    found: list[str] = []
    holders = [dataset, *items_of(dataset, "ViewCodeSequence")]
    for holder in holders:
        for item in items_of(holder, "ViewModifierCodeSequence"):
            name = MODIFIER_CODES.get(text_of(item, "CodeValue"))
            if name and name not in found:
                found.append(name)
    if text_of(dataset, "ViewPosition").endswith("ID") and "implant_displaced" not in found:
        found.append("implant_displaced")
    return tuple(found)


def _laterality(dataset: Dataset) -> tuple[str | None, str | None]:
    side = _side(text_of(dataset, "ImageLaterality"))
    if side:
        return side, "ImageLaterality"
    for group in [
        *items_of(dataset, "SharedFunctionalGroupsSequence"),
        *items_of(dataset, "PerFrameFunctionalGroupsSequence")[:1],
    ]:
        for anatomy in items_of(group, "FrameAnatomySequence"):
            side = _side(text_of(anatomy, "FrameLaterality"))
            if side:
                return side, "FrameLaterality"
    side = _side(text_of(dataset, "Laterality"))
    return (side, "Laterality") if side else (None, None)


def _side(text: str) -> str | None:
    return text if text in ("L", "R", "B") else None
