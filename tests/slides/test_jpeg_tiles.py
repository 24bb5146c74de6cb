"""Raw JPEG tiles: complete for any decoder, in the right colours, from any thread or process."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import slidewriters as tiff
from PIL import Image

from atlas_path.errors import UnreadableSlideError
from atlas_path.slides import JpegTiles, open_slide
from atlas_path.slides.jpeg_tiles import Colour


def _file_of_one_tile(path: Path, data: bytes, size_px: int, colour: Colour) -> JpegTiles:
    path.write_bytes(b"\0" * 10 + data)
    place = np.array([[10]]), np.array([[len(data)]])
    return JpegTiles(path, size_px, size_px, size_px, size_px, *place, colour)


def _square(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:128, :128])


def test_standalone_in_other_decoders(shared: Path) -> None:
    """Aperio RGB: without its colour model stated, decoders would take RGB for YCbCr."""
    with open_slide(shared / "data" / "wsi" / "CMU-1-Small-Region.svs") as slide:
        tiles = slide.jpeg_tiles(0)
        for row, col in ((0, 0), (5, 4), (12, 9)):
            data = tiles.standalone(row, col)
            pixels = tiles.decode(row, col)
            assert (np.asarray(Image.open(io.BytesIO(data))) == pixels).all()
            assert (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] == pixels).all()
            assert tiles.raw(row, col)[-2000:] == data[-2000:]
        assert pixels.shape == (240, 240, 3)  # edge tiles are whole


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "gray"])
def test_facts_come_from_the_frame_header(tmp_path: Path, picture: np.ndarray, subsampling: str) -> None:
    gray = subsampling == "gray"
    source = _square(picture)[..., :1] if gray else _square(picture)
    data = simplejpeg.encode_jpeg(
        np.ascontiguousarray(source), 90, "GRAY" if gray else "RGB", "Gray" if gray else subsampling
    )
    tiles = _file_of_one_tile(tmp_path / "t", data, 128, "gray" if gray else "ycbcr")
    assert tiles.subsampling == subsampling
    assert tiles.decode(0, 0).shape == (128, 128, 1 if gray else 3)
    assert (tiles.decode(0, 0) == simplejpeg.decode_jpeg(data, "GRAY" if gray else "RGB")).all()


def test_contradicting_segments_are_dropped(tmp_path: Path, picture: np.ndarray) -> None:
    """A JFIF segment says YCbCr; the TIFF says the components are RGB, and it knows."""
    planes = _square(picture)
    buffer = io.BytesIO()
    Image.frombytes("YCbCr", (128, 128), planes.tobytes()).save(buffer, "JPEG", quality=95, subsampling=0)
    data = buffer.getvalue()
    assert data[2:4] == b"\xff\xe0"
    as_rgb = _file_of_one_tile(tmp_path / "a", data, 128, "rgb").decode(0, 0)
    as_ycbcr = _file_of_one_tile(tmp_path / "b", data, 128, "ycbcr").decode(0, 0)
    assert np.abs(as_rgb.astype(int) - planes).mean() < 2
    assert np.abs(as_ycbcr.astype(int) - planes).mean() > 20


def test_scaled_decode(tmp_path: Path, picture: np.ndarray) -> None:
    with open_slide(tiff.pyramid_tiff(tmp_path / "a.tif", picture)) as slide:
        tiles = slide.jpeg_tiles(0)
        pixels = tiles.decode(1, 1).astype(float)
        for scale in (2, 4, 8):
            n = 256 // scale
            mean = pixels.reshape(n, scale, n, scale, 3).mean(axis=(1, 3))
            assert np.abs(tiles.decode(1, 1, scale) - mean).mean() < 1.5


def test_threads_pickles_and_closing(tmp_path: Path, picture: np.ndarray) -> None:
    with open_slide(tiff.pyramid_tiff(tmp_path / "a.tif", picture)) as slide:
        tiles = slide.jpeg_tiles(0)
        places = [(row, col) for row in range(tiles.rows) for col in range(tiles.cols)] * 4
        alone = {place: tiles.decode(*place) for place in places}
        with ThreadPoolExecutor(4) as pool:
            for place, pixels in zip(places, pool.map(lambda p: tiles.decode(*p), places), strict=True):
                assert (pixels == alone[place]).all()
        copy = pickle.loads(pickle.dumps(tiles))
    tiles.close()
    tiles.close()
    assert (copy.decode(0, 0) == alone[0, 0]).all()
    assert (tiles.decode(0, 0) == alone[0, 0]).all()  # opens again on demand


@pytest.mark.parametrize(
    ("ending", "is_whole"),
    [
        (b"\xff\xd9", True),
        (b"\xff\xd9\0\0\0", True),  # DICOM pads to even length, some writers to words
        (b"\xff\xff\xff\xd9", True),
        (b"\0\0\0\0\0\0\xff\xd9", True),
        (b"\x11\x11\x11\x11\x11\xff\xd9", False),
        (b"", False),
        (b"\0\0\0\0", False),
    ],
)
def test_padding_is_no_damage(tmp_path: Path, picture: np.ndarray, ending: bytes, is_whole: bool) -> None:
    data = simplejpeg.encode_jpeg(_square(picture), 90)
    tiles = _file_of_one_tile(tmp_path / "t", data[:-2] + ending, 128, "ycbcr")
    if is_whole:
        assert (tiles.decode(0, 0) == simplejpeg.decode_jpeg(data)).all()
        assert tiles.decode(0, 0, scale=4).shape == (32, 32, 3)
    else:
        with pytest.raises(UnreadableSlideError, match="does not decode"):
            tiles.decode(0, 0)


def test_absent_and_damaged(tmp_path: Path, picture: np.ndarray) -> None:
    data = simplejpeg.encode_jpeg(_square(picture), 90)
    path = tmp_path / "t"
    path.write_bytes(b"\0" * 10 + data)
    offsets, counts = np.array([[10, 0, 10]]), np.array([[len(data), 0, len(data) + 1]])
    tiles = JpegTiles(path, 128, 384, 128, 128, offsets, counts, "ycbcr")
    assert tiles.raw(0, 1) is None
    assert tiles.standalone(0, 1) is None
    assert tiles.decode(0, 1) is None
    with pytest.raises(UnreadableSlideError, match=r"\(row 0, column 2\) lies beyond the end"):
        tiles.standalone(0, 2)
    wrong = JpegTiles(path, 120, 120, 120, 120, offsets[:, :1], counts[:, :1], "ycbcr")
    with pytest.raises(UnreadableSlideError, match="it is 128 x 128 px"):
        wrong.decode(0, 0)
