"""Minimal DICOM whole-slide series, OME-Zarr images and flat images."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import simplejpeg
import zarr
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from slidewriters import half

SM = "1.2.840.10008.5.1.4.1.1.77.1.6"
JPEG, EXPLICIT, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
J2K, JPEG_LS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"


def dicom_rgb(folder: Path, picture: np.ndarray, syntax: str = JPEG, levels: int = 2) -> Path:
    """A colour series of `levels` instances; returns the finest."""
    folder.mkdir(parents=True)
    for level in range(levels):
        image = half(picture, level)
        dataset = _instance(
            f"1.2.3.{level + 1}", image.shape[0], image.shape[1], 3, 8, 0.00025 * 2**level, level
        )
        frames = [_coded(frame, syntax) for frame in _frames(image)]
        _save(
            dataset, folder / f"level{level}.dcm", syntax, frames, "YBR_FULL_422" if syntax == JPEG else "RGB"
        )
    return folder / "level0.dcm"


def dicom_channels(
    folder: Path, channels: np.ndarray, syntax: str = EXPLICIT, missing: int | None = None
) -> Path:
    """A 16-bit series of one optical path a channel, tiles listed one by one; frame `missing` is left out."""
    folder.mkdir(parents=True)
    dataset = _instance("1.2.3.9", channels.shape[1], channels.shape[2], 1, 16, 0.0005, 0)
    dataset.OpticalPathSequence = Sequence([_optical_path(i, f"marker {i}") for i in range(len(channels))])
    dataset.DimensionOrganizationType = "TILED_SPARSE"
    frames, groups = [], []
    for number, plane in enumerate(channels):
        cols = -(-plane.shape[1] // 256)
        for index, frame in enumerate(_frames(plane[..., None])):
            if number == 0 and index == missing:
                continue
            place, identity, group = Dataset(), Dataset(), Dataset()
            place.RowPositionInTotalImagePixelMatrix = index // cols * 256 + 1
            place.ColumnPositionInTotalImagePixelMatrix = index % cols * 256 + 1
            identity.OpticalPathIdentifier = str(number)
            group.PlanePositionSlideSequence = Sequence([place])
            group.OpticalPathIdentificationSequence = Sequence([identity])
            groups.append(group)
            frames.append(_coded(frame, syntax))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    _save(dataset, folder / "slide.dcm", syntax, frames, "MONOCHROME2")
    return folder / "slide.dcm"


def _frames(image: np.ndarray) -> list[np.ndarray]:
    """256 px tiles in rows; those at the edges are padded by their last pixels."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % 256), (0, -width % 256), (0, 0)), mode="edge")
    rows, cols = padded.shape[0] // 256, padded.shape[1] // 256
    return [
        padded[r * 256 : r * 256 + 256, c * 256 : c * 256 + 256] for r in range(rows) for c in range(cols)
    ]


def _coded(frame: np.ndarray, syntax: str) -> bytes:
    frame = np.ascontiguousarray(frame)
    if syntax == JPEG:
        return simplejpeg.encode_jpeg(frame, 92, colorsubsampling="422")
    if syntax == J2K:
        return imagecodecs.jpeg2k_encode(frame.squeeze(), level=0, reversible=True, codecformat="J2K")
    if syntax == JPEG_LS:
        return imagecodecs.jpegls_encode(frame.squeeze())
    if syntax == RLE:
        return _run_lengths(frame)
    return frame.astype(frame.dtype.newbyteorder("<")).tobytes()


def _run_lengths(frame: np.ndarray) -> bytes:
    """DICOM RLE (PS3.5 annex G): a header of 16 numbers, then one PackBits segment a byte plane."""
    planes = frame.astype(frame.dtype.newbyteorder(">")).view(np.uint8).reshape(*frame.shape[:2], -1)
    segments = [
        b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in planes[..., i])
        for i in range(planes.shape[2])
    ]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    starts = 64 + np.cumsum([0, *map(len, segments)])[:-1]
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + len(segments)] = len(segments), starts
    return header.tobytes() + b"".join(segments)


def _instance(uid: str, height: int, width: int, samples: int, bits: int, mm: float, level: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SM, uid
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2", "1.2.4"
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = "SMITH^JOHN", "SMITH1", "SMITH2"
    dataset.Modality = "SM"
    dataset.ImageType = [
        "DERIVED" if level else "ORIGINAL",
        "PRIMARY",
        "VOLUME",
        "RESAMPLED" if level else "NONE",
    ]
    dataset.Rows = dataset.Columns = 256
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = height, width
    dataset.TotalPixelMatrixFocalPlanes = 1
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        samples,
        bits,
        bits,
        bits - 1,
    )
    dataset.PixelRepresentation = 0
    if samples == 3:
        dataset.PlanarConfiguration = 0
    dataset.DimensionOrganizationType = "TILED_FULL"
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mm, mm], 0.001
    shared.PixelMeasuresSequence = Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.OpticalPathSequence = Sequence([_optical_path(0, "brightfield")])
    return dataset


def _optical_path(number: int, name: str) -> Dataset:
    path = Dataset()
    path.OpticalPathIdentifier, path.OpticalPathDescription = str(number), name
    return path


def _save(dataset: Dataset, path: Path, syntax: str, frames: list[bytes], photometric: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SM, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    dataset.PhotometricInterpretation = photometric
    dataset.NumberOfFrames = len(frames)
    file = FileDataset(path, dataset, file_meta=meta, preamble=b"\0" * 128)
    file.PixelData = b"".join(frames) if syntax == EXPLICIT else encapsulate(frames)
    file["PixelData"].VR = "OB" if syntax != EXPLICIT or dataset.BitsAllocated == 8 else "OW"
    file.save_as(path, enforce_file_format=True)


def ome_zarr(folder: Path, image: np.ndarray, version: str, axes: str, **omero) -> Path:
    """An image (`axes` order) of two levels, 0.5 um; version '0.4' (zarr v2) or '0.5' (zarr v3)."""
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level in (0, 1):
        thin = tuple(slice(None, None, 2**level) if axis in "yx" else slice(None) for axis in axes)
        data = image[thin]
        chunks = tuple(min(256, n) if axis in "yx" else 1 for axis, n in zip(axes, data.shape, strict=True))
        group.create_array(str(level), data=np.ascontiguousarray(data), chunks=chunks)
        scale = [0.5 * 2**level if axis in "yx" else 1.0 for axis in axes]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    kinds = {"c": "channel", "t": "time"}
    described = [
        {"name": a, "type": kinds.get(a, "space"), **({"unit": "micrometer"} if a in "zyx" else {})}
        for a in axes
    ]
    attributes = {"multiscales": [{"version": version, "axes": described, "datasets": datasets}], **omero}
    group.attrs.update(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})
    return folder


def png(path: Path, picture: np.ndarray) -> Path:
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(picture)))
    return path


def jpeg(path: Path, picture: np.ndarray, gray: bool = False) -> Path:
    data = picture[..., :1] if gray else picture
    path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(data), 95, "GRAY" if gray else "RGB"))
    return path
