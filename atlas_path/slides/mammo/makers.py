"""Makers and models by closed lists: the header's own text may hold anything, so it never goes out."""

from __future__ import annotations

MAKERS: dict[str, str] = {
    "HOLOGIC": "hologic", "LORAD": "hologic", "SIEMENS": "siemens", "GE MEDICAL": "ge", "GE HEALTHCARE": "ge",
    "FUJI": "fujifilm", "PHILIPS": "philips", "SECTRA": "sectra", "IMS": "ims", "GIOTTO": "ims",
    "PLANMED": "planmed", "AGFA": "agfa", "CARESTREAM": "carestream", "KODAK": "carestream",
    "KONICA": "konica",
    "METALTRONICA": "metaltronica", "LUMISYS": "lumisys", "HOWTEK": "howtek", "VIDAR": "vidar",
}  # fmt: skip
MODELS: dict[str, str] = {
    "SELENIA DIMENSIONS": "selenia dimensions", "3DIMENSIONS": "3dimensions",
    "LORAD SELENIA": "lorad selenia",
    "SENOGRAPHE ESSENTIAL": "senographe essential", "SENOGRAPHE PRISTINA": "senographe pristina",
    "SENOGRAPHE DS": "senographe ds", "SENOGRAPHE 2000D": "senographe 2000d",
    "SENO ESSENTIAL": "senographe essential",
    "MAMMOMAT INSPIRATION": "mammomat inspiration", "MAMMOMAT REVELATION": "mammomat revelation",
    "MAMMOMAT NOVATION": "mammomat novation", "MAMMOMAT FUSION": "mammomat fusion", "AMULET": "amulet",
    "FDR-3000AWS": "fdr-3000aws", "FDR-3500DRLH": "amulet innovality", "MICRODOSE": "microdose",
    "GIOTTO IMAGE": "giotto image", "GIOTTO CLASS": "giotto class", "CLARITY": "clarity",
    "PLANMED NUANCE": "nuance", "CR MAMMOGRAPHY": "cr mammography",
}  # fmt: skip
OTHER = "other"


def maker_of(text: str) -> str | None:
    """The maker in our spelling, 'other' for one we do not know, None when the header says nothing."""
    return _known(text, MAKERS)


def model_of(text: str) -> str | None:
    """The model in our spelling, 'other' for one we do not know, None when the header says nothing."""
    return _known(text, MODELS)


def _known(text: str, known: dict[str, str]) -> str | None:
    upper = text.strip().upper()
    if not upper:
        return None
    return next((name for word, name in known.items() if word in upper), OTHER)
