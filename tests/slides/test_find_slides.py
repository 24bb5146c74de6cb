"""What counts as a slide in a folder, and how it is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import otherwriters as other
import pytest
import vendorwriters as vendor

from atlas_path.errors import UsageError
from atlas_path.slides import find_slides, fingerprint


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def _ids(*inputs: Path) -> list[str]:
    return [source.image_id for source in find_slides(list(inputs))]


def test_ids_are_relative_paths_without_suffix(tmp_path: Path) -> None:
    _touch(tmp_path / "a.svs", tmp_path / "batch 1" / "b.ome.tif", tmp_path / "batch 1" / "deep" / "c.NDPI")
    _touch(tmp_path / "notes.txt", tmp_path / "cohort.csv", tmp_path / ".hidden.svs", tmp_path / "d.svs.part")
    _touch(tmp_path / ".trash" / "e.svs", tmp_path / "f.part" / "g.svs")
    assert _ids(tmp_path) == ["a", "batch 1/b", "batch 1/deep/c"]
    assert _ids(tmp_path / "batch 1" / "deep" / "c.NDPI") == ["c"]
    assert _ids(tmp_path, tmp_path / "a.svs") == ["a", "batch 1/b", "batch 1/deep/c"]


def test_equal_stems_never_collide(tmp_path: Path) -> None:
    _touch(
        tmp_path / "1" / "a.svs", tmp_path / "1" / "a.tif", tmp_path / "1" / "b.svs", tmp_path / "2" / "a.svs"
    )
    assert _ids(tmp_path / "1") == ["a.svs", "a.tif", "b"]
    both = find_slides([tmp_path / "1", tmp_path / "2"])
    assert [source.image_id for source in both] == ["1/a.svs", "2/a.svs", "a.tif", "b"]
    assert len({source.path for source in both}) == 4
    _touch(tmp_path / "3" / "2" / "a.svs")
    files = find_slides([tmp_path / "2" / "a.svs", tmp_path / "3" / "2" / "a.svs"])
    assert len({source.image_id for source in files}) == 2


def test_parts_of_slides_are_not_slides(tmp_path: Path, picture: np.ndarray) -> None:
    vendor.mrxs(tmp_path / "m.mrxs", picture)
    _touch(
        tmp_path / "m" / "extra.jpg", tmp_path / "tile_0.jpg", tmp_path / "map.jpg", tmp_path / "photo.jpg"
    )
    (tmp_path / "v.vms").write_text("[Virtual Microscope Specimen]\nImageFile=tile_0.jpg\nMapFile=map.jpg\n")
    other.ome_zarr(tmp_path / "z.ome.zarr", picture.transpose(2, 0, 1), "0.5", "cyx")
    other.ome_zarr(tmp_path / "plain", picture.transpose(2, 0, 1), "0.4", "cyx")
    assert _ids(tmp_path) == ["m", "photo", "plain", "v", "z"]
    assert _ids(tmp_path / "z.ome.zarr") == ["z"]


def test_a_dicom_series_is_one_slide(tmp_path: Path, picture: np.ndarray) -> None:
    other.dicom_rgb(tmp_path / "patient" / "scan", picture)
    for file in (tmp_path / "patient" / "scan").iterdir():
        file.rename(file.with_suffix(""))  # as a PACS writes them
    (found,) = find_slides([tmp_path])
    assert found.image_id == "patient/scan"
    assert found.path.name == "level0"
    assert fingerprint(found.path)["n_files"] == 2


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    _touch(tmp_path / "a" / "s.svs")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert _ids(tmp_path) == ["a/s"]


def test_nothing_to_do_is_a_usage_error(tmp_path: Path) -> None:
    _touch(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="holds no slides"):
        find_slides([tmp_path])
    with pytest.raises(UsageError, match="does not exist"):
        find_slides([tmp_path / "gone"])
    with pytest.raises(UsageError, match="holds no slides"):
        find_slides([])


def test_real_folder(shared: Path) -> None:
    assert _ids(shared / "data" / "wsi") == ["CMU-1-Small-Region", "camelyon16_lowres_SM", "test3-DAPI-2-387"]
