"""Stores in forkserver DataLoader workers: read from before they start, the same windows come back."""

from __future__ import annotations

import numpy as np
from torch.utils.data import DataLoader, Dataset

from atlas_path.store import PreprocessOptions, Store, open_store
from pipelines.preprocess import preprocess


class Windows(Dataset):
    """The kept windows of some stores, which were already read from in the parent process."""

    def __init__(self, stores: list[Store]) -> None:
        self.stores = stores
        self.windows = [(i, window) for i, store in enumerate(stores) for window in store.kept_windows(0)]
        assert self[0].shape == (3, 256, 256)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, at: int) -> np.ndarray:
        i, window = self.windows[at]
        return self.stores[i].read_windows(0, window[None])[0]


def test_forkserver_workers_read_what_the_parent_reads(make_slide, tmp_path) -> None:
    slide = make_slide("a.tif", tile=240)
    stores = []
    for codec in ("lz4", "jpeg"):
        result = preprocess([slide], tmp_path / codec, PreprocessOptions(workers=0, codec=codec))
        stores.append(open_store(tmp_path / codec / result.records[0].store))
    data = Windows(stores)
    loader = DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="forkserver", timeout=120)
    read = np.concatenate([batch.numpy() for batch in loader])
    np.testing.assert_array_equal(read, np.stack([data[i] for i in range(len(data))]))
