"""Salted ids in the place of identifiers, and days in the place of dates.

An id is HMAC-SHA256(salt, kind and identifier), cut to 80 bits: the same patient gets the same id in every
run with the same salt, and nobody without the salt can try names or accession numbers against it. The salt
is a secret of the site: `ATLAS_PATH_ID_SALT`, else a random one made once in the user's configuration folder
and readable by the user alone. Days are shifted per patient by a secret number of days, so that intervals
between exams stay true and dates are gone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from atlas_path.errors import UsageError

SALT_VARIABLE = "ATLAS_PATH_ID_SALT"
ID_HEX_DIGITS = 20
LONGEST_SHIFT_DAYS = 3653
CBIS_ID = re.compile(r"^(?:Mass|Calc)-(?:Training|Test)_(P_\d+)_(?:LEFT|RIGHT)_(?:CC|MLO)(?:_\d+)?$")


@dataclass(frozen=True)
class Pseudonyms:
    """Makes ids and day shifts from one salt."""

    salt: bytes

    @classmethod
    def of_site(cls) -> Pseudonyms:
        """The salt of the environment, else the one kept in the configuration folder (made on first use).

        Raises:
            UsageError: the salt is shorter than 8 characters or its file cannot be read or made.
        """
        given = os.environ.get(SALT_VARIABLE)
        if given is not None:
            if len(given) < 8:
                raise UsageError(SALT_VARIABLE, "the salt is too short", "give at least 8 characters")
            return cls(given.encode())
        return cls(_kept_salt(salt_path()))

    def id_of(self, kind: str, identifier: str) -> str:
        """The id of an image, exam or patient: one letter of its kind and 20 hexadecimal digits."""
        text = f"{kind}\0{identifier.strip()}".encode()
        return kind[0] + hmac.new(self.salt, text, hashlib.sha256).hexdigest()[:ID_HEX_DIGITS]

    def image_id(self, sop_instance_uid: str) -> str:
        return self.id_of("image", sop_instance_uid)

    def exam_id(self, study_instance_uid: str) -> str:
        return self.id_of("exam", study_instance_uid)

    def patient_id(self, patient_id: str, issuer: str = "") -> str:
        return self.id_of("patient", f"{issuer.strip()}\0{patient_id.strip()}")

    def shifted_day(self, date: str, patient_key: str) -> int | None:
        """Day number of a DICOM date (YYYYMMDD), shifted by the patient's secret offset; None if unusable."""
        try:
            day = dt.datetime.strptime(date.strip(), "%Y%m%d").date().toordinal()
        except ValueError:
            return None
        digest = hmac.new(self.salt, f"shift\0{patient_key}".encode(), hashlib.sha256).digest()
        return day - dt.date(1970, 1, 1).toordinal() - int.from_bytes(digest[:8], "big") % LONGEST_SHIFT_DAYS


def cbis_patient(patient_id: str) -> str | None:
    """The true patient of a CBIS-DDSM PatientID, which names split, side and view too; else None.

    'Mass-Test_P_00173_LEFT_CC' is one film of patient 'P_00173': taken as it stands it would make four
    patients of one exam, and let her leak over a split.
    """
    match = CBIS_ID.match(patient_id.strip())
    return match.group(1) if match else None


def salt_path() -> Path:
    """Where the salt of this user is kept."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "atlas-path" / "id_salt"


def _kept_salt(path: Path) -> bytes:
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_once(path, secrets.token_hex(32))
        return _read_salt(path)
    except OSError as error:
        raise UsageError(
            "the salt of the pseudonyms", f"cannot be kept ({error.strerror})", f"set {SALT_VARIABLE}"
        ) from None


def _write_once(path: Path, text: str) -> None:
    """Write a file that only the user may read, whole or not at all; the first of several writers wins."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()


def _read_salt(path: Path) -> bytes:
    salt = path.read_bytes().strip()
    if len(salt) < 8:
        raise UsageError("the salt of the pseudonyms", "is empty or too short", f"set {SALT_VARIABLE}")
    return salt
