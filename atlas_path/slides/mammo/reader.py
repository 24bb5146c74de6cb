"""The mammogram as a `Slide`: one level of 16-bit grey values, breast bright, everything around it dark."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom

from atlas_path.geometry import Mpp
from atlas_path.slides.base import SlideReader, pyramid
from atlas_path.slides.mammo.acquire import Acquired, acquire_dicom, acquire_film
from atlas_path.slides.mammo.breast import Breast, find_breast
from atlas_path.slides.mammo.errors import UnreadableMammogramError
from atlas_path.slides.mammo.table import FILM_SUFFIXES, FilmRow, film_row
from atlas_path.slides.mammo_options import MammoOptions

ATTRIBUTES_VERSION = 1
RANGE_PERCENTILES = (0.1, 99.9)
FLAT_BLOCK_PX = 32
MOST_FLAT_BLOCKS = 0.01
CHEST_WALL_OF = {"L": "left", "R": "right"}


@dataclass(frozen=True)
class Loaded:
    """A decoded, masked and measured mammogram; shared between slides, so nobody may write to it."""

    subject: str
    pixels: np.ndarray
    mpp: Mpp | None
    mpp_source: str | None
    breast: Breast
    attributes: dict[str, Any]


class MammogramSlide(SlideReader):
    """An open mammogram; its pixels are decoded when it is opened, so a damaged file fails there.

    Raises (on opening):
        RefusedMammogramError: a rule keeps the image out.
        UnreadableMammogramError: not DICOM, cut, damaged or constant.
    """

    reader = "mammo"
    reader_version = f"pydicom {pydicom.__version__}, imagecodecs {imagecodecs.__version__}"

    def __init__(self, path: Path, mpp: Mpp | None = None, options: MammoOptions | None = None) -> None:
        super().__init__(path)
        loaded = load(path, options or MammoOptions())
        self.subject, self.breast = loaded.subject, loaded.breast
        self._pixels: np.ndarray | None = loaded.pixels
        self._attributes = loaded.attributes
        height, width, self.n_channels = loaded.pixels.shape
        self.levels = pyramid([(height, width)])
        self.dtype = np.dtype(np.uint16)
        self.kind = "mono" if self.n_channels == 1 else "multichannel"
        self.channel_names = (
            ("mammogram",)
            if self.n_channels == 1
            else tuple(f"slice {i + 1}" for i in range(self.n_channels))
        )
        self.vendor = loaded.attributes["manufacturer"]
        self.compression = loaded.attributes["transfer_syntax"]
        self.mpp, self.mpp_source = (mpp, "given") if mpp else (loaded.mpp, loaded.mpp_source)
        self.notes = tuple(loaded.attributes["flags"])

    def store_attributes(self) -> dict[str, Any]:
        """What a store may keep of the header: numbers, hashes and words of closed vocabularies only."""
        return {**self._attributes, "spacing_source": self.mpp_source}

    def tissue_mask(self, height_px: int, width_px: int) -> np.ndarray:
        """(height, width) bool at any size: the breast, in the place of tissue."""
        return self.breast.mask_at(height_px, width_px)

    def _read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:  # noqa: ARG002
        if self._pixels is None:
            raise UnreadableMammogramError(self.subject, "is closed", "open it again")
        return np.array(self._pixels[y_px : y_px + height_px, x_px : x_px + width_px])

    def close(self) -> None:
        self._pixels = None


def load(path: Path, options: MammoOptions) -> Loaded:
    """Decode, measure and mask; the last image of a process is kept, for stages open a file twice.

    Raises: see `MammogramSlide`.
    """
    row = film_row(path, options.films)
    try:
        status = path.stat()
    except OSError:
        return _load(path, 0, 0, options, row)  # raises what is wrong
    return _load(path.absolute(), status.st_mtime_ns, status.st_size, options, row)


@lru_cache(maxsize=1)
def _load(path: Path, _mtime_ns: int, _size: int, options: MammoOptions, row: FilmRow | None) -> Loaded:
    if row is not None and path.suffix.lower() in FILM_SUFFIXES:
        acquired = acquire_film(path, options, row)
    else:
        acquired = acquire_dicom(path, options, row)
    pixels = acquired.pixels
    height, width, n_channels = pixels.shape
    pixel_sha256 = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    projection = pixels[..., 0] if n_channels == 1 else np.max(pixels, axis=2)
    breast = find_breast(projection)
    if "flat" in breast.flags:
        raise UnreadableMammogramError(
            acquired.subject, "is one flat grey (nothing was exposed or decoded)", "export it again", "flat"
        )
    attributes = {
        "version": ATTRIBUTES_VERSION,
        **acquired.attributes,
        "pixel_sha256": pixel_sha256,
        **_measured(projection, acquired, breast),
        "outside_breast": options.outside_breast,
    }
    kept = ~acquired.padding if acquired.padding is not None else np.ones((height, width), bool)
    if options.outside_breast == "mask":
        kept &= breast.kept_at(height, width)
    pixels *= kept[..., None]
    return Loaded(acquired.subject, pixels, acquired.mpp, acquired.mpp_source, breast, attributes)


def _measured(projection: np.ndarray, acquired: Acquired, breast: Breast) -> dict[str, Any]:
    """What the pixels say: range in the breast, where it stands, and doubts about header and stream."""
    inside = breast.mask_at(*projection.shape)
    if acquired.padding is not None:
        inside &= ~acquired.padding
    expected = CHEST_WALL_OF.get(acquired.attributes["laterality"] or "")
    flags = [*acquired.flags, *breast.flags]
    if breast.chest_wall and expected and breast.chest_wall != expected:
        flags.append("side_flipped")
    if flat_block_share(projection, inside) > MOST_FLAT_BLOCKS:
        flags.append("flat_blocks")
    return {
        "breast_range": list(value_range(projection[inside])),
        "breast_share": round(breast.area_share, 4),
        "chest_wall": breast.chest_wall,
        "flags": sorted(set(flags)),
    }


def value_range(values: np.ndarray) -> tuple[int, int]:
    """The 0.1 and 99.9 percentiles of uint16 values, from their histogram; (0, 0) of none."""
    if not values.size:
        return 0, 0
    share = np.cumsum(np.bincount(values, minlength=1 << 16)) / values.size
    low, high = (int(np.searchsorted(share, percent / 100)) for percent in RANGE_PERCENTILES)
    return low, high


def flat_block_share(image: np.ndarray, inside: np.ndarray, block_px: int = FLAT_BLOCK_PX) -> float:
    """Share of blocks wholly inside the breast whose pixels are all equal.

    Tissue is never flat: flat blocks below saturation are what a decoder leaves where it lost the stream.
    """
    rows, cols = image.shape[0] // block_px, image.shape[1] // block_px
    if rows == 0 or cols == 0:
        return 0.0
    crop = np.s_[: rows * block_px, : cols * block_px]
    shape = (rows, block_px, cols, block_px)
    whole = inside[crop].reshape(shape).all(axis=(1, 3))
    blocks = image[crop].reshape(shape)
    flat = blocks.max(axis=(1, 3)) == blocks.min(axis=(1, 3))
    return float(flat[whole].mean()) if whole.any() else 0.0
