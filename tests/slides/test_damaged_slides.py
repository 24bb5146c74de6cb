"""Damage is an error that names the place; it is never white, and it never spoils the next read."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import otherwriters as other
import pytest
import slidewriters as tiff
import tifffile
import vendorwriters as vendor

from atlas_path.errors import SlideError, UnreadableSlideError
from atlas_path.slides import Slide, open_slide, read_thumbnail

REAL = "data/wsi/CMU-1-Small-Region.svs"


def _tile_place(path: Path, index: int) -> tuple[int, int]:
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        return page.dataoffsets[index], page.databytecounts[index]


def _overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _cut_in_tile(path: Path, at: int, count: int) -> None:
    """The tile loses its second half but keeps its length and its end marker."""
    data = path.read_bytes()[at : at + count]
    middle = count // 2
    _overwrite(path, at + middle, b"\0" * (count - middle - 2) + data[-2:])


DAMAGE: dict[str, Callable[[Path, int, int], None]] = {
    "zeroed": lambda p, at, n: _overwrite(p, at, b"\0" * n),
    "zeroed-middle": lambda p, at, n: _overwrite(p, at + n // 3, b"\0" * (n // 3)),
    "cut-in-tile": _cut_in_tile,
    "no-end": lambda p, at, n: _overwrite(p, at + n - 2, b"\0\0"),
    "bad-tables": lambda p, at, n: _overwrite(p, at + 2, b"\xff" * 20),
}


def _check_bad_tile(path: Path, whole: np.ndarray, row: int, col: int, tile_px: int) -> None:
    """Only areas that touch the tile fail; everything else reads as before, also right after a failure."""
    y, x = row * tile_px, col * tile_px
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(UnreadableSlideError) as caught:
                slide.read_region(0, y + 10, x + 10, 30, 30)
            assert "\n" not in str(caught.value)
            near = slide.read_region(0, y - 40, x, 40, tile_px)
            assert (near == whole[y - 40 : y, x : x + tile_px]).all()
        with pytest.raises(UnreadableSlideError):
            slide.read_region(0, 0, 0, *whole.shape[:2])


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("write", [tiff.aperio, tiff.pyramid_tiff], ids=["openslide", "tiff"])
def test_one_bad_tile(tmp_path: Path, picture: np.ndarray, write: Callable, damage: Callable) -> None:
    path = write(tmp_path / "a.svs", picture)
    tile_px = 240 if write is tiff.aperio else 256
    with open_slide(path) as slide:
        whole = slide.read_region(0, 0, 0, *picture.shape[:2])
    columns = -(-picture.shape[1] // tile_px)
    damage(path, *_tile_place(path, columns + 1))
    _check_bad_tile(path, whole, 1, 1, tile_px)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_one_bad_tile_of_a_real_slide(shared: Path, tmp_path: Path, damage: Callable) -> None:
    path = tmp_path / "real.svs"
    shutil.copyfile(shared / REAL, path)
    with open_slide(path) as slide:
        whole = slide.read_region(0, 0, 0, slide.levels[0].height_px, slide.levels[0].width_px)
    damage(path, *_tile_place(path, 5 * 10 + 4))
    _check_bad_tile(path, whole, 5, 4, 240)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "jpeg2000"])
def test_bad_tile_of_other_compressions(tmp_path: Path, picture: np.ndarray, compression: str) -> None:
    """JPEG 2000 decoders blur over damage; a hole of zeros is seen, and so is a stream that ends early."""
    path = tiff.pyramid_tiff(tmp_path / "a.tif", picture, compression)
    at, count = _tile_place(path, 5)
    _overwrite(path, at + count // 4, b"\0" * (count // 2))
    with open_slide(path) as slide:
        with pytest.raises(UnreadableSlideError):
            slide.read_region(0, 300, 300, 8, 8)
        assert (slide.read_region(0, 0, 0, 256, 256) == picture[:256, :256]).all()


def test_jpeg2000_through_openslide(tmp_path: Path, picture: np.ndarray) -> None:
    path = tiff.aperio(tmp_path / "a.svs", picture, "aperio_jp2000_rgb")
    for damage in (
        lambda at, n: (at + n // 4, b"\0" * (n // 2)),
        lambda at, n: (at + 100, b"\xff\xd9" * (n // 3)),
    ):
        broken = tmp_path / "b.svs"
        shutil.copyfile(path, broken)
        _overwrite(broken, *damage(*_tile_place(path, 5)))
        with open_slide(broken) as slide:
            with pytest.raises(UnreadableSlideError):
                slide.read_region(0, 300, 300, 8, 8)
            assert (slide.read_region(0, 0, 0, 240, 240) == picture[:240, :240]).all()


def test_bad_strip(tmp_path: Path, picture: np.ndarray) -> None:
    path = tiff.striped_tiff(tmp_path / "a.tif", picture, "jpeg")
    DAMAGE["cut-in-tile"](path, *_tile_place(path, 3))
    with open_slide(path) as slide:
        with pytest.raises(UnreadableSlideError):
            slide.read_region(0, 200, 0, 10, 10)
        assert slide.read_region(0, 300, 0, 10, 10).shape == (10, 10, 3)


def test_bad_tile_through_openslide_itself(tmp_path: Path, picture: np.ndarray) -> None:
    """MRXS is decoded by OpenSlide, whose handle stays broken after an error: it is replaced."""
    path = vendor.mrxs(tmp_path / "a.mrxs", picture)
    with open_slide(path) as slide:
        whole = slide.read_region(0, 0, 0, 512, 768)
    data = tmp_path / "a" / "Data0000.dat"
    at = data.read_bytes().index(b"\xff\xd8", 70000)
    _overwrite(data, at + 900, b"\0" * 1500)
    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        places = [(y, x) for y in range(0, 512, 128) for x in range(0, 768, 128)] * 2

        def read(place: tuple[int, int]) -> np.ndarray | None:
            try:
                return slide.read_region(0, *place, 128, 128)
            except UnreadableSlideError:
                return None

        found = dict(zip(places, pool.map(read, places), strict=True))
    bad = [place for place, pixels in found.items() if pixels is None]
    assert 1 <= len(bad) <= 2
    for (y, x), pixels in found.items():
        assert pixels is None or (pixels == whole[y : y + 128, x : x + 128]).all()


def test_bad_dicom_frame(tmp_path: Path, picture: np.ndarray, channels: np.ndarray) -> None:
    path = other.dicom_rgb(tmp_path / "a", picture)
    content = path.read_bytes()
    second = content.index(b"\xff\xd8", content.index(b"\xff\xd8") + 2)
    _overwrite(path, second + 3000, b"\0" * 500)
    with open_slide(path) as slide:
        with pytest.raises(UnreadableSlideError):
            slide.read_region(0, 10, 300, 10, 10)
        assert slide.read_region(0, 10, 10, 10, 10).shape == (10, 10, 3)
    cut = other.dicom_channels(tmp_path / "b", channels)
    cut.write_bytes(cut.read_bytes()[:-100_000])
    with open_slide(cut) as slide:
        assert (
            slide.read_region(0, 0, 0, 256, 256)[..., :3] == channels[:3, :256, :256].transpose(1, 2, 0)
        ).all()
        with pytest.raises(UnreadableSlideError):
            slide.read_region(0, 690, 890, 5, 5)


def test_bad_zarr_chunk(tmp_path: Path, picture: np.ndarray) -> None:
    folder = other.ome_zarr(tmp_path / "a.zarr", picture.transpose(2, 0, 1), "0.5", "cyx")
    (folder / "0" / "c" / "0" / "1" / "1").write_bytes(b"nonsense")
    with open_slide(folder) as slide:
        with pytest.raises(UnreadableSlideError):
            slide.read_region(0, 300, 300, 5, 5)
        assert (slide.read_region(0, 0, 0, 256, 256) == picture[:256, :256]).all()


def test_bad_flat_images(tmp_path: Path, picture: np.ndarray) -> None:
    for path in (other.png(tmp_path / "a.png", picture), other.jpeg(tmp_path / "a.jpg", picture)):
        path.write_bytes(path.read_bytes()[:-2000])
        with open_slide(path) as slide, pytest.raises(UnreadableSlideError, match="does not decode"):
            slide.read_region(0, 0, 0, 10, 10)


def test_thumbnail_marks_what_is_unreadable(tmp_path: Path, picture: np.ndarray) -> None:
    for name, compression in (("j.tif", "jpeg"), ("z.tif", "zlib")):
        path = tiff.pyramid_tiff(tmp_path / name, picture, compression)
        DAMAGE["zeroed"](path, *_tile_place(path, 5))  # row 1, column 1
        with open_slide(path) as slide:
            slide.levels = slide.levels[:1]  # no coarser level: the thumbnail comes from level 0
            thumbnail = read_thumbnail(slide, mpp=4.0)
        height, width = thumbnail.valid.shape
        assert (height, width) == (88, 112)
        bad = ~thumbnail.valid
        assert bad[32:62, 32:62].all()
        assert bad.sum() <= 34 * 34


def test_truncated_anywhere(tmp_path: Path, picture: np.ndarray, shared: Path) -> None:
    """Wherever a file is cut: a clear error on opening or on reading, or pixels that are right."""
    real = shared / REAL
    whole = {real: _all_of(real)}
    made = tiff.pyramid_tiff(tmp_path / "made.tif", picture)
    whole[made] = _all_of(made)
    for source, truth in whole.items():
        content = source.read_bytes()
        for share in (0.0001, 0.01, 0.2, 0.5, 0.66, 0.7, 0.9, 0.99, 0.9999):
            cut = tmp_path / f"cut{source.suffix}"
            cut.write_bytes(content[: int(len(content) * share)])
            assert _wrong_pixels(cut, truth) == 0


def test_mutations(tmp_path: Path, shared: Path) -> None:
    """Random bytes of a real slide changed: never a crash, never another kind of error; holes are noticed.

    A flipped bit inside entropy-coded data can decode without a trace (JPEG has no checksum): about two in
    three do. A lost disk sector (512 zero bytes) is always seen, or hits nothing that is read.
    """
    real = shared / REAL
    truth, content = _all_of(real), real.read_bytes()
    rng = random.Random(7)
    mutant = tmp_path / "mutant.svs"
    for number in range(40):
        data = bytearray(content)
        at = rng.randrange(8, len(data) - 512)
        if number % 2:
            data[at : at + 512] = bytes(512)
        else:
            for _ in range(3):
                data[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
        mutant.write_bytes(bytes(data))
        fault = _fault_of(mutant, truth)
        assert fault is None or ("\n" not in fault and fault.startswith(str(mutant)))
        if number % 2:
            assert _wrong_pixels(mutant, truth) == 0, f"zeroed at {at}"


def test_damaged_headers(tmp_path: Path, picture: np.ndarray, channels: np.ndarray) -> None:
    """Bytes changed where directories lie: opened, or one of our errors, never a parser's own."""
    small, few = picture[:300, :400], channels[:, :300, :400]
    files = [
        tiff.aperio(tmp_path / "a.svs", small),
        tiff.ome_tiff_channels(tmp_path / "a.ome.tif", few),
        tiff.qptiff(tmp_path / "a.qptiff", few),
        tiff.leica_scn(tmp_path / "a.scn", small),
        other.dicom_channels(tmp_path / "d", few),
    ]
    rng = random.Random(11)
    opened = 0
    for _ in range(80):
        source = rng.choice(files)
        data = bytearray(source.read_bytes())
        for _ in range(rng.choice((1, 2, 5))):
            reach = min(3000, len(data))
            at = rng.randrange(reach) if rng.random() < 0.6 else len(data) - 1 - rng.randrange(reach)
            data[at] = rng.choice((0, 255, data[at] ^ (1 << rng.randrange(8))))
        folder = tmp_path / "m"
        folder.mkdir(exist_ok=True)
        mutant = folder / source.name
        mutant.write_bytes(bytes(data))
        opened += _fault_of(mutant, small) is None
        mutant.unlink()
    assert 10 < opened < 80


def _fault_of(path: Path, truth: np.ndarray) -> str | None:
    try:
        with open_slide(path) as slide:
            slide.read_region(0, 0, 0, *truth.shape[:2])
    except SlideError as error:
        return str(error)
    return None


def _all_of(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read_region(0, 0, 0, slide.levels[0].height_px, slide.levels[0].width_px)


def _wrong_pixels(path: Path, truth: np.ndarray) -> int:
    """Pixels that are returned and are not those of the whole file; areas that raise do not count."""
    try:
        with open_slide(path) as slide:
            if (slide.levels[0].height_px, slide.levels[0].width_px) != truth.shape[:2]:
                return truth.size
            return sum(
                _wrong_in(slide, truth, y, x)
                for y in range(0, truth.shape[0], 240)
                for x in range(0, truth.shape[1], 240)
            )
    except SlideError:
        return 0


def _wrong_in(slide: Slide, truth: np.ndarray, y: int, x: int) -> int:
    expected = truth[y : y + 240, x : x + 240]
    try:
        return int((slide.read_region(0, y, x, *expected.shape[:2]) != expected).sum())
    except SlideError:
        return 0
