"""Where a map comes from: stored with the prediction, or computed now from the same windows and model.

contribution   exact terms of the logit (the default)
attention      weight of the read-out; a diagnostic, says nothing about for or against
ig             integrated gradients, as a cross-check
occlusion      change of the logit when windows are taken away, coarse to fine
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atlas import WindowBatch
from atlas.attribution import integrated_gradients, occlusion
from atlas_path.errors import ModelError, UsageError
from atlas_path.results import ScoresInfo, read_table
from atlas_path.store import open_store
from pipelines.attribution_store import (
    AttributionInfo,
    add_method,
    attribution_path,
    read_attribution,
    read_info,
    read_method,
)
from pipelines.ensemble import Ensemble, load_ensemble
from pipelines.explain import Explained
from pipelines.token_map import LevelFrame, TokenMap

COMPUTED = {
    "ig": "integrated gradients of",
    "occlusion": "change on removal of windows, of",
}


class MapSource:
    """Gives the map of an image by the chosen method; loads the model only when a map must be computed."""

    def __init__(
        self,
        scores: Path,
        info: ScoresInfo,
        method: str,
        model: Path | None,
        stores: Path | None,
        device: str,
    ) -> None:
        self.scores, self.info, self.method, self.stores = scores, info, method, stores
        self.model_path = model or scores / info.model_path
        self.device = device
        self._ensemble: Ensemble | None = None
        self._images_of: dict[str, list[str]] | None = None

    def store_path(self, info: AttributionInfo) -> Path:
        """Where the image's store is now.

        Raises:
            UsageError: it is neither where it was nor in `stores`.
        """
        if self.stores is not None:
            path = self.stores / f"{info.image_id}.ome.zarr"
            if not path.is_dir():
                path = self.stores / Path(info.store).name
        else:
            path = self.scores / info.store
        if not path.is_dir():
            raise UsageError(info.image_id, f"its store is not at {path}", "say where with --stores")
        return path

    def prepare(self, info: AttributionInfo, explained: Explained) -> None:
        """Compute and store the map if the method needs it and it is not there yet."""
        path = attribution_path(self.scores, info.image_id)
        if self.method in COMPUTED and read_method(path, self.key(explained)) is None:
            self._compute(info.case_id, explained)

    def key(self, explained: Explained) -> str:
        """Name of the stored array: occlusion depends on the output that steers it."""
        if self.method == "occlusion":
            return f"occlusion_{int(np.abs(explained.weight_O).argmax())}"
        return self.method

    def read(self, info: AttributionInfo, explained: Explained) -> TokenMap:
        """The map of an image (after `prepare`)."""
        path = attribution_path(self.scores, info.image_id)
        stored = read_attribution(path)
        if self.method == "attention":
            return stored.attention_map()
        if self.method == "contribution":
            return stored.token_map(explained.weight_O, explained.what)
        values = read_method(path, self.key(explained))
        if values is None:
            raise UsageError(info.image_id, f"no {self.method} map is stored", "run heatmap again")
        what = f"{COMPUTED[self.method]} {explained.what.removeprefix('contribution to ')}"
        weighted = np.asarray(values @ explained.weight_O.astype(np.float32), np.float32)
        return TokenMap(info.image_id, stored.frame, stored.row_col_N2, weighted, what)

    def attention(self, info: AttributionInfo) -> NDArray[np.float32]:
        """Attention of each window, its tokens summed."""
        stored = read_attribution(attribution_path(self.scores, info.image_id))
        return np.asarray(stored.attention_NT.sum(axis=1), np.float32)

    def ensemble(self) -> Ensemble:
        """The models that scored.

        Raises:
            ModelError: they are gone or have changed.
        """
        if self._ensemble is None:
            name = "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"
            loaded = load_ensemble(self.model_path, torch.device(name))
            if loaded.sha256 != self.info.model_sha256:
                raise ModelError(
                    self.model_path, "is not the model that scored", "give --model the right run"
                )
            self._ensemble = loaded
        return self._ensemble

    def case_images(self, case_id: str) -> list[AttributionInfo]:
        """All images of a case, in the order in which they were scored."""
        if self._images_of is None:
            self._images_of = {}
            for row in read_table(self.scores / "images.csv").to_dict("records"):
                self._images_of.setdefault(str(row["case_id"]), []).append(str(row["image_id"]))
        return [read_info(attribution_path(self.scores, i)) for i in self._images_of[case_id]]

    def batch(self, case_id: str) -> WindowBatch:
        """The windows the case was scored on, read again from its stores."""
        pixels, places, images, sizes, mpps = [], [], [], [], []
        infos = self.case_images(case_id)
        for index, info in enumerate(infos):
            stored = read_attribution(attribution_path(self.scores, info.image_id))
            frame = LevelFrame.from_dict(info.frame)
            store = open_store(self.store_path(info), self.ensemble().info.get("voi"))
            pixels.append(store.read_windows(info.level, stored.row_col_N2))
            places.append(stored.row_col_N2)
            images.append(np.full(len(stored.row_col_N2), index))
            sizes.append((frame.height_px, frame.width_px))
            mpps.append((frame.mpp.y, frame.mpp.x))
        row_col = torch.from_numpy(np.concatenate(places))
        kinds = [info.kind for info in infos]
        return WindowBatch(
            pixels_NCHW=torch.from_numpy(np.concatenate(pixels)),
            row_N=row_col[:, 0].contiguous(),
            col_N=row_col[:, 1].contiguous(),
            image_N=torch.from_numpy(np.concatenate(images)),
            size_I2=torch.tensor(sizes, dtype=torch.int64),
            mpp_I2=torch.tensor(mpps, dtype=torch.float32),
            case_I=torch.zeros(len(infos), dtype=torch.int64),
            embed_I=torch.tensor(kinds) if self.ensemble().members[0].model.cfg.image_kinds else None,
        )

    def _compute(self, case_id: str, explained: Explained) -> None:
        """Compute the maps of all images of a case and store them; mean over the members."""
        batch, members = self.batch(case_id), self.ensemble().members
        maps = []
        for member in members:
            if self.method == "ig":
                outputs = np.flatnonzero(explained.weight_O).tolist()
                values = integrated_gradients(member.model, batch, outputs=outputs)
            else:
                values = occlusion(member.model, batch, output=int(np.abs(explained.weight_O).argmax()))
            maps.append(values.detach().cpu().numpy())
        mean = np.asarray(np.mean(maps, axis=0), np.float32)
        start = 0
        for info in self.case_images(case_id):
            path = attribution_path(self.scores, info.image_id)
            n = len(read_attribution(path).row_col_N2)
            add_method(path, self.key(explained), mean[start : start + n])
            start += n
