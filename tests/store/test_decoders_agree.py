"""A store does not depend on whether the project's own JPEG decoder was compiled: its files are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atlas_path.slides import jpeg_fast, jpeg_tiles
from atlas_path.store import PreprocessOptions
from pipelines.preprocess import preprocess


def shards(slide: Path, out: Path) -> dict[str, bytes]:
    (record,) = preprocess([slide], out, PreprocessOptions(workers=0)).records
    assert record.error == ""
    store = out / record.store
    return {
        str(path.relative_to(store)): path.read_bytes() for path in store.rglob("c/**/*") if path.is_file()
    }


@pytest.mark.skipif(not jpeg_fast.available(), reason="the decoder was not compiled here")
@pytest.mark.parametrize("mpp", [0.5, 0.25])
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_stores_are_the_same_to_the_byte(
    make_slide, tmp_path, monkeypatch, mpp: float, subsampling: tuple[int, int]
) -> None:
    slide = make_slide("a.tif", mpp=mpp, tile=240, subsampling=subsampling)
    taken = []

    def counted(*args: object, **options: object) -> list[np.ndarray | None]:
        decoded = jpeg_fast.decode_fast(*args, **options)
        taken.extend(pixels is not None for pixels in decoded)
        return decoded

    monkeypatch.setattr(jpeg_tiles, "decode_fast", counted)
    ours = shards(slide, tmp_path / "ours")
    assert sum(taken) > 8 or subsampling != (1, 1)  # the thumbnail is decoded at 1/8, by libjpeg
    assert len(ours) > 1
    monkeypatch.setattr(jpeg_fast, "_library", None)
    monkeypatch.setattr(jpeg_tiles, "decode_fast", jpeg_fast.decode_fast)
    assert shards(slide, tmp_path / "libjpeg") == ours
