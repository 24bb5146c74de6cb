"""The project's own JPEG decoder: libjpeg-turbo's pixels, or none; and no byte makes it leave its memory."""

from __future__ import annotations

import gc
import io
import shutil
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from atlas_path.slides import jpeg_fast
from atlas_path.slides.jpeg_decode import decode_by_libjpeg, decode_strict
from atlas_path.slides.jpeg_fast import decode_fast
from atlas_path.slides.jpeg_tiles import as_standalone, with_prefix

needs_decoder = pytest.mark.skipif(not jpeg_fast.available(), reason="the decoder was not compiled here")
PICTURES = ("noise", "tissue", "squares", "stripes")
SAMPLINGS = ("444", "Gray")


def picture(name: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3): from hardly any to all frequencies."""
    rng = np.random.default_rng(seed)
    if name == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if name == "squares":
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])
    if name == "stripes":
        return ((np.indices((height, width)).sum(0) % 2) * 255).astype(np.uint8)[:, :, None].repeat(3, 2)
    y, x = np.mgrid[:height, :width]
    cells = np.sin(x / 5.0) * np.cos(y / 7.0) * 40 + rng.normal(0, 6, (height, width))
    return np.clip(np.stack([200 + cells, 150 + cells, 190 + cells / 2], -1), 0, 255).astype(np.uint8)


def coded(pixels: np.ndarray, quality: int, sampling: str) -> bytes:
    if sampling == "Gray":
        gray = np.ascontiguousarray(pixels[:, :, :1])
        return bytes(simplejpeg.encode_jpeg(gray, quality, "GRAY", "Gray"))
    return bytes(simplejpeg.encode_jpeg(pixels, quality, "RGB", sampling))


def fast(
    data: bytes, channels: int, height: int, width: int, scale: int, buffer: np.ndarray | None = None
) -> np.ndarray | None:
    """One image."""
    out = None if buffer is None else [buffer]
    return decode_fast([data], channels, height, width, scale, out=out)[0]


def by_libjpeg(data: bytes, channels: int, height: int, width: int, scale: int) -> np.ndarray:
    space = "GRAY" if channels == 1 else "RGB"
    pixels = simplejpeg.decode_jpeg(data, space, min_height=height // scale, min_width=width // scale)
    return np.asarray(pixels).reshape(height // scale, width // scale, channels)


def damaged(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Streams with one to three changed bytes, some cut short."""
    for _ in range(count):
        bad = bytearray(data)
        for at in rng.integers(2, len(bad), rng.integers(1, 4)):
            bad[at] = rng.integers(256) if rng.random() < 0.6 else bad[at] ^ (1 << int(rng.integers(8)))
        yield bytes(bad if rng.random() < 0.9 else bad[: rng.integers(4, len(bad))])


def test_it_was_compiled_where_there_is_a_compiler() -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    assert jpeg_fast.LIBRARY.is_file()
    if " avx2 " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2, with which alone it is faster")
    assert jpeg_fast.available()


@needs_decoder
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", PICTURES)
def test_pixels_are_those_of_libjpeg(name: str, sampling: str) -> None:
    for k, (height, width) in enumerate([(256, 256), (240, 240), (16, 8), (32, 48), (512, 80), (24, 1000)]):
        for quality in (10, 60, 90, 100):
            data = coded(picture(name, height, width, k), quality, sampling)
            channels = 1 if sampling == "Gray" else 3
            for scale in (1, 2):
                ours = fast(data, channels, height, width, scale)
                assert ours is not None, (height, width, quality, scale)
                assert np.array_equal(ours, by_libjpeg(data, channels, height, width, scale))


@needs_decoder
def test_colour_is_what_the_markers_say() -> None:
    data = coded(picture("tissue", 64, 64), 90, "444")
    as_rgb, as_ycc = as_standalone(data, "rgb"), as_standalone(data, "ycbcr")
    for one in (as_rgb, as_ycc):
        ours = fast(one, 3, 64, 64, 1)
        assert ours is not None
        assert np.array_equal(ours, by_libjpeg(one, 3, 64, 64, 1))
    assert not np.array_equal(decode_strict(as_rgb, "RGB", 64, 64), decode_strict(as_ycc, "RGB", 64, 64))


@needs_decoder
def test_tables_of_one_image_do_not_serve_another() -> None:
    pixels = picture("tissue", 64, 64)
    own = io.BytesIO()
    Image.fromarray(pixels).save(own, "jpeg", quality=80, subsampling=0, optimize=True)  # tables of its own
    plain = coded(pixels, 80, "444")
    for data in (plain, own.getvalue(), plain, own.getvalue()):
        ours = fast(data, 3, 64, 64, 1)
        assert ours is not None
        assert np.array_equal(ours, by_libjpeg(data, 3, 64, 64, 1))
    start = plain.index(b"\xff\xc4")
    without = plain[:start] + plain[start + 2 + int.from_bytes(plain[start + 2 : start + 4], "big") :]
    assert fast(without, 3, 64, 64, 1) is None


@needs_decoder
def test_tiles_are_decoded_as_if_their_prefix_were_joined() -> None:
    """Tables and colour of tiles stand elsewhere; colour that a tile states itself could contradict."""
    data = coded(picture("tissue", 64, 64), 90, "444")  # with a JFIF segment
    first, frame, scan = (data.index(marker) for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xda"))
    huffman = data.index(b"\xff\xc4")
    assert first < frame < huffman < scan
    tables = data[first:frame] + data[huffman:scan]
    bare = data[:2] + data[frame:huffman] + data[scan:]
    damage = bare[: len(bare) // 2]
    prefix = as_standalone(data, "ycbcr")[:18] + tables
    for images in ([bare, bare], [bare, damage, bare], [data, bare], [b"", bare], []):
        ours = decode_fast(images, 3, 64, 64, 2, prefix)
        assert len(ours) == len(images)
        for image, pixels in zip(images, ours, strict=True):
            if image in (damage, b""):
                assert pixels is None
            else:
                assert pixels is not None
                assert np.array_equal(pixels, by_libjpeg(with_prefix(image, prefix), 3, 64, 64, 2))
    red = as_standalone(data, "rgb")[:18] + tables
    (as_rgb,) = decode_fast([data], 3, 64, 64, 1, red)
    assert as_rgb is not None
    assert np.array_equal(as_rgb, by_libjpeg(with_prefix(data, red), 3, 64, 64, 1))


def _saved(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=85, **options)
    return stream.getvalue()


@needs_decoder
def test_what_it_does_not_take_is_decoded_by_libjpeg() -> None:
    pixels = picture("tissue", 64, 64)
    odd = picture("tissue", 61, 64)
    cases = {
        "progressive": (_saved(pixels, progressive=True, subsampling=0), 64),
        "restart markers": (_saved(pixels, restart_marker_blocks=2, subsampling=0), 64),
        **{sampling: (coded(pixels, 85, sampling), 64) for sampling in ("422", "420", "440", "411")},
        "no whole blocks": (coded(odd, 85, "444"), 61),
    }
    for name, (data, height) in cases.items():
        assert fast(data, 3, height, 64, 1) is None, name
        assert np.array_equal(decode_strict(data, "RGB", height, 64), simplejpeg.decode_jpeg(data)), name
    data = coded(pixels, 85, "444")
    assert fast(data, 3, 64, 64, 4) is None  # smaller scales
    assert fast(data, 3, 64, 128, 1) is None  # another size than promised
    assert fast(data, 1, 64, 64, 1) is None  # gray of colour
    assert decode_by_libjpeg(data, "RGB", 64, 64, 4).shape == (16, 16, 3)


@needs_decoder
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_damage_is_declined_or_decodes_as_libjpeg_does(sampling: str) -> None:
    """Most changes of a byte decode to other pixels without a trace; then both must give the same."""
    rng = np.random.default_rng(3)
    accepted = declined = 0
    channels = 1 if sampling == "Gray" else 3
    for k in range(12):
        data = coded(picture(PICTURES[k % 4], 64, 48, k), int(rng.integers(5, 101)), sampling)
        for bad in damaged(data, rng, 60):
            scale = int(rng.integers(1, 3))
            ours = fast(bad, channels, 64, 48, scale)
            if ours is None:
                declined += 1
                continue
            accepted += 1
            assert np.array_equal(ours, by_libjpeg(bad, channels, 64, 48, scale))
    assert accepted > 50
    assert declined > 50


@needs_decoder
def test_streams_that_end_early_or_late_are_damaged() -> None:
    data = coded(picture("tissue", 64, 64), 90, "444")
    assert fast(data, 3, 64, 64, 1) is not None
    for cut in (len(data) - 1, len(data) - 2, len(data) // 2, 200, 3, 0):
        assert fast(data[:cut], 3, 64, 64, 1) is None
    with pytest.raises(ValueError, match=r"Premature|premature|Corrupt|Warning"):
        decode_strict(data[: len(data) // 2], "RGB", 64, 64)
    assert fast(data[:-2] + b"\x12\x34\xff\xd9", 3, 64, 64, 1) is None  # more than the last block


@needs_decoder
def test_threads_have_their_own_tables_and_buffers() -> None:
    images = [coded(picture("tissue", 128, 128, k), 70 + k, "444") for k in range(8)]
    right = [by_libjpeg(data, 3, 128, 128, 1) for data in images]

    def many(k: int) -> bool:
        turns = [(k + i) % 8 for i in range(100)]
        return all(np.array_equal(fast(images[i], 3, 128, 128, 1), right[i]) for i in turns)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(8)))


@needs_decoder
def test_a_thread_that_ends_gives_its_memory_back() -> None:
    data = coded(picture("tissue", 64, 64), 90, "444")

    def work() -> weakref.ref[object]:
        assert fast(data, 3, 64, 64, 1) is not None
        return weakref.ref(jpeg_fast._local.context)

    with ThreadPoolExecutor(1) as pool:
        context = pool.submit(work).result()
        assert context() is not None
    gc.collect()
    assert context() is None


@needs_decoder
def test_pixels_go_into_the_buffer_that_is_given() -> None:
    data = coded(picture("tissue", 64, 64), 90, "444")
    buffer = np.empty((32, 32, 3), np.uint8)
    ours = fast(data, 3, 64, 64, 2, buffer)
    assert ours is buffer
    assert np.array_equal(ours, by_libjpeg(data, 3, 64, 64, 2))


def test_it_can_be_turned_off() -> None:
    code = "from atlas_path.slides import jpeg_fast; print(jpeg_fast.available())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"ATLAS_PATH_JPEG": "libjpeg", "PATH": ""},
    )
    assert run.stdout.strip() == "False"


def test_no_stream_makes_it_leave_its_memory(repository: Path, tmp_path: Path) -> None:
    """Thousands of damaged streams under the address and undefined-behaviour sanitizers."""
    program = tmp_path / "driver"
    source = repository / "tests/slides/jpeg_fast_driver.c"
    flags = [
        "-O1",
        "-g",
        "-fwrapv",
        "-Wno-psabi",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]
    try:
        subprocess.run(["cc", *flags, source, "-o", program], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no C compiler with sanitizers")
    rng = np.random.default_rng(11)
    records = tmp_path / "streams"
    with open(records, "wb") as stream:
        for k in range(48):
            sampling = SAMPLINGS[k % 2]
            height, width = (int(side) * 16 for side in rng.integers(1, 6, 2))
            data = coded(picture(PICTURES[k // 4 % 4], height, width, k), int(rng.integers(5, 101)), sampling)
            for one in [data, *damaged(data, rng, 40)]:
                stream.write(
                    struct.pack("<4I", height, width, 1 if sampling == "Gray" else 3, len(one)) + one
                )
    run = subprocess.run([program, records], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    decoded, tried = map(int, run.stdout.split())
    assert 96 <= decoded < tried
