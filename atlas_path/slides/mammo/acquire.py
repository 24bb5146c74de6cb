"""A mammogram file -> its pixels and all that may be said about it; sources are DICOM and film tables.

Everything in `Acquired.attributes` is a number, a hash or a word of a closed vocabulary: this is the
allow-list. No text of a header can pass through it.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from atlas_path.geometry import Mpp
from atlas_path.slides.mammo.codes import View, view_from_words, view_of
from atlas_path.slides.mammo.decode import check_syntax, integrity_of, stored_values, syntax_name
from atlas_path.slides.mammo.errors import RefusedMammogramError, UnreadableMammogramError
from atlas_path.slides.mammo.frames import Frames, PixelLayout, layout_of
from atlas_path.slides.mammo.header import Header, numbers_of, read_header, subject_of
from atlas_path.slides.mammo.makers import maker_of, model_of
from atlas_path.slides.mammo.routing import route
from atlas_path.slides.mammo.spacing import Spacing, spacing_of
from atlas_path.slides.mammo.table import FilmRow
from atlas_path.slides.mammo.voi import rescale_of, voi_items
from atlas_path.slides.mammo_options import MammoOptions

HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Acquired:
    """Pixels (height, width, channels) uint16 in which tissue is bright, and de-identified attributes.

    `padding` marks pixels that hold no measurement, None when there are none.
    """

    subject: str
    pixels: np.ndarray
    padding: np.ndarray | None
    mpp: Mpp | None
    mpp_source: str | None
    attributes: dict[str, Any]
    flags: list[str] = field(default_factory=list)


def header_facts(
    header: Header, options: MammoOptions, row: FilmRow | None
) -> tuple[dict[str, Any], Spacing, list[str]]:
    """What the header alone says: attributes, spacing and flags.

    Raises:
        RefusedMammogramError: a rule keeps the image out.
        UnreadableMammogramError: the header makes no sense.
    """
    kind = route(header, options)
    layout = layout_of(header)
    spacing = spacing_of(header.dataset)
    view = _with_table(view_of(header.dataset), row)
    require_view(header.subject, view, options)
    photometric = (row.photometric if row else None) or header.text("PhotometricInterpretation")
    flags = _flags(header, view, spacing, photometric)
    slope, intercept = rescale_of(header.dataset)
    attributes: dict[str, Any] = {
        "image_kind": kind.image_kind,
        "image_kind_evidence": kind.evidence,
        "intent": kind.intent,
        **_view_attributes(view),
        "manufacturer": maker_of(
            header.text("Manufacturer") or header.text("SecondaryCaptureDeviceManufacturer")
        ),
        "model": model_of(header.text("ManufacturerModelName")),
        "implant": {"YES": True, "NO": False}.get(header.text("BreastImplantPresent")),
        "photometric": photometric if photometric == "MONOCHROME1" else "MONOCHROME2",
        "bits_stored": layout.bits_stored,
        "signed": layout.signed,
        "rescale_slope": slope,
        "rescale_intercept": intercept,
        "voi": voi_items(header.dataset),
        "magnification": spacing.magnification,
        "n_frames": layout.n_frames,
        "transfer_syntax": syntax_name(header.transfer_syntax),
        "integrity": integrity_of(header.transfer_syntax),
    }
    return attributes, spacing, flags


def acquire_dicom(path: Path, options: MammoOptions, row: FilmRow | None) -> Acquired:
    """Read a DICOM mammogram."""
    header = read_header(path)
    attributes, spacing, flags = header_facts(header, options, row)
    layout = layout_of(header)
    try:
        with path.open("rb") as file:
            frames = Frames(file, header, layout)
            check_syntax(frames)
            stored = _all_frames(frames, attributes["image_kind"], options)
    except OSError as error:
        if isinstance(error, UnreadableMammogramError):
            raise
        raise UnreadableMammogramError(
            header.subject, "cannot be read from its disk", "check the file"
        ) from None
    padding = _padding(header, stored, layout)
    if attributes["photometric"] == "MONOCHROME1":
        stored = _inverted(stored, layout.bits_stored)
    attributes["tomosynthesis"] = options.dbt if attributes["image_kind"] == "tomosynthesis" else None
    attributes["source_sha256"] = _sha256_of(path)
    mpp, source = (row.mpp, "table") if row and row.mpp else (spacing.mpp, spacing.source)
    return Acquired(header.subject, stored, padding, mpp, source, attributes, flags)


def acquire_film(path: Path, options: MammoOptions, row: FilmRow) -> Acquired:
    """Read a PNG, TIFF or PGM that a table describes.

    Raises:
        UnreadableMammogramError: it cannot be decoded.
        RefusedMammogramError: it is a colour image, or the table does not say view and side.
    """
    subject = subject_of(path)
    view = view_from_words(row.view, row.laterality)
    require_view(subject, view, options)
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UnreadableMammogramError(
            subject, "cannot be decoded (empty, cut or not an image)", "copy it again"
        )
    if image.ndim == 3:
        if not all(np.array_equal(image[..., 0], image[..., c]) for c in range(1, min(3, image.shape[2]))):
            raise RefusedMammogramError(subject, "is a colour image", "give a grey image", "not_greyscale")
        image = image[..., 0]
    if image.dtype not in (np.uint8, np.uint16):
        raise RefusedMammogramError(
            subject, f"has {image.dtype} pixels", "save it with 8 or 16 bits", "pixel_type"
        )
    bits = row.bits or 8 * image.dtype.itemsize
    stored = np.minimum(image.astype(np.uint16), (1 << bits) - 1)[..., None]
    photometric = row.photometric or "MONOCHROME2"
    if photometric == "MONOCHROME1":
        stored = _inverted(stored, bits)
    attributes: dict[str, Any] = {
        "image_kind": "film", "image_kind_evidence": "table", "intent": "unknown", **_view_attributes(view),
        "manufacturer": None, "model": None, "implant": None, "photometric": photometric, "bits_stored": bits,
        "signed": False, "rescale_slope": 1.0, "rescale_intercept": 0.0, "voi": [], "magnification": None,
        "n_frames": 1, "transfer_syntax": f"file {path.suffix.lower()}", "integrity": "decoder",
        "tomosynthesis": None, "source_sha256": _sha256_of(path),
    }  # fmt: skip
    flags = [] if int(image.max()) < (1 << bits) else ["values_above_bits"]
    return Acquired(subject, stored, None, row.mpp, "table" if row.mpp else None, attributes, flags)


def require_view(subject: str, view: View, options: MammoOptions) -> None:
    """Refuse an image whose side or view nothing says, unless the site accepts such images."""
    if options.unknown_view == "accept":
        return
    remedy = "add a row to mammograms.csv, or accept it with unknown_view: accept"
    if view.laterality == "B":
        raise RefusedMammogramError(subject, "shows both breasts by its laterality", remedy, "both_sides")
    if view.laterality is None:
        raise RefusedMammogramError(subject, "does not say which breast it shows", remedy, "no_laterality")
    if view.view is None:
        raise RefusedMammogramError(subject, "does not say its view", remedy, "no_view")


def _view_attributes(view: View) -> dict[str, Any]:
    return {
        "view": view.view, "view_source": view.view_source, "laterality": view.laterality,
        "laterality_source": view.laterality_source, "modifiers": list(view.modifiers),
    }  # fmt: skip


def _with_table(view: View, row: FilmRow | None) -> View:
    if row is None:
        return view
    given = view_from_words(row.view, row.laterality)
    return View(
        given.view or view.view, given.view_source or view.view_source,
        given.laterality or view.laterality, given.laterality_source or view.laterality_source,
        view.modifiers,
    )  # fmt: skip


def _flags(header: Header, view: View, spacing: Spacing, photometric: str) -> list[str]:
    shape = header.text("PresentationLUTShape")
    inverse = {"INVERSE": True, "IDENTITY": False}.get(shape)
    found = {
        "spot_view": "spot" in view.modifiers,
        "magnified": spacing.is_magnified or "magnification" in view.modifiers,
        "diagnostic_view": view.is_diagnostic or spacing.is_magnified,
        "implant": header.text("BreastImplantPresent") == "YES",
        "implant_displaced": "implant_displaced" in view.modifiers,
        "partial_view": header.text("PartialView") == "YES",
        "burned_in_annotation": header.text("BurnedInAnnotation") == "YES",
        "lossy": header.text("LossyImageCompression") == "01",
        "photometric_disagrees": inverse is not None and inverse != (photometric == "MONOCHROME1"),
        "photometric_unconfirmed": inverse is None and photometric == "MONOCHROME1",
        "photometric_unknown": photometric not in ("MONOCHROME1", "MONOCHROME2"),
        "flipped_by_header": header.text("FieldOfViewHorizontalFlip") == "YES",
        "no_spacing": spacing.mpp is None,
    }
    return [name for name, holds in found.items() if holds]


def _all_frames(frames: Frames, image_kind: str, options: MammoOptions) -> np.ndarray:
    layout = frames.layout
    if image_kind != "tomosynthesis":
        return stored_values(frames, 0)[..., None]
    if options.dbt == "mip":
        highest = stored_values(frames, 0)
        for index in range(1, layout.n_frames):
            np.maximum(highest, stored_values(frames, index), out=highest)
        return highest[..., None]
    with tempfile.NamedTemporaryFile(prefix="atlas-path-slices-") as spool:  # the map outlives the name
        stack: np.ndarray = np.memmap(
            spool, np.uint16, "w+", shape=(layout.rows, layout.cols, layout.n_frames)
        )
        for index in range(layout.n_frames):
            stack[..., index] = stored_values(frames, index)
    return stack


def _padding(header: Header, stored: np.ndarray, layout: PixelLayout) -> np.ndarray | None:
    """Pixels with the declared padding value, or in its range; None when nothing is declared or found."""
    value = numbers_of(header.dataset, "PixelPaddingValue")
    if not value:
        return None
    limit = numbers_of(header.dataset, "PixelPaddingRangeLimit") or value
    low, high = sorted((int(value[0]), int(limit[0])))
    if layout.signed:
        half = 1 << (layout.bits_stored - 1)
        low, high = low + half, high + half
    padding: np.ndarray = np.all((stored >= low) & (stored <= high), axis=2)
    return padding if padding.any() else None


def _inverted(stored: np.ndarray, bits: int) -> np.ndarray:
    """MONOCHROME1 -> tissue bright, with the fixed range of the bits stored (never the image's maximum)."""
    top = np.uint16((1 << bits) - 1)
    np.subtract(top, stored, out=stored)
    return stored


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
