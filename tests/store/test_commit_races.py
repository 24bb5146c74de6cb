"""Two runs that put the same store in its place at once: one wins, and neither fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from atlas_path.store import commit
from atlas_path.store.commit import PartFolder, part_folders, read_completion, store_path


def written(final: Path, content: bytes) -> PartFolder:
    part = PartFolder(final)
    (part.path / "0").mkdir()
    (part.path / "0" / "shard").write_bytes(content)
    return part


def test_the_sweep_of_another_run_removes_the_loser_beside_it(tmp_path, monkeypatch) -> None:
    """The loser removes its lock file first, and the other run takes the folder for a dead writer's."""
    final = store_path(tmp_path, "slide")
    winner, loser = written(final, b"first"), written(final, b"second")
    assert winner.commit([], replace=False, by="winner")
    rmtree, swept = shutil.rmtree, []

    def removed_by_both(path: Path, ignore_errors: bool = False) -> None:
        (path / commit.LOCK).unlink()
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        swept.extend(commit.sweep(tmp_path))
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", removed_by_both)
    assert not loser.commit([], replace=False, by="loser")
    assert swept == [loser.path]
    assert part_folders(tmp_path) == []
    assert read_completion(final)["by"] == "winner"
    assert (final / "0" / "shard").read_bytes() == b"first"


@pytest.mark.parametrize("replace", [True, False])
def test_another_run_replaces_the_store_at_once(tmp_path, monkeypatch, replace: bool) -> None:
    """Between the rename of one run and the removal of its lock file, another run takes the place."""
    final = store_path(tmp_path, "slide")
    first, second = written(final, b"first"), written(final, b"second")
    place = commit._place

    def place_and_be_replaced(part: Path, where: Path, may_replace: bool) -> bool:
        placed = place(part, where, may_replace)
        monkeypatch.setattr(commit, "_place", place)
        assert second.commit([], replace=True, by="second")
        return placed

    monkeypatch.setattr(commit, "_place", place_and_be_replaced)
    assert first.commit([], replace=replace, by="first")
    assert part_folders(tmp_path) == []
    assert read_completion(final)["by"] == "second"
    assert sorted(file.name for file in final.iterdir()) == ["0", commit.COMPLETE]
