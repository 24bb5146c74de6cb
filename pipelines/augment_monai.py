"""MONAI's random intensity transforms, one draw a case: `augment.monai` lists them by name and arguments.

Example: `monai: [{name: RandGaussianSmooth, prob: 0.3}, {name: RandAdjustContrast, gamma: [0.7, 1.5]}]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from atlas_path.errors import ConfigError


def monai_change(
    pixels_NCHW: np.ndarray, transforms: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> np.ndarray:
    """Apply transforms to every window with the same random state; values go in as a share of full scale.

    Raises:
        ConfigError: a name that is no random MONAI array transform, or arguments that do not fit it.
    """
    if not transforms:
        return pixels_NCHW
    chain = _build(
        tuple(
            (t["name"], tuple(sorted((k, _frozen(v)) for k, v in t.items() if k != "name")))
            for t in transforms
        )
    )
    seeds = rng.integers(0, 2**31, len(chain))
    top = float(np.iinfo(pixels_NCHW.dtype).max) if np.issubdtype(pixels_NCHW.dtype, np.integer) else 1.0
    out = np.empty_like(pixels_NCHW)
    for source, target in zip(pixels_NCHW, out, strict=True):
        window = source.astype(np.float32) / top
        for transform, seed in zip(chain, seeds, strict=True):
            transform.set_random_state(seed=int(seed))
            window = transform(window)
        target[...] = np.clip(np.asarray(window) * top + (0.5 if top > 1 else 0), 0, top)
    return out


@lru_cache(maxsize=8)
def _build(described: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]) -> list[Any]:
    import monai.transforms as library

    chain = []
    for name, arguments in described:
        kind = getattr(library, name, None)
        if not (isinstance(kind, type) and issubclass(kind, library.RandomizableTransform)) or name.endswith(
            "d"
        ):
            raise ConfigError(
                "augment.monai", f"augment.monai: '{name}' is no random MONAI transform", "check its name"
            )
        try:
            chain.append(kind(**dict(arguments)))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                "augment.monai", f"augment.monai: {name}: {error}", "check its arguments"
            ) from error
    return chain


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
