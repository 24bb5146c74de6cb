"""A wheel built from the tree installs in a fresh environment, holds only our packages, and works there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

TOP_LEVEL = {"atlas", "atlas_path", "pipelines"}


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(repository),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_wheel_has_only_the_three_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == TOP_LEVEL
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_wheel_carries_the_decoder_where_there_is_a_compiler(wheel: Path) -> None:
    compiled = "atlas_path/slides/_jpeg_fast.so" in zipfile.ZipFile(wheel).namelist()
    assert compiled == (shutil.which("cc") is not None)
    assert wheel.stem.endswith("-none-any") != compiled  # a wheel with it is of one platform


def test_wheel_carries_the_configs(wheel: Path, repository: Path) -> None:
    packed = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "atlas_path/configs/" in name}
    shipped = {path.name for path in (repository / "configs").glob("*.yaml")}
    assert shipped
    assert shipped <= packed


def test_installed_command_works_away_from_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    site = next((place / "lib").glob("python*")) / "site-packages"
    # dependencies come from the environment that runs the tests; our own packages only from the wheel
    keep_out = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]"
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n" + keep_out + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--no-deps"]
    done = subprocess.run([*command, "--quiet", str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tool = place / "bin" / "atlas-path"
    shown = subprocess.run([tool, "--version"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "not AtlasPatch" in shown.stdout
    where = "import atlas_path, pathlib; p = pathlib.Path(atlas_path.__file__).parent; "
    where += "print(p); print(len(list((p / 'configs').glob('*.yaml'))))"
    found = subprocess.run(
        [place / "bin" / "python", "-c", where], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout.split()
    assert Path(found[0]).is_relative_to(place)
    assert int(found[1]) > 0
