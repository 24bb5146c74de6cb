"""DICOM whole-slide images (PS3.3 A.32.8): OpenSlide where it can, else read here.

OpenSlide takes 8-bit colour in JPEG, JPEG 2000 or uncompressed frames. This reader takes what is left: one
channel or several optical paths (fluorescence), 16 bit, and the other transfer syntaxes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from atlas_path.errors import SlideError, UnreadableSlideError, UnsupportedSlideError
from atlas_path.slides.base import SlideReader, plausible_mpp, pyramid
from atlas_path.slides.dicom_files import series_files
from atlas_path.slides.dicom_frames import SYNTAX_NAMES, FrameDecoder, frame_spans
from atlas_path.slides.jpeg_tiles import JpegTiles
from atlas_path.slides.openslide_reader import OpenSlideSlide
from atlas_path.slides.tiff_pages import SharedFile
from atlas_path.slides.tiling import TileCache, fill_from_tiles

Spans = list[tuple[int, int]]


def open_dicom(path: Path) -> SlideReader:
    """Open a DICOM whole-slide instance and the other levels of its series.

    Raises:
        UnreadableSlideError: damaged or cut off.
        UnsupportedSlideError: pixels of a kind that would be shown wrongly.
    """
    try:
        slide = OpenSlideSlide(path)
    except SlideError as refusal:
        try:
            fallback = DicomSlide(path)
        except UnreadableSlideError:
            raise refusal from None
        fallback.notes = (*fallback.notes, "read with pydicom: OpenSlide does not open this kind of DICOM")
        return fallback
    slide.mpp_source = "dicom" if slide.mpp else None
    _lend_raw_tiles(path, slide)
    return slide


def _lend_raw_tiles(path: Path, slide: OpenSlideSlide) -> None:
    """The compressed frames of each level that are baseline JPEG, for an OpenSlide slide."""
    try:
        with DicomSlide(path) as underneath:
            slide.compression = underneath.compression
            for number, level in enumerate(slide.levels):
                size = (level.height_px, level.width_px)
                for other, same in enumerate(underneath.levels):
                    tiles = underneath.jpeg_tiles(other) if (same.height_px, same.width_px) == size else None
                    if tiles is not None:
                        slide.use_raw_tiles(number, tiles)
    except SlideError:
        slide.notes = (*slide.notes, "its frames are read through OpenSlide only")


@dataclass
class _Plane:
    """The frames of one channel of one level: (file, pieces of the frame) by tile."""

    decoder: FrameDecoder
    tiles: dict[tuple[int, int], tuple[SharedFile, Spans]]


class DicomSlide(SlideReader):
    """A whole-slide series read with pydicom and the codecs of imagecodecs."""

    reader = "dicom"
    reader_version = f"pydicom {pydicom.__version__}"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.vendor = "dicom"
        self._files: list[SharedFile] = []
        self._cache = TileCache()
        try:
            self._lay_out()
        except SlideError:
            raise
        except Exception as error:  # a damaged header breaks the parser anywhere
            raise UnreadableSlideError(
                path, f"its DICOM header is damaged ({type(error).__name__})", "export it again"
            ) from error

    def tile_px(self, level: int) -> tuple[int, int] | None:
        decoder = next(iter(self._levels[level].values())).decoder
        return decoder.rows, decoder.columns

    def jpeg_tiles(self, level: int) -> JpegTiles | None:
        planes = list(self._levels[level].values())
        files = {file for plane in planes for file, _ in plane.tiles.values()}
        colour = planes[0].decoder.jpeg_colour
        if len(planes) != 1 or len(files) != 1 or colour is None:
            return None
        if any(len(spans) > 1 for _, spans in planes[0].tiles.values()):
            return None
        frame, tile = self.levels[level], planes[0].decoder
        rows, cols = -(-frame.height_px // tile.rows), -(-frame.width_px // tile.columns)
        where = np.zeros((2, rows, cols), np.int64)
        for (row, col), (_, spans) in planes[0].tiles.items():
            where[:, row, col] = spans[0] if spans else (1, 0)
        if any(not spans for _, spans in planes[0].tiles.values()):
            return None  # a missing frame must stay an error, not an absent tile
        (file,) = files
        return JpegTiles(
            file.path, frame.height_px, frame.width_px, tile.rows, tile.columns, where[0], where[1], colour
        )

    def close(self) -> None:
        self._cache.clear()
        for file in self._files:
            file.close()

    def _read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        region = np.full((height_px, width_px, self.n_channels), self.background, self.dtype)
        channel = 0
        for name, plane in self._levels[level].items():
            samples = plane.decoder.samples
            fill_from_tiles(
                region[..., channel : channel + samples],
                y_px,
                x_px,
                plane.decoder.rows,
                plane.decoder.columns,
                lambda row, col, name=name, plane=plane: self._cache.get(  # type: ignore[misc]
                    (level, name, row, col), lambda: self._frame(plane, row, col)
                ),
            )
            channel += samples
        return region

    def _frame(self, plane: _Plane, row: int, col: int) -> np.ndarray | None:
        found = plane.tiles.get((row, col))
        if found is None:
            return None
        file, spans = found
        pieces = [file.pread(size, at) for at, size in spans]
        try:
            if not pieces or any(len(piece) != size for piece, (_, size) in zip(pieces, spans, strict=True)):
                raise ValueError("cut off")
            return plane.decoder.decode(b"".join(pieces))
        except Exception as error:  # each codec raises its own kinds
            raise UnreadableSlideError(
                self.path, f"frame (row {row}, column {col}) does not decode ({error})", "export it again"
            ) from error

    def _lay_out(self) -> None:
        instances = [(file, *_header(file)) for file in series_files(self.path)]
        volumes = [one for one in instances if _flavour(one[1]) == "VOLUME"]
        if not volumes:
            raise UnsupportedSlideError(
                self.path, "holds no slide image, only its label or overview", "give another file"
            )
        sizes = sorted({_size(one[1]) for one in volumes}, reverse=True)
        self._levels: list[dict[str, _Plane]] = [{} for _ in sizes]
        for file, dataset, pixels_at in volumes:
            self._add(self._levels[sizes.index(_size(dataset))], file, dataset, pixels_at)
        first = next(one[1] for one in volumes if _size(one[1]) == sizes[0])
        names = list(self._levels[0])
        self._levels = [level for level in self._levels if list(level) == names]
        self.levels = pyramid([size for size, _ in zip(sizes, self._levels, strict=False)], self.path)
        decoder = self._levels[0][names[0]].decoder
        self.dtype, self.compression = decoder.dtype, SYNTAX_NAMES[decoder.syntax]
        self.mpp = _spacing_mpp(first)
        self.mpp_source = "dicom" if self.mpp else None
        stored = sum(plane.decoder.samples for plane in self._levels[0].values())
        if stored != 3 or decoder.samples != 3:
            self.kind, self.n_channels = ("mono" if stored == 1 else "multichannel"), stored
            self.channel_names = tuple(_path_names(first, names, stored))
        profile = first.get("OpticalPathSequence", [{}])[0].get("ICCProfile")
        self.icc_profile = bytes(profile) if profile and self.kind == "rgb" else None

    def _add(self, level: dict[str, _Plane], path: Path, dataset: Any, pixels_at: int) -> None:
        """Put the frames of one instance where they belong."""
        decoder = FrameDecoder(self.path, dataset)
        file = SharedFile(path)
        self._files.append(file)
        positions = _positions(dataset, self.path)
        spans = frame_spans(path, dataset, pixels_at, len(positions))
        for (optical_path, row, col), pieces in zip(positions, spans, strict=True):
            plane = level.setdefault(optical_path, _Plane(decoder, {}))
            plane.tiles[row, col] = (file, pieces)


def _header(path: Path) -> tuple[Any, int]:
    """(dataset without pixels, byte at which PixelData starts)."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
            return dataset, file.tell()
    except Exception as error:  # a damaged header breaks the parser anywhere
        raise UnreadableSlideError(
            path, f"its DICOM header is damaged ({type(error).__name__})", "export it again"
        ) from error


def _flavour(dataset: Any) -> str:
    kinds = list(dataset.get("ImageType", []))
    return str(kinds[2]) if len(kinds) > 2 else "VOLUME"


def _size(dataset: Any) -> tuple[int, int]:
    return int(dataset.TotalPixelMatrixRows), int(dataset.TotalPixelMatrixColumns)


def _positions(dataset: Any, path: Path) -> list[tuple[str, int, int]]:
    """(optical path, tile row, tile column) of every frame, in the order of the frames (PS3.3 C.7.6.17)."""
    height, width = _size(dataset)
    rows, cols = -(-height // int(dataset.Rows)), -(-width // int(dataset.Columns))
    paths = [
        str(item.get("OpticalPathIdentifier", i))
        for i, item in enumerate(dataset.get("OpticalPathSequence", []))
    ]
    paths = paths or ["1"]
    planes = int(dataset.get("TotalPixelMatrixFocalPlanes", 1))
    if planes > 1:
        raise UnsupportedSlideError(path, f"has {planes} focal planes", "export a single plane")
    n_frames, first = (
        int(dataset.get("NumberOfFrames", 1)),
        int(dataset.get("ConcatenationFrameOffsetNumber", 0)),
    )
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        order = [(name, row, col) for name in paths for row in range(rows) for col in range(cols)]
        return order[first : first + n_frames]
    positions = []
    for group in dataset.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSlideSequence[0]
        named = group.get("OpticalPathIdentificationSequence")
        name = str(named[0].OpticalPathIdentifier) if named else paths[0]
        y, x = (
            int(place.RowPositionInTotalImagePixelMatrix) - 1,
            int(place.ColumnPositionInTotalImagePixelMatrix) - 1,
        )
        if y % int(dataset.Rows) or x % int(dataset.Columns):
            raise UnsupportedSlideError(path, "its tiles do not lie on a grid", "export it with full tiling")
        positions.append((name, y // int(dataset.Rows), x // int(dataset.Columns)))
    return positions


def _spacing_mpp(dataset: Any) -> Any:
    """PixelSpacing is (between rows, between columns) in millimetres."""
    try:
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        return plausible_mpp(float(measures.PixelSpacing[0]) * 1000, float(measures.PixelSpacing[1]) * 1000)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _path_names(dataset: Any, identifiers: list[str], n_channels: int) -> list[str]:
    """Descriptions of the optical paths, where each has one and gives one channel."""
    described = {
        str(item.get("OpticalPathIdentifier", "")): str(item.get("OpticalPathDescription", ""))
        for item in dataset.get("OpticalPathSequence", [])
    }
    names = [described.get(identifier, "") for identifier in identifiers]
    return names if len(names) == n_channels and all(names) else [f"channel {i}" for i in range(n_channels)]
