"""The order of training and the loader: plans divide exactly, threads and workers give the same pixels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipelines.data import WindowReader
from pipelines.data_loader import PassDataset, PassLoader, epoch_order, plan_epoch, plan_tuning


def plan(config, n=10, world=1, epoch=0, **options):
    ids = [f"c{i}" for i in range(n)]
    return [
        plan_epoch(ids, [4] * n, [1.0] * n, config, epoch, rank, world, **options) for rank in range(world)
    ]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_case_once_and_weights_sum_to_one(tmp_path, config_for, world):
    passes = [p for rank in plan(config_for(tmp_path / "c.csv"), world=world) for p in rank]
    seen = Counter(c for p in passes for c, w in zip(p.case_ids, p.weights, strict=True) if w > 0)
    assert set(seen.values()) == {1}
    assert len(seen) == 10
    for step in range(3):
        assert sum(sum(p.weights) for p in passes if p.step == step) == pytest.approx(1.0)


def test_every_process_ends_every_step_once(tmp_path, config_for):
    for rank in plan(config_for(tmp_path / "c.csv"), n=9, world=2):
        assert [p.step for p in rank if p.last_of_step] == [0, 1, 2]


def test_order_depends_on_seed_and_epoch_only():
    assert (epoch_order(50, 1, 2) == epoch_order(50, 1, 2)).all()
    assert (epoch_order(50, 1, 2) != epoch_order(50, 1, 3)).any()
    assert (epoch_order(50, 1, 2) != epoch_order(50, 2, 2)).any()


def test_balanced_sampling_draws_classes_alike():
    chance = np.where(np.arange(100) < 10, 0.5 / 10, 0.5 / 90)
    drawn = epoch_order(100, 0, 0, chance)
    assert abs((drawn < 10).sum() - 50) <= 1


def test_steps_hold_both_classes(tmp_path, config_for):
    strata = ["0", "1"] * 6
    (passes,) = plan(config_for(tmp_path / "c.csv"), n=12, strata=strata)
    for step in range(3):
        cases = [int(c[1:]) for p in passes if p.step == step for c in p.case_ids]
        assert Counter(strata[c] for c in cases) == {"0": 2, "1": 2}


def test_a_large_case_goes_alone(tmp_path, config_for):
    config = config_for(tmp_path / "c.csv", optim={"windows_per_pass": 10, "cases_per_pass": 4})
    groups = plan_tuning(["a", "b", "c", "d"], [4, 4, 50, 4], config)
    assert [p.case_ids for p in groups] == [("a", "b"), ("c",), ("d",)]


@pytest.fixture
def loaded(memory_cohort, config_for):
    from pipelines.train_prepare import prepare

    def make(**data):
        config = config_for(memory_cohort(n=6), data=data)
        prepared = prepare(config, quiet=True)
        ids = prepared.ids("train")
        passes = plan_epoch(ids, [4] * len(ids), [1.0] * len(ids), config, 0)
        return PassLoader(PassDataset(prepared.found.cases, prepared.targets, config, False)), passes

    return make


def test_cache_gives_what_the_store_gives(loaded):
    with_cache, passes = loaded(cache_gb=1)
    without, _ = loaded(cache_gb=0)
    for _ in range(2):
        for a, b in zip(with_cache.run(passes), without.run(passes), strict=True):
            assert a.batch.pixels_NCHW.equal(b.batch.pixels_NCHW)
            assert a.batch.row_N.equal(b.batch.row_N)
            assert a.target.equal(b.target)


def test_budget_is_kept(loaded):
    loader, passes = loaded(cache_gb=4 * 3 * 256**2 / 2**30)
    list(loader.run(passes))
    reader = loader.dataset.reader
    assert isinstance(reader, WindowReader)
    assert 0 < reader.used_bytes <= reader.budget_bytes


def test_error_in_the_thread_reaches_the_caller_and_leaving_early_stops_it(loaded, monkeypatch):
    import threading

    loader, passes = loaded()
    for _ in loader.run(passes):
        break
    assert not [t for t in threading.enumerate() if t.name == "window-reader"]
    monkeypatch.setattr(loader.dataset, "cases", {})
    with pytest.raises(KeyError):
        list(loader.run(passes))
