"""One compressed frame -> stored values, by decoders that fail instead of crashing.

imagecodecs first, OpenJPEG (pylibjpeg-openjpeg) second for JPEG 2000, pydicom last for run lengths. GDCM is
never asked: a damaged JPEG 2000 header makes it abort the whole process. Several decoders fill a cut stream
silently (up to 45 % of the pixels wrong), so the end marker of the stream is looked for first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np

from atlas_path.slides.mammo.errors import RefusedMammogramError, UnreadableMammogramError
from atlas_path.slides.mammo.frames import Frames, PixelLayout

RLE = "1.2.840.10008.1.2.5"
JPEG = {
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless first order",
}
JPEG_LS = {"1.2.840.10008.1.2.4.80": "JPEG-LS lossless", "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless"}
JPEG_2000 = {
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "HTJ2K lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K lossless RPCL",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
}
JPEG_XL = {
    "1.2.840.10008.1.2.4.110": "JPEG XL lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL recompressed JPEG",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}
END_MARKER = b"\xff\xd9"
END_MARKER_WITHIN_BYTES = 64  # real files pad after the marker
DECODE_FAULTS = (
    RuntimeError,
    ValueError,
    TypeError,
    OSError,
    MemoryError,
    IndexError,
    NotImplementedError,
    KeyError,
)


def syntax_name(uid: str) -> str:
    """A transfer syntax for people and for attributes; 'unknown' is never the file's own text."""
    known = JPEG | JPEG_LS | JPEG_2000 | JPEG_XL | {RLE: "RLE lossless"}
    return known.get(
        uid, "uncompressed" if uid.startswith("1.2.840.10008.1.2") and uid.count(".") <= 6 else "unknown"
    )


def check_syntax(frames: Frames) -> None:
    """Refuse a transfer syntax that nothing here decodes.

    Raises:
        RefusedMammogramError: 'transfer_syntax', naming its UID when it is a UID at all.
    """
    uid = frames.header.transfer_syntax
    if frames.is_native or uid == RLE or uid in JPEG | JPEG_LS | JPEG_2000 | JPEG_XL:
        return
    shown = uid if uid.startswith("1.2.840.10008.1.2.") and len(uid) <= 32 else "of a private kind"
    raise RefusedMammogramError(
        frames.header.subject, f"has an unsupported transfer syntax ({shown})",
        "convert it to JPEG 2000 or uncompressed", "transfer_syntax",
    )  # fmt: skip


def integrity_of(uid: str) -> str:
    """What was checked: length for uncompressed pixels, end marker for JPEG, and what stays undetectable."""
    if uid == RLE:
        return "decoded length"
    if uid in JPEG_2000 | JPEG_XL:
        return "end marker; damage inside the stream cannot be detected"
    return "end marker" if uid in JPEG | JPEG_LS else "length"


def stored_values(frames: Frames, index: int) -> np.ndarray:
    """Stored values (rows, cols) of frame `index`, uint16; signed values are shifted up by half the range.

    Bits above `high_bit` (old overlays) and below the stored ones are removed.

    Raises:
        UnreadableMammogramError: 'truncated' or 'damaged'.
    """
    layout, raw = frames.layout, frames.raw(index)
    if frames.is_native:
        order = ">" if frames.big_endian else "<"
        words = np.frombuffer(raw, np.dtype(f"{order}u{layout.bits_allocated // 8}"))
        return _clean(words.reshape(layout.rows, layout.cols), layout)
    decoded = _decode(raw, frames)
    if decoded.shape != (layout.rows, layout.cols) or decoded.dtype.kind not in "ui":
        raise _damaged(frames, "decodes to another size than the header declares")
    return _clean(decoded, layout)


def _clean(words: np.ndarray, layout: PixelLayout) -> np.ndarray:
    values = words.astype(np.uint16)  # a copy; signed words keep their bits
    values >>= np.uint16(layout.high_bit + 1 - layout.bits_stored)
    values &= np.uint16((1 << layout.bits_stored) - 1)
    if layout.signed:  # two's complement -> offset binary: the order of grey values is kept
        values ^= np.uint16(1 << (layout.bits_stored - 1))
    return values


def _decode(raw: bytes, frames: Frames) -> np.ndarray:
    uid = frames.header.transfer_syntax
    if uid == RLE:
        return _first_that_works(
            frames, [lambda: _run_lengths(raw, frames.layout), lambda: _pydicom_rle(raw, frames)]
        )
    if uid not in JPEG_XL and END_MARKER not in raw[-END_MARKER_WITHIN_BYTES:]:
        raise UnreadableMammogramError(
            frames.header.subject, "its compressed stream has no end (cut or damaged)",
            "copy or export it again", "truncated",
        )  # fmt: skip
    if uid in JPEG_LS:
        return _first_that_works(frames, [lambda: imagecodecs.jpegls_decode(raw)])
    if uid in JPEG_2000:
        return _first_that_works(frames, [lambda: imagecodecs.jpeg2k_decode(raw), lambda: _openjpeg(raw)])
    if uid in JPEG_XL:
        return _first_that_works(frames, [lambda: imagecodecs.jpegxl_decode(raw)])
    return _first_that_works(frames, [
        lambda: imagecodecs.jpeg8_decode(raw), lambda: imagecodecs.ljpeg_decode(raw),
        lambda: imagecodecs.jpegsof3_decode(raw),
    ])  # fmt: skip


def _first_that_works(frames: Frames, decoders: list[Callable[[], Any]]) -> np.ndarray:
    shape = (frames.layout.rows, frames.layout.cols)
    for decode in decoders:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = np.squeeze(np.asarray(decode()))
        except DECODE_FAULTS:
            continue
        if image.shape == shape:
            return image
    raise _damaged(frames, "its compressed pixels cannot be decoded")


def _openjpeg(raw: bytes) -> np.ndarray:
    from openjpeg.utils import decode

    return np.asarray(decode(raw))


def _run_lengths(raw: bytes, layout: PixelLayout) -> np.ndarray:
    """DICOM RLE (PS3.5 annex G): one PackBits segment a byte plane, most significant first."""
    header = np.frombuffer(raw[:64], "<u4")
    n_planes = layout.bits_allocated // 8
    if len(header) != 16 or header[0] != n_planes:
        raise ValueError("wrong number of segments")
    ends = [*header[2 : 1 + n_planes], len(raw)]
    n_px = layout.rows * layout.cols
    value = np.zeros((n_px, 2), np.uint8)  # little-endian words
    for number, (start, end) in enumerate(zip(header[1 : 1 + n_planes], ends, strict=True)):
        plane = np.frombuffer(_unpack(raw[int(start) : int(end)], n_px), np.uint8)
        value[:, n_planes - 1 - number] = plane
    return value.view("<u2").reshape(layout.rows, layout.cols)


def _unpack(segment: bytes, n_px: int) -> bytes:
    out: Any = np.empty(n_px + 256, np.uint8)  # room for the literal that a padding byte starts
    plane = bytes(imagecodecs.packbits_decode(segment, out=out))
    if len(plane) < n_px:
        raise ValueError("segment too short")
    return plane[:n_px]


def _pydicom_rle(raw: bytes, frames: Frames) -> np.ndarray:
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import RLELossless

    layout = frames.layout
    array, _ = get_decoder(RLELossless).as_array(
        encapsulate([raw]), index=0, decoding_plugin="pydicom", raw=True, rows=layout.rows,
        columns=layout.cols, samples_per_pixel=1, photometric_interpretation="MONOCHROME2",
        bits_allocated=layout.bits_allocated,
        bits_stored=layout.bits_allocated, pixel_representation=0, number_of_frames=1,
        pixel_keyword="PixelData", transfer_syntax_uid=RLELossless,
    )  # fmt: skip
    return np.asarray(array)


def _damaged(frames: Frames, fault: str) -> UnreadableMammogramError:
    return UnreadableMammogramError(frames.header.subject, fault, "copy or export it again", "damaged")
