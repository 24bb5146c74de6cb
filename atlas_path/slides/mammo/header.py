"""Read a DICOM header without letting any of its text escape.

pydicom names the file and quotes values in its log, warnings and exceptions, so it is always called through
here: log and warnings are silenced, exceptions replaced by an error that carries a pseudonym and a reason.
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from atlas_path.dicom import Pseudonyms
from atlas_path.slides.mammo.errors import UnreadableMammogramError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic"})
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
PIXEL_DATA_TAG = struct.pack("<HH", 0x7FE0, 0x0010)
PIXEL_DATA_TAG_BIG = struct.pack(">HH", 0x7FE0, 0x0010)
UNDEFINED_LENGTH = 0xFFFFFFFF
SHORT_TEXT = 64
LIBRARY_FAULTS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError, RecursionError,
    AssertionError, EOFError, struct.error, BytesLengthException,
)  # fmt: skip
"""What a damaged header makes pydicom raise, here or there."""


# pydicom writes offending values to its log and into warnings; neither may carry a name anywhere
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"pydicom\b")


@dataclass(frozen=True)
class Header:
    """What is known of a file before its pixels.

    `pixels_at` is the byte at which the value of PixelData begins, None where the file has none;
    `pixels_declared` its length, None when undefined (encapsulated).
    """

    path: Path
    subject: str
    dataset: Dataset
    transfer_syntax: str
    pixels_at: int | None
    pixels_declared: int | None
    file_bytes: int

    def text(self, keyword: str) -> str:
        """A text element of the main data set, upper case and stripped; '' when absent or unreadable."""
        return text_of(self.dataset, keyword)

    def number(self, keyword: str) -> float | None:
        return number_of(self.dataset, keyword)


def has_dicom_magic(path: Path) -> bool:
    """True if the file starts as DICOM part 10 says: 128 bytes of preamble, then DICM."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def subject_of(path: Path, pseudonyms: Pseudonyms | None = None) -> str:
    """How a file is named before its UID is known: the pseudonym of its path."""
    pseudonyms = pseudonyms or Pseudonyms.of_site()
    return f"mammogram {pseudonyms.id_of('file', os.path.abspath(path))}"


def read_header(path: Path) -> Header:
    """Read everything before the pixels.

    Raises:
        UnreadableMammogramError: 'not_dicom' or 'truncated'.
    """
    pseudonyms = Pseudonyms.of_site()
    subject = subject_of(path, pseudonyms)
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            return _read_open(file, path, subject, pseudonyms, file_bytes)
    except UnreadableMammogramError:
        raise
    except OSError as error:
        raise UnreadableMammogramError(
            subject, f"cannot be opened ({error.strerror or 'input/output error'})", "check the file"
        ) from None


def _read_open(file: BinaryIO, path: Path, subject: str, pseudonyms: Pseudonyms, file_bytes: int) -> Header:
    with quiet_pydicom(subject, "the header"):
        try:
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
        except InvalidDicomError:
            raise UnreadableMammogramError(
                subject, "is not a DICOM file (no DICM after the preamble)", "export it again", "not_dicom"
            ) from None
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
        uid = str(dataset.get("SOPInstanceUID", ""))
        n_elements = len(dataset)
    if n_elements == 0 or not syntax:
        raise UnreadableMammogramError(
            subject, "is cut off in its header", "copy or export it again", "truncated"
        )
    if uid:
        subject = f"mammogram {pseudonyms.image_id(uid)}"
    pixels_at, declared = (None, None) if syntax == DEFLATED else _find_pixels(file, syntax)
    return Header(path, subject, dataset, syntax, pixels_at, declared, file_bytes)


def _find_pixels(file: BinaryIO, syntax: str) -> tuple[int | None, int | None]:
    """Where the value of PixelData begins and how long it says it is; the file stands at its tag."""
    head = file.read(12)
    big = syntax == EXPLICIT_BIG_ENDIAN
    if len(head) < 8 or head[:4] != (PIXEL_DATA_TAG_BIG if big else PIXEL_DATA_TAG):
        return None, None
    order = ">" if big else "<"
    if syntax == IMPLICIT_LITTLE_ENDIAN:
        (length,) = struct.unpack(order + "I", head[4:8])
        at = file.tell() - len(head) + 8
    else:
        if len(head) < 12:
            return None, None
        (length,) = struct.unpack(order + "I", head[8:12])
        at = file.tell()
    return at, None if length == UNDEFINED_LENGTH else length


@contextmanager
def quiet_pydicom(subject: str, what: str) -> Iterator[None]:
    """Silence warnings, and turn any exception of the DICOM library into one without its text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnreadableMammogramError:
        raise
    except EOFError:
        raise UnreadableMammogramError(
            subject, f"ends inside {what}", "copy or export it again", "truncated"
        ) from None
    except LIBRARY_FAULTS as error:
        raise UnreadableMammogramError(
            subject, f"{what} is malformed ({type(error).__name__})", "export it again", "damaged"
        ) from None


def text_of(dataset: Dataset, keyword: str) -> str:
    """One text value (values of a list joined by a backslash), upper case; '' when absent or unreadable."""
    value = _value(dataset, keyword)
    if value is None:
        return ""
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return "\\".join(str(item).strip().upper()[:SHORT_TEXT] for item in value)
    return str(value).strip().upper()[: SHORT_TEXT * 4]


def numbers_of(dataset: Dataset, keyword: str) -> list[float]:
    """Finite numeric values of an element; empty when absent or unreadable."""
    value = _value(dataset, keyword)
    if value is None or value == "":
        return []
    several = isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"
    numbers = []
    for item in value if several else [value]:
        try:
            number = float(item)
        except (TypeError, ValueError):
            return []
        if number != number or number in (float("inf"), float("-inf")):
            return []
        numbers.append(number)
    return numbers


def number_of(dataset: Dataset, keyword: str) -> float | None:
    numbers = numbers_of(dataset, keyword)
    return numbers[0] if numbers else None


def items_of(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; empty when absent."""
    value = _value(dataset, keyword)
    return (
        [item for item in value if isinstance(item, Dataset)]
        if value is not None and not isinstance(value, (str, bytes))
        else []
    )


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dataset.get(keyword)
    except LIBRARY_FAULTS:
        return None  # a malformed element counts as absent: the rules then say what its absence means
