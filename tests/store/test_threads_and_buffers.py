"""Reading on several threads, into a given array, and through read buffers that are used again."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from atlas_path.errors import StoreError
from atlas_path.store import PreprocessOptions, Store, open_store
from atlas_path.store import arrays as arrays_module
from atlas_path.store import chunks as chunks_module
from atlas_path.store.chunks import Chunks
from atlas_path.store.tile_cache import TileCache
from pipelines.preprocess import preprocess

PIXELS = np.random.default_rng(3).integers(0, 256, (2900, 2700, 3), np.uint8)


@pytest.fixture(params=["lz4", "jpeg"])
def store(request, make_slide, tmp_path) -> Store:
    options = PreprocessOptions(workers=0, codec=request.param, tissue="none")
    slide = make_slide("noise.tif", PIXELS, tile=240, compression="jpeg", levels=(1,))
    result = preprocess([slide], tmp_path / "out", options)
    return open_store(tmp_path / "out" / result.records[0].store)


def shuffled(store: Store) -> np.ndarray:
    return np.random.default_rng(0).permutation(store.kept_windows(0))


def test_threads_give_what_one_gives(store: Store) -> None:
    windows = np.vstack([shuffled(store), [[-1, 0], [0, 500]]])  # two outside
    expected = np.concatenate([store.read_windows(0, windows[i : i + 1]) for i in range(len(windows))])
    for threads in (1, 2, 5, 100):
        out = np.full_like(expected, 7)
        assert store.read_windows(0, windows, out, threads) is out
        np.testing.assert_array_equal(out, expected)


def test_the_array_to_read_into_must_fit(store: Store) -> None:
    windows = store.kept_windows(0)[:4]
    for bad in (
        np.empty((3, 3, 256, 256), np.uint8),
        np.empty((4, 3, 256, 256), np.uint16),
        np.empty((4, 3, 256, 512), np.uint8)[..., ::2],
    ):
        with pytest.raises(ValueError, match="not a contiguous"):
            store.read_windows(0, windows, bad)


def test_damage_on_any_thread_is_told(store: Store) -> None:
    shards = sorted((store.path / "0").glob("c/0/*/*"), key=lambda p: p.stat().st_size)
    content = shards[-1].read_bytes()
    index = Chunks(store.path / "0").layout.chunks_per_shard
    tail = 16 * int(np.prod(index)) + 4
    shards[-1].write_bytes(
        bytes(len(content) - tail) + content[-tail:]
    )  # the index is whole, the chunks zeros
    for threads in (1, 4):
        with pytest.raises(StoreError, match="damaged chunk"):
            open_store(store.path).read_windows(0, store.kept_windows(0), threads=threads)


def test_two_readings_at_once_do_not_share_a_buffer(store: Store) -> None:
    chunks = Chunks(store.path / "0")
    at = [(row, col) for row in range(4) for col in range(4)]
    expected = {position: bytes(payload) for position, _, payload in chunks.payloads(at)}
    first, second = chunks.payloads(at), chunks.payloads(at[::-1])
    for (i, _, one), (j, _, other) in zip(first, second, strict=True):
        assert bytes(one) == expected[i]
        assert bytes(other) == expected[len(at) - 1 - j]


def test_chunks_larger_than_the_read_buffer(store: Store, monkeypatch) -> None:
    windows = shuffled(store)
    expected = store.read_windows(0, windows)
    monkeypatch.setattr(chunks_module, "RUN_BYTES", 1 << 10)
    monkeypatch.setattr(chunks_module, "_spare", [])
    np.testing.assert_array_equal(open_store(store.path).read_windows(0, windows), expected)


def read_sum(path: Path, threads: int) -> int:
    store = open_store(path)
    return int(store.read_windows(0, store.kept_windows(0), threads=threads).sum())


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_processes_have_threads_of_their_own(store: Store, method: str) -> None:
    expected = read_sum(store.path, threads=3)  # this process has its threads before it forks
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(read_sum, (store.path, 3)).get(timeout=60) == expected


def test_windows_read_alone_keep_no_tiles_and_a_sweep_keeps_its_own(
    make_slide, tmp_path, monkeypatch
) -> None:
    """A cache serves windows side by side, also when asked for one by one; far ones only lose by it."""
    cache = TileCache()
    monkeypatch.setattr(arrays_module, "tile_cache", cache)
    slide = make_slide("a.tif", PIXELS, tile=240, compression="jpeg", levels=(1,))
    result = preprocess([slide], tmp_path / "out", PreprocessOptions(workers=0, codec="jpeg", tissue="none"))
    store = open_store(tmp_path / "out" / result.records[0].store)
    far = np.array([[0, 0], [0, 5], [5, 0], [5, 5], [8, 9]])
    expected = store.read_region(0, 0, 0, 2900, 2700)
    cache.__init__()
    alone = np.concatenate([store.read_windows(0, far[:4]), store.read_windows(0, far[4:])])
    assert cache.n_bytes == 0
    for (row, col), window in zip(far.tolist(), alone, strict=True):
        inside = expected[:, row * 256 : (row + 1) * 256, col * 256 : (col + 1) * 256]
        np.testing.assert_array_equal(window[:, : inside.shape[1], : inside.shape[2]], inside)
    for col in range(4):
        store.read_windows(0, np.array([[0, col]]))
    assert cache.n_bytes > 0
