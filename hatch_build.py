"""Compiles the JPEG decoder (`atlas_path/slides/jpeg_c`) for a wheel or an editable installation.

There need not be a compiler: without one the package is pure Python and decodes with libjpeg-turbo alone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE, LIBRARY = "atlas_path/slides/jpeg_c/jpeg_fast.c", "atlas_path/slides/_jpeg_fast.so"
FLAGS = ("-O3", "-fwrapv", "-fPIC", "-shared", "-Wno-psabi")


class CompileDecoder(BuildHookInterface[Any]):
    """See `hatchling`'s custom build hooks."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and make the wheel one of this platform. `version` is 'standard' or 'editable'."""
        library = Path(self.root, LIBRARY)
        try:
            compile_decoder(Path(self.root, SOURCE), library)
        except (OSError, subprocess.CalledProcessError) as error:
            library.unlink(missing_ok=True)
            why = getattr(error, "stderr", None) or error
            self.app.display_warning(
                f"no C compiler, so JPEG tiles are decoded by libjpeg-turbo alone ({why})"
            )
            return
        if version == "editable":
            return
        build_data["force_include"][str(library)] = LIBRARY
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def compile_decoder(source: Path, library: Path) -> None:
    """Compile to `library`, which is replaced at once: a process that has the old one open keeps it.

    Raises:
        OSError: there is no compiler.
        subprocess.CalledProcessError: it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    fresh = library.with_suffix(f".{os.getpid()}")
    try:
        command = [*compiler, *FLAGS, str(source), "-o", str(fresh)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        fresh.replace(library)
    finally:
        fresh.unlink(missing_ok=True)
