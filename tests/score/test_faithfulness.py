"""Deletion and insertion tell a map that points from one that does not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from atlas import WindowBatch
from atlas_path.results import Task
from pipelines.ensemble import CaseMaps, MemberResult
from pipelines.explain import Explained
from pipelines.faithfulness import Faithfulness, measure, summary

SICK = (3, 17, 29)
N = 40


class BrightnessModel:
    """Says 'sick' by the brightest window alone, so the truth about its reasons is known."""

    def __init__(self) -> None:
        self.task = Task(kind="binary", name="t", classes=["well", "sick"])
        self.seen: list[int] = []

    def run(self, batch: WindowBatch, maps: bool):
        self.seen.append(len(batch))
        level = float(batch.pixels_NCHW.float().mean(dim=(1, 2, 3)).max())
        chance = 0.95 if level > 100 else 0.05
        result = MemberResult("m", "", np.zeros(1), np.array([1 - chance, chance]), None)
        return [([result], CaseMaps(None, None, np.zeros(1), np.array([level])))]


def batch() -> WindowBatch:
    pixels = torch.zeros((N, 1, 4, 4), dtype=torch.uint8)
    pixels[list(SICK)] = 200
    index = torch.arange(N)
    zero = torch.zeros(N, dtype=torch.int64)
    return WindowBatch(
        pixels, index, zero, zero, torch.tensor([[N, 4]]), torch.ones(1, 2), torch.zeros(1, dtype=torch.int64)
    )


EXPLAINED = Explained(np.ones(1), "evidence", "sick")


def test_a_pointing_map_passes_and_a_misleading_one_fails() -> None:
    right = np.zeros(N)
    right[list(SICK)] = 1.0
    good = measure(BrightnessModel(), batch(), right, EXPLAINED, seconds=60)
    bad = measure(BrightnessModel(), batch(), -right, EXPLAINED, seconds=60)
    assert good.support == pytest.approx(0.95)
    assert good.faithful is True
    assert good.deletion_map < good.deletion_random
    assert good.insertion_map > good.insertion_random
    assert bad.faithful is False
    assert good.windows_tested == "2 4 10"


def test_a_negative_case_is_judged_by_its_own_call() -> None:
    well = batch()
    well.pixels_NCHW[:] = 0
    result = measure(BrightnessModel(), well, np.zeros(N), EXPLAINED, seconds=60)
    assert result.support == pytest.approx(0.95), "support for 'well'"


def test_time_is_bounded() -> None:
    model = BrightnessModel()
    result = measure(model, batch(), np.zeros(N), EXPLAINED, seconds=0.0)
    assert model.seen == [N], "only the first pass"
    assert result.faithful is None
    assert result.note == "time was short: some steps left out"


def test_the_answer_does_not_depend_on_chance() -> None:
    evidence = np.random.default_rng(3).normal(size=N)
    runs = [measure(BrightnessModel(), batch(), evidence, EXPLAINED, seconds=60) for _ in range(2)]
    assert runs[0] == runs[1]


def test_small_cases_are_not_judged() -> None:
    small = batch().select(torch.arange(3))
    assert measure(BrightnessModel(), small, np.zeros(3), EXPLAINED, 60).note == "fewer than four windows"


def test_summary_counts() -> None:
    tested = Faithfulness(0.9, 0.2, 0.8, 0.9, 0.4, "1", True)
    found = summary([tested, Faithfulness(note="x")])
    assert found == {
        "cases": 2, "tested": 1, "faithful": 1, "why_not": "x", "deletion_gain": pytest.approx(0.6),
        "insertion_gain": pytest.approx(0.5),
    }  # fmt: skip


def test_survival_is_judged_by_the_explained_number() -> None:
    model = BrightnessModel()
    model.task = Task(kind="survival", name="t", classes=["0-1", "1-inf"])
    right = np.zeros(N)
    right[list(SICK)] = 1.0
    explained = SimpleNamespace(weight_O=np.ones(1), what="risk", label="t")
    assert measure(model, batch(), right, explained, 60).faithful is True
