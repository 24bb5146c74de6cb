"""Stores: one OME-Zarr 0.5 pyramid an image, written by `preprocess`, read by every later stage."""

from __future__ import annotations

from atlas_path.store.meta import StoreMeta
from atlas_path.store.options import PreprocessOptions
from atlas_path.store.reader import Store, StoreLevel, find_stores, open_store

__all__ = ["PreprocessOptions", "Store", "StoreLevel", "StoreMeta", "find_stores", "open_store"]
