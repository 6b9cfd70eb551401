"""Learning rate and optimiser, as plain functions of the step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn


def learning_rate(
    step: int,
    *,
    peak: float,
    steps: int,
    warmup_steps: int,
    schedule: Literal["constant", "cosine"],
) -> float:
    """Rate of one step: linear warm-up, then constant or a half cosine to zero."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_optimizer(
    network: nn.Module, *, kind: Literal["sgd", "adamw"], rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimiser that decays weights of two or more dimensions only (no norms, no biases)."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=rate)
    return torch.optim.SGD(groups, lr=rate, momentum=0.9)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
