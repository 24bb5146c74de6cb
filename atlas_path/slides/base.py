"""What every reader gives: one `Slide`, whatever the format.

A slide is a pyramid of levels, level 0 the finest. All coordinates are (y, x) in the pixels of the level that
is read, in the full frame of the file (an OpenSlide `bounds` rectangle is reported, never subtracted).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np

from atlas_path.geometry import Mpp
from atlas_path.slides.jpeg_tiles import JpegTiles

Kind = Literal["rgb", "mono", "multichannel"]

RGB_BACKGROUND = 255


@dataclass(frozen=True)
class Level:
    """One level of the pyramid; `downsample_*` is its pixel size in pixels of level 0."""

    height_px: int
    width_px: int
    downsample_y: float
    downsample_x: float


@dataclass(frozen=True)
class SlideSource:
    """One input image: where it lies and the id that names its store, rows and pictures."""

    path: Path
    image_id: str


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
        """Maker of the scanner or format as the file says it, e.g. 'aperio'."""

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
        """Type of the pixels: uint8 for 'rgb'; the file's own type otherwise."""

    @property
    def kind(self) -> Kind:
        """'rgb' (bright field), 'mono' (one channel) or 'multichannel' (fluorescence)."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One name a channel."""

    @property
    def bounds_px(self) -> tuple[int, int, int, int] | None:
        """(y, x, height, width) of the scanned area in level 0, where the format tells it."""

    @property
    def icc_profile(self) -> bytes | None:
        """The embedded ICC profile of the pixels, unapplied."""

    def read_region(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        """Pixels (height, width, channels) at (y, x) of `level`, in that level's pixels.

        Outside the slide, and where the format says that nothing was scanned, pixels are background: white
        for 'rgb', 0 otherwise.

        Raises:
            UnreadableSlideError: some of the pixels cannot be decoded. The next call works again.
        """

    def jpeg_tiles(self, level: int) -> JpegTiles | None:
        """Raw access to the level's baseline JPEG tiles; None where it is stored in any other way."""

    def close(self) -> None:
        """Release all handles; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
