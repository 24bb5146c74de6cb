"""Why a mammogram is refused or cannot be read: one short code each, and never an identifier.

The subject of these errors is a pseudonym, not the path: a file name often is a name or an accession number,
and errors end in logs and tables. `atlas-path exams` writes the private table that leads back to the file.
"""

from __future__ import annotations

from atlas_path.errors import UnreadableSlideError, UnsupportedSlideError


class RefusedMammogramError(UnsupportedSlideError):
    """A whole file that the rules keep out. Reasons:

    'not_an_image', 'not_mammography', 'for_processing', 'tomosynthesis', 'legacy_tomosynthesis',
    'projection', 'multi_frame', 'not_greyscale', 'no_laterality', 'both_sides', 'no_view',
    'transfer_syntax'.
    """

    def __init__(self, subject: str, fault: str, remedy: str, reason: str = "unsupported") -> None:
        super().__init__(subject, fault, remedy)
        self.reason = reason


class UnreadableMammogramError(UnreadableSlideError):
    """A file whose header or pixels cannot be trusted. Reasons: 'not_dicom', 'truncated', 'damaged'."""

    def __init__(self, subject: str, fault: str, remedy: str, reason: str = "unreadable") -> None:
        super().__init__(subject, fault, remedy)
        self.reason = reason
