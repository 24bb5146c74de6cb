"""One line that names the file, the fault and the remedy; what OpenSlide would lose goes another way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import otherwriters as other
import pytest
import slidewriters as tiff
import tifffile
import vendorwriters as vendor
import zarr
from PIL import ImageCms

from atlas_path.errors import (
    MissingMppError,
    SlideError,
    UnreadableSlideError,
    UnsupportedSlideError,
    UsageError,
)
from atlas_path.slides import apply_icc_srgb, describe, open_slide, read_thumbnail, require_mpp

REAL = "data/wsi/CMU-1-Small-Region.svs"


def _bytes(name: str, content: bytes) -> Callable[[Path, np.ndarray], Path]:
    def write(folder: Path, _picture: np.ndarray) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _without_folder(folder: Path, picture: np.ndarray) -> Path:
    path = vendor.mrxs(folder / "a.mrxs", picture)
    (folder / "a").rename(folder / "b")
    return path


def _without_data(folder: Path, picture: np.ndarray) -> Path:
    path = vendor.mrxs(folder / "a.mrxs", picture)
    (folder / "a" / "Data0000.dat").unlink()
    return path


def _unfinished(folder: Path, picture: np.ndarray) -> Path:
    path = other.ome_zarr(folder / "a.ome.zarr", picture.transpose(2, 0, 1), "0.5", "cyx")
    zarr.open_group(path, mode="r+").attrs["atlas_path"] = {"schema": 1}
    return path


def _time_series(folder: Path, picture: np.ndarray) -> Path:
    stack = np.stack([picture[..., 0]] * 3)
    tifffile.imwrite(
        folder / "a.ome.tif", stack, metadata={"axes": "TYX"}, ome=True, photometric="minisblack"
    )
    return folder / "a.ome.tif"


def _cmyk(folder: Path, picture: np.ndarray) -> Path:
    four = np.dstack([picture, picture[..., :1]])
    tifffile.imwrite(folder / "a.tif", four, photometric="separated", metadata=None)
    return folder / "a.tif"


BAD = {
    "missing": (lambda d, p: d / "gone.svs", "does not exist", UnreadableSlideError),
    "empty": (_bytes("a.svs", b""), r"is empty \(0 bytes\)", UnreadableSlideError),
    "text": (_bytes("a.tif", b"not an image\n"), "known format .plain text", UnreadableSlideError),
    "zeros": (_bytes("a.svs", bytes(5000)), "only zero bytes", UnreadableSlideError),
    "noise": (_bytes("a.ndpi", bytes(range(256)) * 9), "unknown bytes", UnreadableSlideError),
    "header-only": (_bytes("a.tif", b"II*\0\x08\0\0\0"), "is cut off", UnreadableSlideError),
    "no-directory": (
        _bytes("a.tif", b"II*\0\0\0\0\0" + bytes(50)),
        "no TIFF directory",
        UnreadableSlideError,
    ),
    "circle": (_bytes("a.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), "run in a circle", UnreadableSlideError),
    "mrxs-alone": (_without_folder, "Slidedat.ini is missing", UnreadableSlideError),
    "mrxs-without-data": (_without_data, "missing companion file .*Data0000.dat", UnreadableSlideError),
    "time-series": (_time_series, "is a time series of 3", UnsupportedSlideError),
    "cmyk": (_cmyk, "photometric interpretation 5 is not read", UnsupportedSlideError),
    "store": (_unfinished, "was never finished", UnreadableSlideError),
    "folder": (lambda d, p: d, "is a folder but no slide", UnsupportedSlideError),
}


@pytest.mark.parametrize(("write", "fault", "kind"), BAD.values(), ids=BAD.keys())
def test_one_clear_line(
    tmp_path: Path, picture: np.ndarray, write: Callable, fault: str, kind: type[SlideError]
) -> None:
    path = write(tmp_path, picture)
    with pytest.raises(kind, match=fault) as caught:
        open_slide(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert text.endswith(caught.value.remedy)


def test_truncated_real_slide(shared: Path, tmp_path: Path) -> None:
    content = (shared / REAL).read_bytes()
    for n_bytes in (100, 1_000_000, 1_300_000, 1_938_000):
        cut = tmp_path / "cut.svs"
        cut.write_bytes(content[:n_bytes])
        with pytest.raises(UnreadableSlideError, match="is cut off: its TIFF directory"):
            open_slide(cut)


def test_no_mpp_is_refused_by_name(tmp_path: Path, picture: np.ndarray) -> None:
    for name, options in (("a.tif", {}), ("screen.tif", {"resolution": (72, 72), "resolutionunit": "INCH"})):
        path = tiff.striped_tiff(tmp_path / name, picture, **options)
        with open_slide(path) as slide:
            with pytest.raises(MissingMppError, match="--mpp-csv"):
                require_mpp(slide)
            with pytest.raises(MissingMppError):
                read_thumbnail(slide)
    for impossible in (0, -1, float("nan"), 1e6):
        with pytest.raises(UsageError, match="um per pixel"):
            open_slide(path, mpp=impossible)
    with open_slide(path, mpp=0.7) as slide:
        assert require_mpp(slide).mean == pytest.approx(0.7)


@pytest.mark.parametrize("depth", [np.uint16, np.float32])
def test_depth_that_openslide_loses_is_kept(tmp_path: Path, channels: np.ndarray, depth: type) -> None:
    """OpenSlide opens these as 8-bit RGB of the first channel; here they come as they are."""
    path = tmp_path / "a.tif"
    planes = channels.astype(depth)
    with tifffile.TiffWriter(path) as tif:
        for plane in planes:
            tif.write(plane, tile=(256, 256), photometric="minisblack", metadata=None)
    assert openslide.OpenSlide.detect_format(path) == "generic-tiff"
    with open_slide(path) as slide:
        assert (slide.reader, slide.kind, slide.n_channels, slide.dtype) == ("tiff", "multichannel", 4, depth)
        assert (slide.read_region(0, 5, 7, 300, 300) == planes.transpose(1, 2, 0)[5:305, 7:307]).all()


def test_sixteen_bit_aperio_goes_to_the_tiff_reader(tmp_path: Path, channels: np.ndarray) -> None:
    path = tmp_path / "a.svs"
    text = tiff.APERIO.format(h=700, w=900)
    tifffile.imwrite(
        path, channels[0], tile=(256, 256), description=text, metadata=None, photometric="minisblack"
    )
    assert openslide.OpenSlide.detect_format(path) == "aperio"
    with open_slide(path) as slide:
        assert (slide.reader, slide.vendor, slide.dtype, slide.mpp.y) == ("tiff", "aperio", np.uint16, 0.25)
        assert (slide.read_region(0, 0, 0, 700, 900)[..., 0] == channels[0]).all()
        assert "OpenSlide would lose the depth" in slide.notes[0]


def test_palette_alpha_and_white_is_zero(tmp_path: Path, picture: np.ndarray) -> None:
    rgba = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    rgba[:50, :50, 3] = 0
    for path in (tmp_path / "a.tif", tmp_path / "a.png"):
        if path.suffix == ".tif":
            tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
        else:
            other.png(path, rgba)
        with open_slide(path) as slide:
            pixels = slide.read_region(0, 0, 0, 100, 100)
        assert (pixels[:50, :50] == 255).all()
        assert (pixels[50:, 50:] == picture[50:100, 50:100]).all()
    tifffile.imwrite(tmp_path / "w.tif", picture[..., 0], photometric="miniswhite", metadata=None)
    with open_slide(tmp_path / "w.tif") as slide:
        assert (slide.read_region(0, 0, 0, 700, 900)[..., 0] == 255 - picture[..., 0]).all()
    colours = np.arange(768, dtype=np.uint16).reshape(3, 256) * 80
    tifffile.imwrite(
        tmp_path / "p.tif", picture[..., 0], photometric="palette", colormap=colours, metadata=None
    )
    with open_slide(tmp_path / "p.tif") as slide:
        assert slide.kind == "rgb"
        expected = (colours[:, picture[..., 0]] >> 8).transpose(1, 2, 0)
        assert (slide.read_region(0, 0, 0, 700, 900) == expected).all()


def test_focal_planes_and_named_colours(tmp_path: Path, picture: np.ndarray) -> None:
    stack = np.stack([picture[..., 0], picture[..., 1], picture[..., 2]])
    path = tmp_path / "z.ome.tif"
    tifffile.imwrite(path, stack, metadata={"axes": "ZYX"}, ome=True, photometric="minisblack")
    with open_slide(path) as slide:
        assert slide.kind == "mono"
        assert (slide.read_region(0, 0, 0, 700, 900)[..., 0] == picture[..., 1]).all()
        assert slide.notes == ("plane 2 of 3 along axis Z is read",)
    path = tmp_path / "c.ome.tif"
    names = {"axes": "CYX", "Channel": {"Name": ["Red", "Green", "Blue"]}}
    tifffile.imwrite(path, stack, metadata=names, ome=True, photometric="minisblack")
    with open_slide(path) as slide:
        assert slide.kind == "rgb"
        assert (slide.read_region(0, 0, 0, 700, 900) == picture).all()


def test_what_was_never_scanned_is_background(
    tmp_path: Path, picture: np.ndarray, channels: np.ndarray
) -> None:
    """Sparse tiles are no damage: MRXS images, TIFF tiles of no bytes and DICOM frames that do not exist."""
    with open_slide(vendor.mrxs(tmp_path / "a.mrxs", picture, missing=(1, 1))) as slide:
        pixels = slide.read_region(0, 0, 0, 384, 384)
        assert (pixels[128:256, 128:256] == 255).all()
        assert (pixels[:128] != 255).any()
    path = tiff.pyramid_tiff(tmp_path / "a.tif", picture)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tag = tif.pages.first.tags["TileByteCounts"]
        counts = list(tag.value)
        counts[0] = 0
        tag.overwrite(counts)
    with open_slide(path) as slide:
        assert slide.jpeg_tiles(0).standalone(0, 0) is None
        assert (slide.read_region(0, 0, 0, 256, 256) == 255).all()
        assert (slide.read_region(0, 0, 256, 256, 256) != 255).any()
    with open_slide(other.dicom_channels(tmp_path / "d", channels, missing=1)) as slide:
        assert (slide.read_region(0, 0, 256, 256, 256)[..., 0] == 0).all()
        assert (slide.read_region(0, 0, 256, 256, 256)[..., 1] == channels[1, :256, 256:512]).all()


def test_bounds_are_reported_and_not_subtracted(tmp_path: Path, picture: np.ndarray) -> None:
    with open_slide(tiff.leica_scn(tmp_path / "a.scn", picture)) as slide:
        assert slide.bounds_px == (40, 100, 700, 900)
        assert (slide.levels[0].height_px, slide.levels[0].width_px) == (900, 1200)
        outside = slide.read_region(0, 0, 0, 40, 100)
        assert (outside == 255).all()


def test_icc_profile_is_kept_and_applied_on_demand(tmp_path: Path, picture: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture, photometric="rgb", tile=(256, 256), iccprofile=srgb, metadata=None)
    with open_slide(path) as slide:
        assert slide.icc_profile == srgb
        assert describe(slide)["icc_profile"] is True
        pixels = slide.read_region(0, 0, 0, 64, 64)
    assert np.abs(apply_icc_srgb(pixels, srgb).astype(int) - pixels).max() <= 1
    assert apply_icc_srgb(pixels, None) is pixels
    with pytest.raises(ValueError, match="cannot be used"):
        apply_icc_srgb(pixels, b"no profile")


def test_icc_changes_colours_of_another_space(picture: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, green = srgb.index(b"rXYZ"), srgb.index(b"gXYZ")
    swapped = bytearray(srgb)  # a device whose red and green primaries are exchanged
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    converted = apply_icc_srgb(picture, bytes(swapped)).astype(int)
    assert np.abs(converted - picture[..., [1, 0, 2]]).mean() < 3


def test_real_slides(shared: Path) -> None:
    wsi = shared / "data" / "wsi"
    with open_slide(wsi / "CMU-1-Small-Region.svs") as slide:
        assert (slide.reader, slide.vendor, slide.mpp.y) == ("openslide", "aperio", 0.499)
        tiles = slide.jpeg_tiles(0)
        assert (tiles.colour, tiles.subsampling, tiles.rows, tiles.cols) == ("rgb", "444", 13, 10)
        plain = np.asarray(openslide.OpenSlide(slide.path).read_region((100, 200), 0, (700, 600)))[..., :3]
        assert (slide.read_region(0, 200, 100, 600, 700) == plain).all()
        assert read_thumbnail(slide).pixels.shape == (185, 138, 3)
    with open_slide(wsi / "test3-DAPI-2-387.ndpi") as slide:
        assert (slide.vendor, len(slide.levels)) == ("hamamatsu", 7)
        assert slide.mpp.y == pytest.approx(0.22818, abs=1e-5)
        plain = np.asarray(openslide.OpenSlide(slide.path).read_region((400, 800), 0, (300, 200)))[..., :3]
        assert (slide.read_region(0, 800, 400, 200, 300) == plain).all()
    with open_slide(wsi / "camelyon16_lowres_SM.dcm") as slide:
        assert (slide.mpp_source, slide.mpp.y) == ("dicom", 28.968)
        plain = np.asarray(openslide.OpenSlide(slide.path).read_region((0, 0), 0, (1152, 700)))[..., :3]
        assert (slide.read_region(0, 0, 0, 700, 1152) == plain).all()
