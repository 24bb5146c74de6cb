"""What every reader gives: one `Slide`, whatever the format.

A slide is a pyramid of levels, level 0 the finest. All coordinates are (y, x) in the pixels of the level that
is read, in the full frame of the file (an OpenSlide `bounds` rectangle is reported, never subtracted).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np

from atlas_path.errors import UnreadableSlideError
from atlas_path.geometry import Mpp
from atlas_path.slides.jpeg_tiles import JpegTiles

Kind = Literal["rgb", "mono", "multichannel"]

PLAUSIBLE_MPP = (0.01, 200.0)  # outside it a file's resolution is not that of a microscope or macro scan


@dataclass(frozen=True)
class Level:
    """One level of the pyramid; `downsample_*` is its pixel size in pixels of level 0."""

    height_px: int
    width_px: int
    downsample_y: float
    downsample_x: float


@dataclass(frozen=True)
class SlideSource:
    """One input image: where it lies and the id that names its store, rows and pictures.

    The name of a `private` file (a mammogram's) may be an identifier and is written nowhere.
    """

    path: Path
    image_id: str
    private: bool = False


@runtime_checkable
class Slide(Protocol):
    """An open slide. Use as a context manager; open it in the process that reads it (it is not picklable).

    `read_region` and the `JpegTiles` may be called from several threads at once.
    """

    @property
    def path(self) -> Path:
        """The file (or the folder of an OME-Zarr or DICOM slide) that was opened."""

    @property
    def reader(self) -> str:
        """Name of the reader: 'openslide', 'tiff', 'dicom', 'ome_zarr' or 'flat'."""

    @property
    def reader_version(self) -> str:
        """Version of the library that decodes."""

    @property
    def vendor(self) -> str | None:
        """Maker of the scanner or name of the format, e.g. 'aperio', 'ome-tiff'."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, finest first; never empty."""

    @property
    def mpp(self) -> Mpp | None:
        """Micrometres per pixel of level 0; None when neither the file nor the caller says it."""

    @property
    def mpp_source(self) -> str | None:
        """Where `mpp` comes from: 'given', 'openslide.mpp-x', 'tiff resolution', 'ome', 'dicom', ..."""

    @property
    def n_channels(self) -> int:
        """Channels of `read_region`: 3 for 'rgb', 1 for 'mono'."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels: the file's own (uint8 for nearly every 'rgb' slide, uint16 for some)."""

    @property
    def kind(self) -> Kind:
        """'rgb' (a colour image), 'mono' (one channel) or 'multichannel' (fluorescence)."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One name a channel."""

    @property
    def bounds_px(self) -> tuple[int, int, int, int] | None:
        """(y, x, height, width) of the scanned area in level 0, where the format tells it."""

    @property
    def icc_profile(self) -> bytes | None:
        """The embedded ICC profile of the pixels, unapplied."""

    @property
    def compression(self) -> str | None:
        """How the pixels of level 0 are coded, e.g. 'jpeg', 'jpeg2000', 'lzw', where it is known."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know: a focal plane that was chosen, a file that was routed elsewhere."""

    def read_region(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        """Pixels (height, width, channels) at (y, x) of `level`, in that level's pixels.

        Outside the slide, and where the format says that nothing was scanned, pixels are background: white
        for 'rgb', 0 otherwise.

        Raises:
            UnreadableSlideError: some of the pixels cannot be decoded. The next call works again.
        """

    def jpeg_tiles(self, level: int) -> JpegTiles | None:
        """Raw access to the level's JPEG tiles; None where it is stored in any other way."""

    def tile_px(self, level: int) -> tuple[int, int] | None:
        """(height, width) of the tiles or strips that the file stores; None where it stores none."""

    def close(self) -> None:
        """Release all handles; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class KeepsAttributes(Protocol):
    """A slide with facts of its own that its store should keep (mammograms: view, side, VOI items)."""

    def store_attributes(self) -> dict[str, Any]:
        """JSON values by an allow-list: numbers, hashes, words of closed vocabularies; never header text."""


@runtime_checkable
class KnowsItsTissue(Protocol):
    """A slide that finds its own tissue (mammograms: the breast); `find_tissue` is not asked then."""

    def tissue_mask(self, height_px: int, width_px: int) -> np.ndarray:
        """(height, width) bool over the whole of level 0, at the size asked for."""


class SlideReader(ABC):
    """What the readers share: the frame around `_read`, which sees only areas inside the level."""

    reader: str = ""
    reader_version: str = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vendor: str | None = None
        self.levels: tuple[Level, ...] = ()
        self.mpp: Mpp | None = None
        self.mpp_source: str | None = None
        self.n_channels = 3
        self.dtype: np.dtype = np.dtype(np.uint8)
        self.kind: Kind = "rgb"
        self.channel_names: tuple[str, ...] = ("red", "green", "blue")
        self.bounds_px: tuple[int, int, int, int] | None = None
        self.icc_profile: bytes | None = None
        self.compression: str | None = None
        self.notes: tuple[str, ...] = ()

    @property
    def background(self) -> int | float:
        """The value of pixels where nothing was scanned."""
        return background_of(self)

    def read_region(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        """See `Slide.read_region`."""
        if not 0 <= level < len(self.levels):
            raise IndexError(f"{self.path.name} has levels 0..{len(self.levels) - 1}, not {level}")
        if height_px < 0 or width_px < 0:
            raise ValueError(f"a region of {height_px} x {width_px} px does not exist")
        frame = self.levels[level]
        y0, x0 = max(y_px, 0), max(x_px, 0)
        y1, x1 = min(y_px + height_px, frame.height_px), min(x_px + width_px, frame.width_px)
        if (y0, x0, y1, x1) == (y_px, x_px, y_px + height_px, x_px + width_px) and y1 > y0 and x1 > x0:
            return self._read(level, y0, x0, y1 - y0, x1 - x0)
        region = np.full((height_px, width_px, self.n_channels), self.background, self.dtype)
        if y1 > y0 and x1 > x0:
            region[y0 - y_px : y1 - y_px, x0 - x_px : x1 - x_px] = self._read(level, y0, x0, y1 - y0, x1 - x0)
        return region

    @abstractmethod
    def _read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        """A new array (height, width, channels) of an area that lies wholly inside the level."""

    def jpeg_tiles(self, level: int) -> JpegTiles | None:  # noqa: ARG002 - readers with JPEG tiles override it
        """See `Slide.jpeg_tiles`."""
        return None

    def tile_px(self, level: int) -> tuple[int, int] | None:  # noqa: ARG002 - readers with tiles override it
        """See `Slide.tile_px`."""
        return None

    @abstractmethod
    def close(self) -> None:
        """See `Slide.close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def background_of(slide: Slide) -> int | float:
    """The value of pixels where nothing was scanned: white for colour, 0 otherwise."""
    if slide.kind != "rgb":
        return 0
    return int(np.iinfo(slide.dtype).max) if slide.dtype.kind in "ui" else 1.0


def pyramid(sizes_px: Sequence[tuple[int, int]], path: Path | None = None) -> tuple[Level, ...]:
    """Levels from their (height, width), finest first.

    Raises:
        UnreadableSlideError: a size is zero, or a level is larger than the first: the header is damaged.
    """
    height0, width0 = sizes_px[0]
    if any(not (0 < height <= height0 and 0 < width <= width0) for height, width in sizes_px):
        raise UnreadableSlideError(path or "image", "has levels of impossible sizes", "copy the file again")
    return tuple(
        Level(height, width, _downsample(height0, height), _downsample(width0, width))
        for height, width in sizes_px
    )


def _downsample(full_px: int, reduced_px: int) -> float:
    """How many pixels one reduced pixel covers: an integer when rounding of the size explains the rest."""
    ratio = full_px / reduced_px
    whole = round(ratio)
    if whole and reduced_px in (full_px // whole, -(-full_px // whole), round(full_px / whole)):
        return float(whole)
    return ratio


def plausible_mpp(mpp_y: float | None, mpp_x: float | None) -> Mpp | None:
    """Both values as `Mpp` when they can be true, else None (0, 72 dpi left by a converter, nonsense)."""
    if mpp_y is None or mpp_x is None:
        return None
    low, high = PLAUSIBLE_MPP
    return Mpp(mpp_y, mpp_x) if low <= mpp_y <= high and low <= mpp_x <= high else None
