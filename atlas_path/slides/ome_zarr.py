"""OME-Zarr 0.4 (zarr v2) and 0.5 (zarr v3) images as input (NGFF specification, ngff.openmicroscopy.org)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from atlas_path.errors import SlideError, UnreadableSlideError, UnsupportedSlideError
from atlas_path.geometry import Mpp
from atlas_path.slides.base import SlideReader, plausible_mpp, pyramid
from atlas_path.slides.tiff_metadata import um_per_unit

_RGB_COLOURS = ("FF0000", "00FF00", "0000FF")


class OmeZarrSlide(SlideReader):
    """The first image of an OME-Zarr folder. Of several focal planes the middle one is read.

    A chunk that is absent reads as the array's fill value, as the format defines.

    Raises:
        UnreadableSlideError: no zarr group, broken metadata, or an atlas-path store that is not complete.
        UnsupportedSlideError: no multiscale image, a plate, or a time series.
    """

    reader = "ome_zarr"
    reader_version = f"zarr {zarr.__version__}"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.vendor = "ome-zarr"
        try:
            self._lay_out()
        except SlideError:
            raise
        except Exception as error:  # metadata of any shape can be missing or wrong
            raise UnreadableSlideError(
                path,
                f"its OME-Zarr metadata is broken ({type(error).__name__}: {error})".replace("\n", " "),
                "check it with an OME-NGFF validator",
            ) from error

    def tile_px(self, level: int) -> tuple[int, int] | None:
        chunks = self._arrays[level].chunks
        return int(chunks[self._axes.index("y")]), int(chunks[self._axes.index("x")])

    def close(self) -> None:
        self._arrays: list[Any] = []

    def _read(self, level: int, y_px: int, x_px: int, height_px: int, width_px: int) -> np.ndarray:
        array = self._arrays[level]
        where = {
            "y": slice(y_px, y_px + height_px),
            "x": slice(x_px, x_px + width_px),
            "c": slice(None),
            "t": 0,
            "z": array.shape[self._axes.index("z")] // 2 if "z" in self._axes else 0,
        }
        try:
            pixels = np.asarray(array[tuple(where[axis] for axis in self._axes)])
        except Exception as error:  # each codec raises its own kinds
            raise UnreadableSlideError(
                self.path,
                f"level {level} does not decode at y={y_px} x={x_px} ({type(error).__name__})",
                "copy the folder again",
            ) from error
        left = [axis for axis in self._axes if axis in "cyx"]
        if "c" not in left:
            return pixels.transpose(left.index("y"), left.index("x"))[..., None].copy()
        return np.ascontiguousarray(pixels.transpose(left.index("y"), left.index("x"), left.index("c")))

    def _lay_out(self) -> None:
        try:
            group = zarr.open_group(self.path, mode="r")
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise UnreadableSlideError(
                self.path, "is not a zarr group", "give an OME-Zarr image folder"
            ) from error
        if "atlas_path" in group.attrs and not (self.path / "complete.json").is_file():
            raise UnreadableSlideError(
                self.path,
                "is an atlas-path store that was never finished",
                "run preprocess on its slide again",
            )
        attributes = _ome(group)
        if "multiscales" not in attributes and "0" in group and "bioformats2raw.layout" in attributes:
            group = group["0"]
            attributes = _ome(group)
        if "multiscales" not in attributes:
            raise UnsupportedSlideError(
                self.path, "holds no multiscale image", "give the folder of a single image"
            )
        multiscale = attributes["multiscales"][0]
        self._axes = _axes(multiscale)
        if not {"y", "x"} <= set(self._axes) <= set("tczyx"):
            raise UnsupportedSlideError(self.path, f"has axes {','.join(self._axes)}", "export it as c,y,x")
        self._arrays = [group[dataset["path"]] for dataset in multiscale["datasets"]]
        sizes = dict(zip(self._axes, self._arrays[0].shape, strict=True))
        if sizes.get("t", 1) > 1:
            raise UnsupportedSlideError(
                self.path, f"is a time series of {sizes['t']}", "export a single time point"
            )
        if sizes.get("z", 1) > 1:
            self.notes = (f"plane {sizes['z'] // 2 + 1} of {sizes['z']} along axis Z is read",)
        y, x = self._axes.index("y"), self._axes.index("x")
        self.levels = pyramid(
            [(int(array.shape[y]), int(array.shape[x])) for array in self._arrays], self.path
        )
        self.dtype = np.dtype(self._arrays[0].dtype)
        self.mpp = _mpp(multiscale, self._axes)
        self.mpp_source = "ome" if self.mpp else None
        self._name_channels(attributes.get("omero", {}), int(sizes.get("c", 1)))
        compressors = getattr(self._arrays[0], "compressors", ())
        self.compression = (
            type(compressors[0]).__name__.removesuffix("Codec").lower() if compressors else None
        )

    def _name_channels(self, omero: Mapping[str, Any], n_channels: int) -> None:
        channels = [channel for channel in omero.get("channels", []) if isinstance(channel, Mapping)]
        labels = [str(channel.get("label") or "") for channel in channels]
        colours = tuple(str(channel.get("color", "")).upper() for channel in channels)
        lettered = [label.strip().lower()[:1] for label in labels] == ["r", "g", "b"]
        unnamed = all(label.strip().isdigit() or not label.strip() for label in labels)
        if n_channels == 3 and (
            lettered or (unnamed and (colours == _RGB_COLOURS or self.dtype == np.uint8))
        ):
            return  # what SlideReader starts as: rgb
        self.kind = "mono" if n_channels == 1 else "multichannel"
        self.n_channels = n_channels
        full = len(labels) == n_channels and all(labels)
        self.channel_names = tuple(labels) if full else tuple(f"channel {i}" for i in range(n_channels))


def _ome(group: Any) -> Mapping[str, Any]:
    """The OME attributes: under 'ome' since 0.5, at the top before."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return inner if isinstance(inner, Mapping) else attributes


def _axes(multiscale: Mapping[str, Any]) -> list[str]:
    """Axis names; plain strings in 0.3, objects since 0.4."""
    return [axis if isinstance(axis, str) else str(axis["name"]) for axis in multiscale["axes"]]


def _mpp(multiscale: Mapping[str, Any], axes: list[str]) -> Mpp | None:
    """Product of the scales of the finest level and of the whole image, in the units of the axes."""
    units = {axis["name"]: axis.get("unit") for axis in multiscale["axes"] if isinstance(axis, Mapping)}
    scale = np.ones(len(axes))
    for owner in (multiscale["datasets"][0], multiscale):
        for transformation in owner.get("coordinateTransformations") or []:
            if transformation.get("type") == "scale":
                scale = scale * np.asarray(transformation["scale"], float)
    sizes = []
    for axis in "yx":
        factor = um_per_unit(units.get(axis))
        sizes.append(float(scale[axes.index(axis)]) * factor if factor else None)
    return plausible_mpp(*sizes)
