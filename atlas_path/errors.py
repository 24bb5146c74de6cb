"""What can go wrong, said in one line: which file, what is wrong, what to do.

Every error a user can cause or meet is an `AtlasPathError`. Its `reason` is a short, stable code that goes
into `manifest.csv` and `failures.csv`; its text is the line a person reads.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """Process exit codes of every `atlas-path` command."""

    OK = 0
    USAGE = 2
    SOME_FAILED = 3
    ALL_FAILED = 4
    INTERRUPTED = 130

    @classmethod
    def of_batch(cls, n_ok: int, n_failed: int) -> ExitCode:
        """The exit code of a batch of which `n_ok` items are done and `n_failed` are not."""
        if n_failed == 0:
            return cls.OK
        return cls.SOME_FAILED if n_ok else cls.ALL_FAILED


class AtlasPathError(Exception):
    """Base of all errors that a user can act on.

    Args:
        subject: the file, folder, row or key the error is about.
        fault: what is wrong with it.
        remedy: what the user can do.
    """

    reason = "error"

    def __init__(self, subject: str | Path, fault: str, remedy: str) -> None:
        super().__init__(subject, fault, remedy)  # keeps the error picklable across processes
        self.subject, self.fault, self.remedy = str(subject), fault, remedy

    def __str__(self) -> str:
        return f"{self.subject}: {self.fault}; {self.remedy}"


class UsageError(AtlasPathError, ValueError):
    """The command cannot start: wrong option, missing folder, nothing to do."""

    reason = "usage"


class ConfigError(AtlasPathError, ValueError):
    """A configuration file with one or more faults; the text holds one line a fault."""

    reason = "config"

    def __init__(self, subject: str | Path, fault: str, remedy: str = "") -> None:
        super().__init__(subject, fault, remedy)

    def __str__(self) -> str:
        return self.fault + (f"\n{self.remedy}" if self.remedy else "")


class CohortError(AtlasPathError, ValueError):
    """The cohort table cannot be used: missing column, missing file, leaking split."""

    reason = "cohort"


class SlideError(AtlasPathError):
    """Base of errors about one source image; the batch goes on without it."""

    reason = "slide"


class UnreadableSlideError(SlideError, OSError):
    """Empty, truncated, damaged or not an image at all."""

    reason = "unreadable"


class UnsupportedSlideError(SlideError):
    """Readable by its format, but of a kind we refuse (for example: for-processing mammograms)."""

    reason = "unsupported"


class MissingMppError(SlideError):
    """No micrometres per pixel in the file, the `--mpp-csv` table or the cohort. Never guessed."""

    reason = "no_mpp"


class ResolutionError(SlideError):
    """The slide is coarser than the resolution asked for: pixels are never invented."""

    reason = "too_coarse"


class NoTissueError(SlideError):
    """Tissue detection kept no window."""

    reason = "no_tissue"


class DamagedSlideError(SlideError, OSError):
    """More unreadable tiles than allowed."""

    reason = "damaged"


class DuplicateImageError(SlideError):
    """Two files claim one image id."""

    reason = "duplicate"


class StoreError(AtlasPathError, OSError):
    """Base of errors about a store written by `preprocess`."""

    reason = "store"


class IncompleteStoreError(StoreError):
    """The store has no completion record: it was interrupted or is still being written."""

    reason = "incomplete"


class StaleStoreError(StoreError):
    """The store was made from another file or with other parameters."""

    reason = "stale"


class DiskFullError(StoreError):
    """The disk that is written to has no space left."""

    reason = "disk_full"


class ModelError(AtlasPathError):
    """A run folder or model file that cannot be used."""

    reason = "model"
