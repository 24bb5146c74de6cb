"""The settings of a training run: one commented YAML file, checked as a whole before anything starts."""

from __future__ import annotations

from atlas_path.config.load import dump_yaml, load_train_config
from atlas_path.config.schema import (
    AugmentConfig,
    DataConfig,
    ImagesConfig,
    ModelConfig,
    OptimConfig,
    OutputConfig,
    PretrainConfig,
    RuntimeConfig,
    SplitConfig,
    TaskConfig,
    TrackConfig,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "ImagesConfig",
    "ModelConfig",
    "OptimConfig",
    "OutputConfig",
    "PretrainConfig",
    "RuntimeConfig",
    "SplitConfig",
    "TaskConfig",
    "TrackConfig",
    "TrainConfig",
    "dump_yaml",
    "load_train_config",
]
