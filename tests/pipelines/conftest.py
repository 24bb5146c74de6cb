"""The synthetic slides of the store tests serve here too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_path = Path(__file__).parents[1] / "store" / "conftest.py"
_spec = importlib.util.spec_from_file_location("store_fixtures", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["store_fixtures"] = _module
_spec.loader.exec_module(_module)
make_slide = _module.make_slide
