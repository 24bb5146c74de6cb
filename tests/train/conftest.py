"""Small cohorts for training tests, served from memory."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

_SPEC = importlib.util.spec_from_file_location("memory_run", Path(__file__).parent / "memory_run.py")
assert _SPEC is not None
assert _SPEC.loader is not None
memory_run = importlib.util.module_from_spec(_SPEC)
sys.modules["memory_run"] = memory_run
_SPEC.loader.exec_module(memory_run)


@pytest.fixture(autouse=True)
def _restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def memory_cohort(tmp_path, monkeypatch):
    """Writes cohort.csv of n cases and serves their stores from memory; returns the table's path."""
    import atlas_path.store

    def make(**options) -> Path:
        stores = memory_run.write_cohort(tmp_path, **options)
        for name, value in memory_run.serve(stores).items():
            monkeypatch.setattr(atlas_path.store, name, value)
        return tmp_path / "cohort.csv"

    return make


@pytest.fixture
def config_for():
    """Builds a quick `TrainConfig` for a table."""
    return memory_run.config_for


@pytest.fixture
def memory_script() -> Path:
    """The same runs as a process of their own."""
    return Path(memory_run.__file__)
