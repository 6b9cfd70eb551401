"""Options of how networks are trained: the loops of SOLO and of its backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from soloist.config.checks import above_zero, at_least, check, share


@dataclass(frozen=True)
class TrainConfig:
    """The training loop; where nothing is recorded of the released one, the default is ours."""

    steps: int = 30_000
    """Optimiser steps of one round (released)."""
    batch_size: int = 16
    """Images per step; each gives one weak and one strong view (released)."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD (released) with momentum 0.9, or AdamW."""
    learning_rate: float = 0.001
    """Peak rate at `batch_size` 16; scaled linearly with the batch (released)."""
    weight_decay: float = 1e-4
    """Applied to weights of two or more dimensions (ours)."""
    warmup_steps: int = 1000
    """Steps of linear warm-up (released)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up (ours; nothing else is recorded)."""
    clip_norm: float = 35.0
    """Largest norm of all gradients together (ours)."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are saved; 0 saves the last weights (released)."""
    freeze_norm: bool = True
    """Keep the backbone's batch norms as pretrained (released)."""
    frozen_stages: int = 0
    """Stages of the backbone, its stem first, that are not trained (released: none)."""
    compile: bool = False
    """Compile the network by torch.compile: slower on a CPU, not measured on a GPU; needs a C++
    compiler and `augment.crop_size` (ours)."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    workers: int = -1
    """Processes that prepare batches; -1 chooses by itself."""
    cache_gb: float = 2.0
    """Memory for decoded images, in gigabytes, over all workers."""
    max_bad_steps: int = 10
    """Steps in a row without finite loss and gradient that end training; all are skipped (ours)."""

    def __post_init__(self) -> None:
        at_least(1, self, "train", "steps", "batch_size", "log_every", "checkpoint_every")
        at_least(1, self, "train", "max_bad_steps")
        at_least(0, self, "train", "learning_rate", "weight_decay", "warmup_steps", "cache_gb")
        at_least(-1, self, "train", "workers")
        above_zero(self, "train", "clip_norm")
        share(self, "train", "ema_decay")


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
    queue_size: int = 2048
    """Negatives kept for each loss."""
    norm_groups: int = 2
    """The key batch is shuffled and normalised in this many groups (against leaking statistics)."""
    learning_rate: float = 0.06
    """Peak learning rate of SGD (momentum 0.9) at `batch_size` 64; scaled linearly."""
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
    max_bad_steps: int = 10
    """Steps in a row without finite loss and gradient that end training; all are skipped (ours)."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        check(
            0 < low <= high <= 1,
            f"pretrain.crop_scale must be a range of shares in (0, 1], got {self.crop_scale}",
        )
        at_least(1, self, "pretrain", "steps", "batch_size", "crop_size", "dense_stride")
        at_least(1, self, "pretrain", "norm_groups", "log_every", "checkpoint_every")
        at_least(1, self, "pretrain", "max_bad_steps")
        at_least(0, self, "pretrain", "learning_rate", "warmup_steps", "cache_gb")
        at_least(-1, self, "pretrain", "workers")
        # A batch's keys all enter the queue.
        at_least(self.batch_size, self, "pretrain", "queue_size")
        share(self, "pretrain", "dense_weight")
