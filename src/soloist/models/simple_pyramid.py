"""Several maps from the one of a plain vision transformer (ViTDet: Li et al., ECCV 2022)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from soloist.models.heads import resize

FINEST = 4
"""Stride of the finest map, in pixels: what SOLO's masks are drawn at."""


class SimplePyramid(nn.Module):
    """C2, C3, ... of strides 4, 8, 16 and 32 from one map: deconvolutions and pooling.

    A map is doubled or halved as often as brings it nearest to its stride. Patches of 16 pixels
    then fit exactly; from 14 come 3.5, 7, 14 and 28, which are resized to 4, 8, 16 and 32, so
    that masks and heads see the strides they were built for.

    Args:
        channels: Channels of the map.
        stride: Its stride in pixels.
        levels: Maps given, finest first.

    Attributes:
        channels: Channels of each map given; a doubled map has half as many.
    """

    def __init__(self, channels: int, *, stride: int, levels: int = 4) -> None:
        super().__init__()
        self.strides = tuple(FINEST * 2**level for level in range(levels))
        doublings = [round(math.log2(stride / wanted)) for wanted in self.strides]
        self.channels = tuple(_width(channels, times) for times in doublings)
        self.levels = nn.ModuleList(_scaled(channels, times) for times in doublings)

    def forward(self, features: Tensor, image_size: tuple[int, int]) -> list[Tensor]:
        """Makes the maps.

        Args:
            features: (B, C, h, w) float, which covers the whole image.
            image_size: (height, width) of the network's input in pixels.

        Returns:
            One (B, C_i, ceil(H / stride_i), ceil(W / stride_i)) float per level.
        """
        height, width = image_size
        return [
            resize(level(features), (math.ceil(height / stride), math.ceil(width / stride)))
            for level, stride in zip(self.levels, self.strides, strict=True)
        ]


class _PixelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of a (B, C, H, W) map."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Halved(nn.Module):
    """Maximum of each 2x2 square; an odd last row or column is kept."""

    def forward(self, features: Tensor) -> Tensor:
        return F.max_pool2d(features, kernel_size=2, ceil_mode=True)


def _width(channels: int, doublings: int) -> int:
    return max(1, channels >> max(doublings, 0))


def _scaled(channels: int, doublings: int) -> nn.Sequential:
    """Doubles a map N times, with norm and GELU between; halves it where negative."""
    layers: list[nn.Module] = []
    for step in range(doublings):
        if step > 0:
            layers += [_PixelNorm(_width(channels, step)), nn.GELU()]
        widths = _width(channels, step), _width(channels, step + 1)
        layers.append(nn.ConvTranspose2d(*widths, kernel_size=2, stride=2))
    layers += [_Halved() for _ in range(-doublings)]
    return nn.Sequential(*layers)
