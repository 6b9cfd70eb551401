"""Every constant of the method as a named field, nested by stage.

A field's docstring feeds `--help`. Defaults are the paper's, with the section of the paper or
"released" (the released code's configuration) beside each; `presets.py` holds the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from soloist.errors import ConfigError


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _at_least(least: float, section: object, stage: str, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _check(value >= least, f"{stage}.{name} must be at least {least}, got {value}")


def _above_zero(section: object, stage: str, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _check(value > 0, f"{stage}.{name} must be above 0, got {value}")


def _share(section: object, stage: str, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _check(0 <= value <= 1, f"{stage}.{name} must lie in [0, 1], got {value}")


@dataclass(frozen=True)
class BackboneConfig:
    """Which network gives the features."""

    name: str = "resnet50"
    """timm model name (section 4: ResNet-50 and ResNet-101)."""
    weights: str = "none"
    """`bundled`, `none` (random), `timm` (its own) or a file (section 4: DenseCL's)."""
    output_stride: Literal[8, 16, 32] = 32
    """Stride of the last stage (released); 8 and 16 dilate it (where timm supports that)."""
    feature_stride: int = 32
    """Stride of the level Free Mask reads (released: the last stage)."""

    def __post_init__(self) -> None:
        _at_least(1, self, "backbone", "feature_stride")

    stages: int = 4
    """Stages in use (released: all); 3 leaves out the last, a ResNet's heaviest."""


@dataclass(frozen=True)
class FreeMaskConfig:
    """Free Mask (paper section 3.2); the defaults are the paper preset."""

    query_scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Sizes of the query maps relative to the feature map (section 3.2)."""
    mask_threshold: float = 0.5
    """A cell or pixel is foreground when its soft value is at least this (section 3.2)."""
    min_cells: int = 2
    """Masks of fewer feature cells are dropped (released: more than one)."""
    nms_sigma: float = 2.0
    """Width of Matrix NMS' Gaussian kernel (released)."""
    max_masks: int = 20
    """Best masks kept after Matrix NMS (released)."""
    score_threshold: float = 0.7
    """Least maskness after decay (released)."""
    max_box_width: float = 0.95
    """A box must be narrower than this share of the image's width (released)."""
    max_box_height: float = float("inf")
    """A box must be lower than this share of the image's height (ours; released: no limit)."""
    min_center_height: float = 0.2
    """A mask's centre must lie lower than this share of the image's height (released)."""
    largest_part: bool = False
    """Keep only the largest connected part of each mask (ours)."""
    embedding_size: int = 128
    """Queries are interpolated over channels to this many values (released)."""

    def __post_init__(self) -> None:
        _check(
            bool(self.query_scales) and all(0 < s <= 1 for s in self.query_scales),
            f"free_mask.query_scales must be shares in (0, 1], got {self.query_scales}",
        )
        _check(
            0 < self.mask_threshold < 1,
            f"free_mask.mask_threshold must lie in (0, 1), got {self.mask_threshold}",
        )
        _at_least(1, self, "free_mask", "min_cells", "max_masks", "embedding_size")
        _above_zero(self, "free_mask", "nms_sigma")


@dataclass(frozen=True)
class ExtractConfig:
    """How images are prepared for Free Mask."""

    short_side: int = 800
    """Images are resized to this short side, in pixels (released)."""
    max_side: int = 1333
    """Upper bound of the long side after resizing, in pixels (released)."""
    margin: int = 0
    """Pixels of mirrored border added before the backbone and cut off its feature map (ours)."""

    def __post_init__(self) -> None:
        _at_least(1, self, "extract", "short_side", "max_side")
        _at_least(0, self, "extract", "margin")


@dataclass(frozen=True)
class ModelConfig:
    """The SOLO network (paper section 3.3; SOLOv2)."""

    fpn_channels: int = 256
    """Channels of P2..P6 (released)."""
    head_channels: int = 512
    """Channels of the category and kernel towers, a multiple of 32 (released)."""
    mask_channels: int = 128
    """Channels inside the mask feature branch, a multiple of 32 (released)."""
    kernel_channels: int = 256
    """Channels of the mask features and size of a dynamic kernel, D (released)."""
    tower_depth: int = 4
    """Convolutions in each tower (SOLOv2)."""
    embedding_size: int = 128
    """Size of the semantic embedding, E (released)."""
    num_classes: int = 1
    """Classes of the category branch (ours; released: 2, of which free masks use one)."""
    level_strides: tuple[int, ...] = (8, 8, 16, 32, 32)
    """Strides P2..P6 are resized to before the heads (released)."""
    grids: tuple[int, ...] = (40, 36, 24, 16, 12)
    """Grid side of each level (released)."""
    scale_ranges: tuple[tuple[float, float], ...] = (
        (1, 96),
        (48, 192),
        (96, 384),
        (192, 768),
        (384, 2048),
    )
    """Closed range of sqrt(box area) each level learns, in pixels of the input (released)."""
    center_sigma: float = 0.2
    """Positive cells are those of the box shrunk by this around the centre of mass (released)."""

    def __post_init__(self) -> None:
        sides = {len(self.level_strides), len(self.grids), len(self.scale_ranges)}
        _check(
            sides == {5},
            "model.level_strides, grids and scale_ranges need five entries each (P2..P6), got "
            f"{len(self.level_strides)}, {len(self.grids)} and {len(self.scale_ranges)}",
        )
        for name in ("level_strides", "grids"):
            values = getattr(self, name)
            _check(min(values) >= 1, f"model.{name} must be at least 1 each, got {values}")
        for name in ("head_channels", "mask_channels"):
            value = getattr(self, name)
            # GroupNorm has 32 groups (SOLOv2).
            fits = value > 0 and value % 32 == 0
            _check(fits, f"model.{name} must be a multiple of 32, got {value}")
        _at_least(1, self, "model", "fpn_channels", "kernel_channels", "tower_depth")
        _at_least(1, self, "model", "embedding_size", "num_classes")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms (paper section 3.3)."""

    category: float = 1.0
    """Focal loss of the objectness."""
    focal_alpha: float = 0.25
    """Weight of positive cells in the focal loss."""
    focal_gamma: float = 2.0
    """Focusing exponent of the focal loss."""
    semantic: float = 4.0
    """Weight beta of the semantic term; 0 switches it off (the released code does)."""
    max_projection: float = 1.0
    """Dice of the maximum projections."""
    avg_projection: float = 0.1
    """Weight alpha of the dice of the average projections."""
    pairwise_affinity: float = 1.0
    """Colour affinity of neighbouring pixels."""
    pairwise_warmup_steps: int = 1000
    """The affinity term grows linearly over these steps (released)."""
    color_threshold: float = 0.3
    """Pairs count when their colour similarity is at least this (released)."""
    full_mask_dice: float = 0.0
    """Ablation: imitates the coarse mask pixel by pixel (the paper's table 7d)."""

    def __post_init__(self) -> None:
        _at_least(0, self, "loss", *(item.name for item in fields(self)))


@dataclass(frozen=True)
class AugmentConfig:
    """Weak and strong views (paper section 3.3)."""

    short_side: tuple[int, int] = (640, 800)
    """Range the short side is drawn from, in pixels."""
    max_side: int = 1333
    """Upper bound of the long side, in pixels."""
    crop_size: int = 0
    """Side of a random square crop after resizing, in pixels; 0 keeps the whole image."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    strong: bool = True
    """Train on a strong view beside the weak one."""
    copy_paste: int = 3
    """At most this many objects of other weak views are pasted into a strong one."""
    color_jitter: float = 0.8
    """Probability of jitter of brightness, contrast, saturation and hue (strong view)."""
    gray: float = 0.2
    """Probability of a grey picture (strong view)."""
    blur: float = 0.5
    """Probability of a Gaussian blur (strong view)."""
    erase: float = 0.3
    """Probability of an erased rectangle (strong view)."""

    def __post_init__(self) -> None:
        low, high = self.short_side
        _check(
            1 <= low <= high,
            f"augment.short_side must be a range of sides from 1 on, got {self.short_side}",
        )
        _at_least(1, self, "augment", "max_side")
        _at_least(0, self, "augment", "crop_size", "copy_paste")
        _share(self, "augment", "flip", "color_jitter", "gray", "blur", "erase")


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    steps: int = 30_000
    """Optimiser steps of one round."""
    batch_size: int = 16
    """Images per step; each gives one weak and one strong view."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    learning_rate: float = 0.001
    """Peak rate at `batch_size` 16; it is scaled linearly with the batch."""
    weight_decay: float = 1e-4
    """Applied to weights of two or more dimensions."""
    warmup_steps: int = 1000
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up."""
    clip_norm: float = 35.0
    """Largest norm of all gradients together."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are saved; 0 saves the last weights."""
    freeze_norm: bool = True
    """Keep the backbone's batch norms as pretrained (released)."""
    frozen_stages: int = 0
    """Stages of the backbone, its stem first, that are not trained (released: none)."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    workers: int = -1
    """Processes that prepare batches; -1 chooses by itself."""
    cache_gb: float = 2.0
    """Memory for decoded images, in gigabytes, over all workers."""

    def __post_init__(self) -> None:
        _at_least(1, self, "train", "steps", "batch_size", "log_every", "checkpoint_every")
        _at_least(0, self, "train", "learning_rate", "weight_decay", "warmup_steps", "cache_gb")
        _at_least(-1, self, "train", "workers")
        _above_zero(self, "train", "clip_norm")
        _share(self, "train", "ema_decay")


@dataclass(frozen=True)
class InferenceConfig:
    """From raw outputs to masks (released configuration)."""

    short_side: int = 800
    """Images are resized to this short side, in pixels."""
    max_side: int = 1333
    """Upper bound of the long side after resizing, in pixels."""
    category_threshold: float = 0.1
    """Least objectness of a candidate."""
    mask_threshold: float = 0.5
    """A pixel is foreground when its soft value is above this."""
    max_before_nms: int = 500
    """Candidates that enter Matrix NMS."""
    nms_kernel: Literal["gaussian", "linear"] = "gaussian"
    """Kernel of Matrix NMS."""
    nms_sigma: float = 2.0
    """Width of the Gaussian kernel."""
    score_threshold: float = 0.05
    """Least score after Matrix NMS."""
    max_per_image: int = 100
    """Most masks per image."""
    largest_part: bool = False
    """Keep only the largest connected part of each mask (ours)."""

    def __post_init__(self) -> None:
        _at_least(1, self, "inference", "short_side", "max_side")
        _at_least(1, self, "inference", "max_before_nms", "max_per_image")
        _above_zero(self, "inference", "nms_sigma")


@dataclass(frozen=True)
class SelfTrainingConfig:
    """Pseudo-labels and rounds (paper section 3.3; released configuration)."""

    rounds: int = 1
    """Rounds of self-training after the first segmenter."""
    score_threshold: float = 0.3
    """Least score of a pseudo-label."""
    max_per_image: int = 20
    """Most pseudo-labels per image."""
    max_box_width: float = 0.95
    """A box must be narrower than this share of the image's width."""
    start_from: Literal["backbone", "previous"] = "backbone"
    """What a round starts from: the pretrained backbone, or the previous segmenter."""

    def __post_init__(self) -> None:
        _at_least(0, self, "self_training", "rounds")
        _at_least(1, self, "self_training", "max_per_image")


@dataclass(frozen=True)
class PretrainConfig:
    """DenseCL (Wang et al., CVPR 2021) on the user's own images."""

    steps: int = 20_000
    """Optimiser steps."""
    batch_size: int = 64
    """Images per step; each gives two crops."""
    crop_size: int = 128
    """Side of a crop, in pixels."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Range of a crop's share of the image's area."""
    dense_stride: int = 16
    """Stride of the feature level the dense loss acts on."""
    dense_weight: float = 0.5
    """Share of the dense loss; the rest is the global one."""
    projection_size: int = 128
    """Size of the projected vectors."""
    hidden_size: int = 512
    """Hidden size of the projection heads."""
    queue_size: int = 2048
    """Negatives kept for each loss."""
    momentum: float = 0.99
    """Decay of the key encoder at the start; it grows to 1 along a cosine."""
    temperature: float = 0.2
    """Temperature of both InfoNCE losses."""
    norm_groups: int = 2
    """The key batch is shuffled and normalised in this many groups (against leaking statistics)."""
    learning_rate: float = 0.06
    """Peak learning rate of SGD (momentum 0.9) at `batch_size` 64; scaled linearly."""
    weight_decay: float = 1e-4
    """Applied to weights of two or more dimensions."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    workers: int = -1
    """Processes that prepare batches; -1 chooses by itself."""
    cache_gb: float = 2.0
    """Memory for decoded images, in gigabytes, over all workers."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        _check(
            0 < low <= high <= 1,
            f"pretrain.crop_scale must be a range of shares in (0, 1], got {self.crop_scale}",
        )
        _at_least(1, self, "pretrain", "steps", "batch_size", "crop_size", "dense_stride")
        _at_least(1, self, "pretrain", "projection_size", "hidden_size", "norm_groups")
        _at_least(1, self, "pretrain", "log_every", "checkpoint_every")
        _at_least(0, self, "pretrain", "learning_rate", "weight_decay", "warmup_steps", "cache_gb")
        _at_least(-1, self, "pretrain", "workers")
        # A batch's keys all enter the queue.
        _at_least(self.batch_size, self, "pretrain", "queue_size")
        _above_zero(self, "pretrain", "temperature")
        _share(self, "pretrain", "dense_weight", "momentum")


@dataclass(frozen=True)
class Config:
    """All options of a run."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    free_mask: FreeMaskConfig = field(default_factory=FreeMaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    self_training: SelfTrainingConfig = field(default_factory=SelfTrainingConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    seed: int = 0
    """Seed of everything that draws random numbers."""
