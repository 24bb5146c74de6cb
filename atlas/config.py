"""What a model is, in one frozen dataclass, and the presets.

Everything that shapes a weight or a number lives here and is written to `model.json`; how to run the same
model (kernel, chunk size, checkpointing) is `atlas.attention.Runtime` and changes no number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

Task = Literal["binary", "multiclass", "multilabel", "ordinal", "regression", "survival"]
TASKS: tuple[str, ...] = ("binary", "multiclass", "multilabel", "ordinal", "regression", "survival")
PATCH_PX = 16
"""Side of a token in pixels: the stem's stride."""


@dataclass(frozen=True)
class AtlasConfig:
    """Architecture of one Atlas model. Lengths in tokens, pixels or micrometres as the names say."""

    task: Task = "binary"
    n_outputs: int = 1
    """Logits per case: 1 (binary), classes (multiclass), labels, classes - 1 (ordinal), values, time bins."""
    in_channels: int = 3

    dim: int = 768
    heads: int = 12
    mlp_ratio: float = 4.0
    depths: tuple[int, ...] = (2, 2, 8)
    """Blocks per stage; stage i drops scale i when it is done and the last stage sees the top window only.
    Scales from `len(depths) - 1` on share one set of weights, so an image may have any number of scales."""
    window_tokens: int = 16
    """k: tokens per window side."""
    downsample: int = 4
    """s: a window of scale l + 1 covers s x s windows of scale l."""

    stem: Literal["slim", "reference"] = "slim"
    stem_width: int = 64
    """Slim stem: channels at 1/4 resolution, doubled at 1/8. Reference stem: always `dim / 4`."""
    stem_blocks: tuple[int, int, int] = (0, 1, 1)
    """Slim stem: residual 3x3 blocks at 1/4, 1/8 and 1/16. Reference stem: always 3 at 1/4 and 1/8."""
    stem_norm: Literal["channel", "layer", "batch"] = "channel"
    """'channel': scale and shift per channel, started like BatchNorm; 'layer': LayerNorm of every pixel (far
    slower to learn from scratch, docs/model.md); 'batch': the paper's, which ties a window to its batch."""

    head: Literal["local_evidence", "reference"] = "local_evidence"
    context: Literal["attention", "broadcast"] = "attention"
    """How scale-0 tokens learn the final state of the scales above, for the local-evidence head: one more
    top-down attention block, or (cheap) a projection of the coarse tokens that lie over them."""
    evidence_heads: int = 4
    """Independent softmax weightings of the evidence; contributions are summed over them."""
    evidence_hidden: int = 128

    rope: bool = True
    rope_shortest_um: float = 64.0
    rope_longest_um: float = 50_000.0
    """Wavelengths of the rotary positions are spaced evenly in log between these two, the same at every
    scale.
    """
    position_hidden: int = 512
    position_extent: Literal["window", "image"] = "window"
    """What the in-window position is relative to: the window, or (paper, single partial window) the image
    side.
    """
    pairing: Literal["spatial", "released"] = "spatial"
    """'spatial': a window reads its true ancestors. 'released': the pairing of the published code, for
    parity.
    """

    drop_path: float = 0.0
    """Largest stochastic-depth rate; grows linearly within a stage, drawn once per case."""
    image_kinds: int = 0
    """Embedded kinds of image (mammography: view x side), 0 is 'unknown'; no table when 0."""

    pixel_max: float = 65_535.0
    """Divisor of integer pixels wider than uint8 (which is divided by 255); floats are taken as in [0, 1]."""
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    """Per-channel normalisation after the division; empty means 0.5 and 0.25."""
    pixel_norm: Literal["cohort", "window"] = "cohort"
    """'cohort': the two above for all windows; 'window': every channel of every window is brought to mean 0
    and spread 1, so that a window's own stain and brightness say nothing (docs/model.md)."""

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ValueError("AtlasConfig: " + "; ".join(faults))

    def _faults(self) -> list[str]:
        bad = []
        if self.task not in TASKS:
            bad.append(f"task '{self.task}' is not one of {', '.join(TASKS)}")
        if self.n_outputs < 1 or (self.task == "binary" and self.n_outputs != 1):
            bad.append(f"n_outputs {self.n_outputs} does not fit task '{self.task}'")
        if self.dim % self.heads or (self.rope and (self.dim // self.heads) % 4):
            bad.append(f"dim {self.dim} over {self.heads} heads must leave a multiple of 4 channels a head")
        if self.stem == "reference" and self.dim % 4:
            bad.append("the reference stem needs dim divisible by 4")
        if not self.depths or min(self.depths) < 0:
            bad.append(f"depths {self.depths} must be one or more non-negative numbers")
        if self.downsample < 2 or self.window_tokens % self.downsample:
            bad.append(
                f"window_tokens {self.window_tokens} must be a multiple of downsample {self.downsample}"
            )
        if self.evidence_hidden % self.evidence_heads:
            bad.append("evidence_hidden must be a multiple of evidence_heads")
        if any(v and len(v) != self.in_channels for v in (self.pixel_mean, self.pixel_std)):
            bad.append(f"pixel_mean and pixel_std need {self.in_channels} values")
        return bad

    @property
    def window_px(self) -> int:
        """Side of a scale-0 window in pixels."""
        return self.window_tokens * PATCH_PX

    @property
    def tokens(self) -> int:
        """T: token slots of a window."""
        return self.window_tokens**2

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AtlasConfig:
        """The inverse of `as_dict`.

        Raises:
            ValueError: unknown key or a value that does not fit.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"AtlasConfig: unknown keys {', '.join(unknown)}")
        frozen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**frozen)


PRESETS: dict[str, AtlasConfig] = {
    "tiny": AtlasConfig(
        dim=64, heads=1, mlp_ratio=2.0, depths=(1, 1), stem_width=24, stem_blocks=(0, 0, 2),
        context="broadcast", evidence_heads=4, evidence_hidden=64, position_hidden=64,
    ),
    "S": AtlasConfig(dim=384, heads=6, stem="reference"),
    "B": AtlasConfig(dim=768, heads=12, stem="reference"),
    "B-slim": AtlasConfig(dim=768, heads=12, stem_width=96, stem_blocks=(0, 1, 1)),
}  # fmt: skip


def preset(name: str, **changes: Any) -> AtlasConfig:
    """A named architecture with fields replaced: `preset("tiny", task="multiclass", n_outputs=3)`.

    Raises:
        ValueError: unknown preset, or a change that does not fit.
    """
    if name not in PRESETS:
        raise ValueError(f"preset '{name}' is not one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)
