"""SOLOv2's branches (Wang et al., NeurIPS 2020) with FreeSOLO's semantic embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_GROUPS = 32
"""Groups of every GroupNorm (SOLOv2)."""
PRIOR = 0.01
"""Objectness of a cell before training (RetinaNet's prior, section 4.1 there)."""


class GroupNorm(nn.GroupNorm):
    """GroupNorm whose backward pass is quick for narrow groups on a processor.

    PyTorch's channels-last backward takes 7 times as long as the contiguous one where a group
    has 2 channels (16 maps of 64x40x40 in bfloat16, one thread: 23.0 against 3.4 ms; a tower's
    step 199 against 121 ms). From 4 channels on the conversion no longer pays.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (B, C, H, W) float; the memory layout stays as it was."""
        narrow = self.num_channels < 4 * self.num_groups
        if not (narrow and input.device.type == "cpu" and torch.is_grad_enabled()):
            return super().forward(input)
        channels_last = input.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return super().forward(input.contiguous()).contiguous(memory_format=layout)


def resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing without antialiasing (`align_corners=False`), (B, C, H, W) to size."""
    if _size(features) == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def coordinates(features: Tensor) -> Tensor:
    """Where each cell lies, so that a kernel can tell objects apart by position.

    Args:
        features: (B, C, H, W) float; gives size, device and dtype.

    Returns:
        (B, 2, H, W) float in [-1, 1]: x, then y; the first and last cell get -1 and 1.
    """
    height, width = features.shape[-2:]
    x = _positions(width, features.device).expand(height, width)
    y = _positions(height, features.device)[:, None].expand(height, width)
    count = features.shape[0]  # `len` would fix it when the network is exported.
    return torch.stack([x, y]).to(features.dtype).expand(count, 2, height, width)


def _positions(length: int, device: torch.device) -> Tensor:
    """(length,) float32 from -1 to 1; `linspace` would fix the length when it is exported."""
    cells = torch.arange(length, dtype=torch.float32, device=device)
    return cells * 2 / cells[-1:].clamp(min=1) - 1


class CategoryBranch(nn.Module):
    """Objectness of each grid cell and, from the same tower, its semantic embedding.

    Args:
        in_channels: Channels of the pyramid.
        channels: Channels of the tower.
        depth: Convolutions in the tower.
        num_classes: K; 1 is objectness.
        embedding_size: E.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int,
        depth: int = 4,
        num_classes: int = 1,
        embedding_size: int = 128,
    ) -> None:
        super().__init__()
        self.tower = _tower(in_channels, channels, depth)
        self.category = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.embedding = nn.Conv2d(channels, embedding_size, 3, padding=1)
        _initialise(self)
        assert self.category.bias is not None
        nn.init.constant_(self.category.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts from the features of one level.

        Args:
            features: (B, C, S, S) float, resized to the grid.

        Returns:
            Category logits (B, K, S, S) and semantic embeddings (B, E, S, S), not normalised.
        """
        hidden = self.tower(features)
        return self.category(hidden), self.embedding(hidden)


class KernelBranch(nn.Module):
    """Weights of the 1x1 dynamic convolution that draws each cell's mask.

    Args:
        in_channels: Channels of the pyramid, without the coordinates.
        channels: Channels of the tower.
        depth: Convolutions in the tower.
        kernel_channels: D.
    """

    def __init__(
        self, in_channels: int, *, channels: int, depth: int = 4, kernel_channels: int = 256
    ) -> None:
        super().__init__()
        self.tower = _tower(in_channels + 2, channels, depth)
        self.kernel = nn.Conv2d(channels, kernel_channels, 3, padding=1)
        _initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        """Predicts from one level.

        Args:
            features: (B, C + 2, S, S) float, resized to the grid; the coordinates come last.

        Returns:
            (B, D, S, S) float kernels.
        """
        kernels: Tensor = self.kernel(self.tower(features))
        return kernels


class MaskFeatureBranch(nn.Module):
    """Merges P2..P5 at the size of P2 into the features every dynamic kernel reads.

    A level climbs to P2 by blocks that are each followed by a resizing to the next finer level;
    P2 itself passes one block. The last resizing is linear and the same for all levels, so it
    acts once on their sum.

    Args:
        in_channels: Channels of the pyramid.
        channels: Channels inside the branch.
        out_channels: D.
        num_levels: Levels merged, at least 2; the coarsest gets the coordinates.
    """

    def __init__(
        self, in_channels: int, *, channels: int, out_channels: int = 256, num_levels: int = 4
    ) -> None:
        super().__init__()
        widths = [in_channels] * (num_levels - 1) + [in_channels + 2]
        self.levels = nn.ModuleList(
            _Climb(width, channels, num_blocks=max(level, 1)) for level, width in enumerate(widths)
        )
        self.merge = _block(channels, out_channels, kernel_size=1)
        _initialise(self)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Merges the levels.

        Args:
            pyramid: P2..P5, one (B, C, H_i, W_i) float per level.

        Returns:
            (B, D, H_2, W_2) float >= 0.
        """
        *fine, coarsest = pyramid
        maps = [*fine, torch.cat([coarsest, coordinates(coarsest)], dim=1)]
        sizes = [_size(level) for level in pyramid]
        finest = self.levels[0](maps[0], [])  # (B, C, H_2, W_2)
        coarse = self.levels[1](maps[1], [])  # (B, C, H_3, W_3)
        for level in range(2, len(maps)):
            coarse = coarse + self.levels[level](maps[level], sizes[1:level][::-1])
        features: Tensor = self.merge(finest + resize(coarse, sizes[0]))
        return features


class _Climb(nn.Module):
    """Blocks with a resizing between each two."""

    def __init__(self, in_channels: int, channels: int, *, num_blocks: int) -> None:
        super().__init__()
        self.blocks = _tower(in_channels, channels, num_blocks)

    def forward(self, x: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """From (B, C_in, H, W) to (B, C, *sizes[-1]); one size per gap between two blocks."""
        for step, block in enumerate(self.blocks):
            x = block(x if step == 0 else resize(x, sizes[step - 1]))
        return x


def _size(features: Tensor) -> tuple[int, int]:
    return features.shape[-2], features.shape[-1]


def _block(in_channels: int, channels: int, kernel_size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False),
        GroupNorm(_groups(channels), channels),
        nn.ReLU(inplace=True),
    )


def _tower(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    widths = [in_channels] + [channels] * depth
    return nn.Sequential(*(_block(a, b) for a, b in pairwise(widths)))


def _groups(channels: int) -> int:
    """32 where that divides the channels, else fewer; below 32 channels, pairs."""
    return math.gcd(NORM_GROUPS, channels if channels >= NORM_GROUPS else max(channels // 2, 1))


def _initialise(module: nn.Module) -> None:
    """Normal weights of deviation 0.01 and zero biases in every convolution (SOLOv2)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
