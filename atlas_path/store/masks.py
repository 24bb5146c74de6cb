"""What lies beside the pixels: masks, maps a window, and the group's metadata.

* `labels/tissue`: the tissue mask at the resolution it was found at (OME labels: integer, as many levels as
  the image);
* `labels/valid`, only where pixels were unreadable: one label pixel a window, 1 = readable throughout;
* `windows/tissue_fraction` and `windows/valid_fraction`: float32 image groups, one pixel a window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from atlas_path.geometry import WINDOW_PX, Mpp
from atlas_path.store.job import Job
from atlas_path.store.layout import write_json
from atlas_path.store.meta import OME_VERSION, StoreMeta, group_json, multiscales, omero_block
from atlas_path.store.prepare import Prepared
from atlas_path.store.shard import write_bytes
from atlas_path.store.small import TISSUE_FRACTION, VALID_FRACTION, write_array

ICC_FILE = "icc_profile.icc"


def write_masks(prepared: Prepared, meta: StoreMeta, root: Path, valid: list[np.ndarray]) -> None:
    """Write the labels and the window maps of a store."""
    base = meta.mpp.value
    labels = ["tissue"]
    _write_pyramid(
        root / "labels/tissue", "tissue", _mask_levels(prepared), base, label=True, colour=(0, 160, 60)
    )
    window_mpp = [base.scaled(WINDOW_PX * 2.0**k) for k in range(len(valid))]
    fractions = list(zip(prepared.fractions, window_mpp, strict=True))
    _write_pyramid(root / TISSUE_FRACTION, "tissue fraction of each window", fractions, base)
    _write_pyramid(
        root / VALID_FRACTION,
        "readable fraction of each window",
        list(zip(valid, window_mpp, strict=True)),
        base,
    )
    if meta.counts.bad:
        labels.append("valid")
        whole = [((v == 1).astype(np.uint8), mpp) for v, mpp in zip(valid, window_mpp, strict=True)]
        _write_pyramid(root / "labels/valid", "valid", whole, base, label=True, colour=(255, 200, 0))
    ome = {"version": OME_VERSION, "labels": labels}
    write_json(root / "labels/zarr.json", group_json({"ome": ome}))
    write_json(root / "windows/zarr.json", group_json({}))


def write_array_metadata(job: Job, root: Path) -> None:
    """Write the `zarr.json` of every stored level."""
    for k, level in enumerate(job.levels):
        if level.layout is not None:
            write_json(root / str(k) / "zarr.json", level.layout.to_json())


def write_metadata(prepared: Prepared, meta: StoreMeta, root: Path) -> None:
    """Write the image group's `zarr.json` and the ICC profile."""
    base = meta.mpp.value
    paths = [(level.path, base.scaled(2.0**k)) for k, level in enumerate(meta.levels) if level.path]
    ome: dict[str, Any] = {
        "version": OME_VERSION,
        "multiscales": [multiscales(meta.image_id, "cyx", paths, base)],
        "omero": omero_block(meta.channel_names, meta.dtype, list(prepared.ranges)),
    }
    attributes = {"ome": ome, "atlas_path": meta.model_dump(mode="json")}
    write_json(root / "zarr.json", group_json(attributes))
    if prepared.icc_profile:
        write_bytes(root / ICC_FILE, prepared.icc_profile)


def _mask_levels(prepared: Prepared) -> list[tuple[np.ndarray, Mpp]]:
    """The tissue mask and its 2x reductions (any tissue in a pixel keeps it), as many as the image stores."""
    mask, mpp = prepared.mask.astype(np.uint8), prepared.mask_mpp
    levels = []
    for _ in range(sum(level.layout is not None for level in prepared.job.levels)):
        levels.append((mask, mpp))
        even = np.pad(mask, ((0, mask.shape[0] % 2), (0, mask.shape[1] % 2)))
        both = even[::2] | even[1::2]
        mask = both[:, ::2] | both[:, 1::2]
        mpp = mpp.scaled(2)
    return levels


def _write_pyramid(
    folder: Path,
    name: str,
    levels: list[tuple[np.ndarray, Mpp]],
    base: Mpp,
    label: bool = False,
    colour: tuple[int, int, int] = (255, 255, 255),
) -> None:
    for k, (array, _) in enumerate(levels):
        write_array(folder / str(k), array, ("y", "x"))
    paths = [(str(k), mpp) for k, (_, mpp) in enumerate(levels)]
    ome: dict[str, Any] = {"version": OME_VERSION, "multiscales": [multiscales(name, "yx", paths, base)]}
    if label:
        ome["image-label"] = {
            "colors": [{"label-value": 1, "rgba": [*colour, 128]}],
            "source": {"image": "../../"},
        }
    write_json(folder / "zarr.json", group_json({"ome": ome}))
