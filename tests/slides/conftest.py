"""Pictures that the slides of this room's tests are made of."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the writers beside this file are plain modules


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """A smooth RGB picture (700, 900, 3) uint8 without symmetry: any shift, flip or swap shows."""
    y, x = np.mgrid[0:700, 0:900].astype(np.float32)
    red = 120 + 90 * np.sin(x / 61) * np.cos(y / 83)
    green = 40 + 160 * (x + 2 * y) / 2300
    blue = 128 + 70 * np.sin((x * y) ** 0.5 / 37) + 40 * (y > 350)
    return np.clip(np.stack([red, green, blue], -1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def channels() -> np.ndarray:
    """Four channels (4, 700, 900) uint16 that use the whole depth and differ from one another."""
    y, x = np.mgrid[0:700, 0:900].astype(np.float64)
    planes = [4000 + 60000 * (x * (c + 1) + y * (4 - c) + 131 * c) / 5000 % 65535 for c in range(4)]
    return np.stack(planes).astype(np.uint16)
