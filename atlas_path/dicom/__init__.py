"""What every DICOM input shares: pseudonyms in the place of identifiers, and shifted days."""

from __future__ import annotations

from atlas_path.dicom.pseudonym import Pseudonyms, cbis_patient

__all__ = ["Pseudonyms", "cbis_patient"]
