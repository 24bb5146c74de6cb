"""The house rules that can be read off the tree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "monai", "distributed", "dask", "zarr", "pandas", "numpy", "matplotlib", "openslide"}


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; import atlas_path.cli.main; print(' '.join({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(loaded.split()) & HEAVY == set()


def test_import_contracts_hold(repository: Path) -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_files_stay_readable(repository: Path) -> None:
    """A file of more than 400 lines no longer tells one story."""
    rooms = ("atlas", "atlas_path", "pipelines")
    long = {
        str(path.relative_to(repository)): n
        for room in rooms
        for path in (repository / room).rglob("*.py")
        if (n := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_no_unsafe_loading(repository: Path) -> None:
    """Checkpoints are read with weights_only=True or as safetensors; never a bare torch.load or a pickle."""
    unsafe = []
    for room in ("atlas", "atlas_path", "pipelines"):
        for path in (repository / room).rglob("*.py"):
            text = path.read_text()
            unsafe += [
                f"{path.name}: {call}"
                for call in re.findall(r"torch\.load\([^)]*\)", text)
                if "weights_only=True" not in call
            ]
            unsafe += [f"{path.name}: pickle" for _ in re.findall(r"\bpickle\.loads?\(", text)]
    assert unsafe == []


def test_dockerfile_copies_what_exists(repository: Path) -> None:
    text = (repository / "docker" / "Dockerfile").read_text()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert sources
    assert [source for source in sources if not (repository / source).exists()] == []


@pytest.mark.parametrize("tag", ["py311", "py312"])
def test_constraints_pin_every_requirement(repository: Path, tag: str) -> None:
    import tomllib

    pins = (repository / "docker" / f"constraints-{tag}.txt").read_text().lower()
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = [re.split(r"[\[<>=!~ ]", item)[0].lower() for item in project["dependencies"]]
    assert [name for name in wanted if not re.search(rf"^{re.escape(name)}==", pins, re.MULTILINE)] == []
    assert re.search(r"^torch==2\.\d+\.\d+$", pins, re.MULTILINE), (
        "torch must be pinned without a local label"
    )
    assert "://" not in pins


def test_readme_names_the_two_commands_first(repository: Path) -> None:
    first_screen = "\n".join((repository / "README.md").read_text().splitlines()[:40])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_links_in_docs_lead_somewhere(repository: Path) -> None:
    broken = []
    for page in [
        repository / "README.md",
        repository / "CONTRIBUTING.md",
        *(repository / "docs").glob("*.md"),
    ]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name} -> {target}")
    assert broken == []
