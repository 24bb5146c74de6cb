"""Load weights in the layout of the published code (github.com/YalaLab/atlas) into this model.

Keys of the published state dict are translated one to one; the entries it never uses (`StackMSA.norm`,
`.head`) are left out. The configuration that reproduces it is `reference_config`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from atlas.config import AtlasConfig
from atlas.model import Atlas

_STEM = {
    "conv0.0": "conv0a", "conv0.1": "norm0a", "conv0.3": "conv0b", "conv0.4": "norm0b",
    "ds1.norm": "norm1", "ds1.conv": "down1", "ds2.norm": "norm2", "ds2.conv": "down2",
}  # fmt: skip
_LAYER = {
    "norm1_q": "norm_q", "norm1_kv": "norm_kv", "norm2": "norm_mlp", "attn.q": "q", "attn.kv": "kv",
    "attn.proj": "out", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2",
}  # fmt: skip
_DEAD = re.compile(r"atlas_models\.\d+\.(norm|head)\.")
_STEM_BLOCK = re.compile(r"conv([12])\.(\d)\.conv_block([12])\.([01])\.(.+)")
_BLOCK = re.compile(r"atlas_models\.(\d+)\.levels\.0\.blocks\.(\d+)\.(posemb|blocks)\.(\d+)\.(.+)")


def reference_config(
    dim: int, heads: int, depths: Sequence[int], n_outputs: int, window_tokens: int = 16, downsample: int = 4,
    pairing: str = "released",
) -> AtlasConfig:  # fmt: skip
    """The published architecture: BatchNorm stem, in-window positions only, mean read-out."""
    return AtlasConfig(
        task="multiclass", n_outputs=n_outputs, dim=dim, heads=heads, depths=tuple(depths),
        window_tokens=window_tokens, downsample=downsample,
        stem="reference", stem_norm="batch", head="reference", rope=False,
        position_extent="image", pairing=pairing,  # type: ignore[arg-type]
    )  # fmt: skip


def translate_key(key: str) -> str | None:
    """Our name of a published parameter; None for those the published forward pass never uses.

    Raises:
        ValueError: a key that is not of the published layout.
    """
    if _DEAD.match(key):
        return None
    if key.startswith("atlas_models.0.patch_embed."):
        return "stem." + _stem_key(key.removeprefix("atlas_models.0.patch_embed."))
    if found := _BLOCK.match(key):
        stage, block, what, scale, rest = found.groups()
        layer = f"stages.{stage}.{block}.layers.{scale}."
        return layer + (rest.replace("projector", "position") if what == "posemb" else _layer_key(rest))
    name, _, leaf = key.rpartition(".")
    plain = {"readout_norm": "head.readout_norm", "fc_norm": "head.norm", "fc": "head.linear"}
    if key == "fc.bias":
        return "head.bias.raw_O"
    if name in plain:
        return f"{plain[name]}.{leaf}"
    raise ValueError(f"load_reference: '{key}' is not a key of the published Atlas layout")


def _stem_key(key: str) -> str:
    if found := _STEM_BLOCK.match(key):
        resolution, block, half, part, leaf = found.groups()
        return f"blocks{resolution}.{block}.{'conv' if part == '0' else 'norm'}{half}.{leaf}"
    name, _, leaf = key.rpartition(".")
    if name not in _STEM:
        raise ValueError(f"load_reference: '{key}' is not a stem key of the published Atlas layout")
    return f"{_STEM[name]}.{leaf}"


def _layer_key(key: str) -> str:
    name, _, leaf = key.rpartition(".")
    if name not in _LAYER:
        raise ValueError(f"load_reference: '{key}' is not a block key of the published Atlas layout")
    return f"{_LAYER[name]}.{leaf}"


def load_reference(
    weights: str | Path | Mapping[str, Tensor], heads: int, window_tokens: int = 16, downsample: int = 4,
    pairing: str = "released",
) -> Atlas:  # fmt: skip
    """A model with the weights of the published code, sizes read off the weights.

    Args:
        weights: a safetensors file, a file for `torch.load(weights_only=True)`, or a state dict.
        heads: attention heads (not stored in the weights).
        window_tokens: k of the published configuration (`merge_ratio`).
        downsample: s (`local2global`).
        pairing: 'released' for the published numbers, 'spatial' for true parents.

    Raises:
        ValueError: keys that are not of the published layout or do not fill the model.
    """
    state = weights if isinstance(weights, Mapping) else _read(Path(weights))
    depths: dict[int, int] = {}
    for key in state:
        if found := _BLOCK.match(key):
            stage, block = int(found[1]), int(found[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
    if "fc.weight" not in state or not depths:
        raise ValueError("load_reference: these are not weights of the published Atlas layout")
    n_outputs, dim = state["fc.weight"].shape
    ordered = [depths[i] for i in range(len(depths))]
    model = Atlas(reference_config(dim, heads, ordered, n_outputs, window_tokens, downsample, pairing))
    ours = {name: tensor for key, tensor in state.items() if (name := translate_key(key)) is not None}
    ours["_extra_state"] = torch.tensor(len(depths))
    ours |= {f"normalise.{name}": tensor for name, tensor in model.normalise.state_dict().items()}
    try:
        model.load_state_dict(ours)
    except RuntimeError as err:
        raise ValueError(f"load_reference: weights do not fill the model: {err}") from err
    return model


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        loaded: dict[str, Tensor] = load_file(path)
        return loaded
    state = torch.load(path, map_location="cpu", weights_only=True)
    inner: dict[str, Tensor] = state.get("model", state) if isinstance(state, dict) else {}
    return inner
