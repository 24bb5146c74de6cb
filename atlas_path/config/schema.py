"""Every setting of `atlas-path train`, with its unit, its default and what it is for.

Paths in a YAML file are relative to that file. Nothing here reads a file: `load.py` does, with line numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
TaskKind = Literal["binary", "multiclass", "multilabel", "ordinal", "regression", "survival"]


class Section(BaseModel):
    """Base of all sections: unknown keys are faults, and the text under a field is its help."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, validate_default=True, coerce_numbers_to_str=True
    )


class TaskConfig(Section):
    """What is predicted for a case."""

    kind: TaskKind = "binary"
    name: str = "task"
    """Name in prediction tables and reports."""
    label: str | list[str] = "label"
    """Label column; for `multilabel` the list of 0/1 columns."""
    classes: list[str] | None = None
    """Order of the classes; for `binary` the positive class is the second. Default: sorted values."""
    time: str | None = None
    """`survival`: column with the follow-up time (any one unit)."""
    event: str | None = None
    """`survival`: column with 1 = event seen, 0 = censored."""
    n_bins: Annotated[int, Field(ge=2, le=64)] = 8
    """`survival`: number of time bins, cut at quantiles of the training events."""

    @model_validator(mode="after")
    def _columns_fit_kind(self) -> TaskConfig:
        if self.kind == "survival" and not (self.time and self.event):
            raise ValueError("a survival task needs the columns 'time' and 'event'")
        if self.kind == "multilabel" and isinstance(self.label, str):
            raise ValueError("a multilabel task needs a list of columns under 'label'")
        if self.kind != "multilabel" and isinstance(self.label, list):
            raise ValueError("several label columns are for kind 'multilabel'")
        if self.kind == "binary" and self.classes is not None and len(self.classes) != 2:
            raise ValueError("a binary task has two classes: [negative, positive]")
        return self

    @property
    def label_columns(self) -> list[str]:
        """All cohort columns this task reads."""
        if self.kind == "survival":
            return [str(self.time), str(self.event)]
        return list(self.label) if isinstance(self.label, list) else [self.label]


class SplitConfig(Section):
    """How cases are divided when the cohort table does not say. Always by patient."""

    tune: Below1 = 0.2
    """Share of the non-test patients kept for early stopping, calibration and thresholds."""
    test: Below1 = 0.2
    """Share of patients held out, used only when the table has no `split` column."""
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    """k-fold: every non-test patient is in the tuning split once; k models are an ensemble."""
    group_by: str = "patient_id"
    """Folds and splits keep this column together; `site` gives site-preserved folds."""
    test_sites: list[str] = []
    """Sites whose cases are all put into the test split."""


class DataConfig(Section):
    """From stores to windows."""

    stores: Path | None = None
    """Folder that `atlas-path preprocess` wrote."""
    mpp: Positive = 1.0
    """Resolution the model sees, micrometres per pixel; the store level within 10 % is used."""
    min_tissue: Share = 0.01
    """A 256 px window is read when at least this share of it is tissue."""
    max_windows: Count | None = None
    """Most windows of a case in one training step (a random subset each epoch); tuning uses all."""
    max_missing: Share = 0.2
    """Images without a store are left out and listed; above this share the run stops."""
    cache_gb: NotNegative = 2.0
    """Decoded uint8 windows kept in memory; a small study then reads every slide once."""
    workers: Annotated[int, Field(ge=0, le=128)] = 0
    """Loader processes (forkserver). 0 = one background thread, right for small studies and CPUs."""
    prefetch: Annotated[int, Field(ge=1, le=64)] = 2
    """Passes prepared ahead (by each worker)."""
    voi: Annotated[str, Field(pattern=r"^(none|minmax|(header|lut)(\[\d+\])?)$")] = "minmax"
    """Mammograms: how grey values become brightness, for all alike: header[i], lut[i], minmax or none."""
    image_kinds: list[str] = []
    """Cohort columns whose joint value is told to the model, such as [view, laterality]."""


class ModelConfig(Section):
    """Which Atlas."""

    preset: str = "tiny"
    """tiny | S | B | B-slim."""
    head: Literal["local_evidence", "reference"] = "local_evidence"
    options: dict[str, Any] = {}
    """Any other field of `AtlasConfig`."""
    init_from: Path | None = None
    """Run or pretraining folder whose weights are loaded where names and shapes agree."""
    normalise: Literal["cohort", "window", "half", "imagenet"] = "cohort"
    """What pixels are centred and scaled by: measured on training windows; each window's own mean and spread,
    so that its stain and brightness say nothing; 0.5/0.5; or ImageNet's."""
    sync_batchnorm: bool = False
    """BatchNorm stems (options: {stem: reference, stem_norm: batch}) over all GPUs."""


class AugmentConfig(Section):
    """Random changes of training cases; one draw a case, the same for all its windows. Windows that vote
    alone (`optim.window_epochs`) have one draw each."""

    dihedral: bool = True
    """Flips and quarter turns of the whole grid of windows."""
    keep_windows: tuple[Share, Share] = (0.5, 1.0)
    """Range of the share of windows kept, drawn for every case and epoch."""
    grid_shift: bool = False
    """Shift the grid of windows by a random number of tokens, so that cut lines move (windows that vote
    alone: by up to an eighth of their side, what lies beyond it mirrored)."""
    mpp_jitter: Annotated[float, Field(ge=0, le=0.25)] = 0.0
    """Resample by up to this share (0.1: 0.9 to 1.1 times the mpp); the model is told the true mpp."""
    brightness: Share = 0.02
    contrast: Share = 0.05
    """Share of full scale, one draw a case. Small: a shift as large as the spread of tissue keeps a slide
    model trained from scratch from learning at all (0.1 did, on the demo's cohort)."""
    stain: Share = 0.0
    """Strength of the shift and scale in haematoxylin-eosin-DAB space (Tellez et al. 2018)."""
    noise: Share = 0.0
    """Standard deviation of Gaussian noise, relative to full scale."""
    monai: list[dict[str, Any]] = []
    """Further random MONAI intensity transforms: [{name: RandGaussianSmooth, prob: 0.3}, ...]."""

    @model_validator(mode="after")
    def _ranges(self) -> AugmentConfig:
        low, high = self.keep_windows
        if not 0 < low <= high <= 1:
            raise ValueError("keep_windows must be [low, high] with 0 < low <= high <= 1")
        if any(not isinstance(item.get("name"), str) for item in self.monai):
            raise ValueError("every entry of monai needs a name")
        return self


class ImagesConfig(Section):
    """Cohorts that are folders of plain images: `train/<class>/*.jpg`, `val/<class>/*.jpg` (needs kornia)."""

    side_px: Annotated[int, Field(ge=256, multiple_of=256)] = 1024
    """Images are resized to this square."""
    random_crop: tuple[Share, Share] = (0.08, 1.0)
    """Area share of the random crop in training."""
    randaugment: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Magnitude of RandAugment (two operations an image); 0 = off."""
    erasing: Share = 0.0
    mixup: NotNegative = 0.0
    """alpha of mixup's Beta distribution; 0 = off."""
    cutmix: NotNegative = 0.0


class OptimConfig(Section):
    """AdamW, warm-up and cosine, accumulation over cases."""

    epochs: Count = 30
    lr: Positive = 1e-3
    min_lr: NotNegative = 1e-6
    warmup_epochs: NotNegative = 2.0
    weight_decay: NotNegative = 0.05
    """Not applied to biases, norms and other one-dimensional parameters."""
    betas: tuple[float, float] = (0.9, 0.999)
    cases_per_step: Count = 8
    """Cases behind one optimiser step, over all devices."""
    cases_per_pass: Count = 4
    """Most cases packed into one forward pass."""
    windows_per_pass: Count = 512
    """Most windows packed into one forward pass (a larger case goes alone)."""
    clip: NotNegative = 1.0
    """Gradient norm limit; 0 = none."""
    ema: Below1 = 0.0
    """Decay of an exponential moving average of the weights, used for tuning and as result; 0 = off."""
    window_epochs: Annotated[int, Field(ge=0)] = 0
    """First epochs in which every window votes alone against the label of its case: cheap, and it gives the
    attention something to attend to. Part of `epochs`; not tuned; for the local_evidence head."""
    window_draw: Count | None = None
    """Windows drawn of every case in those epochs, instead of `augment.keep_windows`: many small steps that
    mix many cases find rare evidence sooner."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate factor from each layer group to the one below it (fine-tuning)."""
    freeze_stem_epochs: Annotated[int, Field(ge=0)] = 0
    """Fine-tuning: the stem does not move for so many epochs."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """Rare classes: weight their loss, or draw their cases more often."""
    label_smoothing: Below1 = 0.0
    patience: Count | None = None
    """Stop after so many epochs without a better tuning result."""
    monitor: Literal["auto", "loss", "score"] = "auto"
    """What 'better' means: the task's score (AUROC, C-index, ...) or the loss; auto = score, then loss."""


class PretrainConfig(Section):
    """`atlas-path pretrain`: the stem learns the cohort's tissue without labels."""

    epochs: Count = 10
    lr: Positive = 1e-3
    windows_per_step: Annotated[int, Field(ge=8)] = 64
    width: Annotated[int, Field(ge=8)] = 128
    """Width of the space in which two views of a window are compared."""


class OutputConfig(Section):
    """What is stored with the model."""

    calibration: Literal["auto", "temperature", "platt", "none"] = "auto"
    operating_points: list[Literal["youden", "sens95", "sens90", "spec95", "spec90"]] = ["youden", "sens95"]
    """Thresholds frozen on the tuning split."""
    intended_use: str = "Research on the population described by the training cohort. Not for diagnosis."
    licence: str = "not stated"


class TrackConfig(Section):
    """TensorBoard and metrics.jsonl are always written; these are extra and work offline."""

    wandb: bool = False
    mlflow: bool = False
    project: str = "atlas-path"


class RuntimeConfig(Section):
    """Where and how it runs."""

    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on CUDA, float32 elsewhere."""
    memory: Literal["auto", "plain", "stream"] = "auto"
    """`stream` bounds memory by recomputing; auto streams cases above `stream_windows` windows."""
    stream_windows: Count = 1024
    shard: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: replicated parameters, or sharded ones (FSDP2)."""
    threads: Count | None = None
    """CPU threads of torch; default: the cores this process may use."""
    checkpoint_minutes: NotNegative = 10.0
    """A resumable checkpoint at least this often (and after every epoch)."""
    keep_checkpoints: Count = 2


class TrainConfig(Section):
    """A whole training run. See `configs/` for commented examples."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    cohort: Path
    """CSV or Parquet table, one row an image; or a folder train/<class>/*.jpg, val/<class>/*.jpg."""
    out: Path = Path("runs")
    columns: dict[str, str] = {}
    """Names in your table for our names, e.g. {case_id: PATIENT}; the field's usual aliases are known."""
    task: TaskConfig = TaskConfig()
    split: SplitConfig = SplitConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    images: ImagesConfig = ImagesConfig()
    optim: OptimConfig = OptimConfig()
    pretrain: PretrainConfig = PretrainConfig()
    output: OutputConfig = OutputConfig()
    track: TrackConfig = TrackConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> TrainConfig:
        faults = []
        if self.optim.window_epochs and self.model.head != "local_evidence":
            faults.append("optim.window_epochs needs model.head: local_evidence")
        if self.runtime.shard == "fsdp" and (self.optim.window_epochs or self.runtime.memory == "stream"):
            faults.append("runtime.shard: fsdp goes neither with optim.window_epochs nor with memory: stream")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    _source: Path | None = PrivateAttr(None)
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        """Folder of this run."""
        return self.out / self.name

    def where(self, key: str) -> str:
        """`file.yaml:12: a.b` for messages found after loading; the dotted key alone if set elsewhere."""
        line = self._lines.get(key)
        return f"{self._source}:{line}: {key}" if line and self._source else key
