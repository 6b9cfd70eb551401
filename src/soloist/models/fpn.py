"""Feature pyramid (Lin et al., CVPR 2017): backbone maps C2..C5 -> P2..P6 of equal width."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Adds what coarse levels know to fine levels, top down.

    The coarser map is resized to the finer one's actual size, so neighbouring levels may have
    equal strides (a dilated backbone) and image sides need not be multiples of 32. Levels
    beyond the backbone's are the one below, subsampled by 2.

    Args:
        in_channels: Channels of the backbone's maps, finest first.
        out_channels: Channels of every level.
        num_levels: Levels returned, P2 first; at least as many as the backbone gives.

    Raises:
        ValueError: If there is no input map or fewer levels than input maps.
    """

    def __init__(
        self, in_channels: Sequence[int], *, out_channels: int = 256, num_levels: int = 5
    ) -> None:
        super().__init__()
        if not 1 <= len(in_channels) <= num_levels:
            raise ValueError(
                f"in_channels must have 1 to {num_levels} entries (num_levels), "
                f"got {len(in_channels)}; choose other levels of the backbone"
            )
        self.lateral = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels
        )
        self.num_levels = num_levels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Builds the pyramid.

        Args:
            features: C2..C5, one (B, C_i, H_i, W_i) float per entry of in_channels.

        Returns:
            P2..P6, one (B, out_channels, H_i, W_i) float per level; P6 has half of P5's sides,
            rounded up.

        Raises:
            ValueError: If the number of maps is not that of in_channels.
        """
        if len(features) != len(self.lateral):
            raise ValueError(
                f"the FPN was built for {len(self.lateral)} feature maps, got {len(features)}"
            )
        laterals = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        merged = [laterals[-1]]  # coarsest first
        for lateral in reversed(laterals[:-1]):
            merged.append(lateral + F.interpolate(merged[-1], size=lateral.shape[-2:]))
        levels = [conv(x) for conv, x in zip(self.output, reversed(merged), strict=True)]
        while len(levels) < self.num_levels:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return levels
