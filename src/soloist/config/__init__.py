"""Every constant of the method as a named field, nested by stage.

A field's docstring feeds `--help`. Defaults are the paper's, with the section of the paper or
"released" (the released code's configuration) beside each; `config/presets.py` holds the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from soloist.config.checks import check
from soloist.config.method import (
    AugmentConfig,
    BackboneConfig,
    ExtractConfig,
    FreeMaskConfig,
    InferenceConfig,
    LossConfig,
    ModelConfig,
    RegionConfig,
    SelfTrainingConfig,
)
from soloist.config.reading import DEFAULT_READING, ReadingConfig
from soloist.config.tiles import TileConfig
from soloist.config.tracking import TrackConfig
from soloist.config.training import PretrainConfig, TrainConfig

__all__ = [
    "DEFAULT_READING",
    "AugmentConfig",
    "BackboneConfig",
    "Config",
    "ExtractConfig",
    "FreeMaskConfig",
    "InferenceConfig",
    "LossConfig",
    "ModelConfig",
    "PretrainConfig",
    "ReadingConfig",
    "RegionConfig",
    "SelfTrainingConfig",
    "TileConfig",
    "TrackConfig",
    "TrainConfig",
]


@dataclass(frozen=True)
class Config:
    """All options of a run."""

    reading: ReadingConfig = field(default_factory=ReadingConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    free_mask: FreeMaskConfig = field(default_factory=FreeMaskConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    self_training: SelfTrainingConfig = field(default_factory=SelfTrainingConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    seed: int = 0
    """Seed of everything that draws random numbers."""

    def __post_init__(self) -> None:
        check(
            not self.train.compile or self.augment.crop_size > 0,
            "train.compile needs views of one size: give augment.crop_size a side in pixels, got "
            f"{self.augment.crop_size}",
        )
