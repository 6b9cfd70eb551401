"""Plain vision transformers as networks of one feature map, for images of any size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from soloist.errors import ConfigError

PARTS = 4
"""Parts a transformer's blocks are frozen in, as a convolutional network has four stages."""

# What a vision transformer keeps after its blocks.
_AFTER_BLOCKS = ("norm", "fc_norm", "neck")


class PatchFeatures(nn.Module):
    """The patch tokens of a timm network after its last norm, as a map.

    Class and register tokens are left out: they belong to no place.

    Args:
        model: A timm network with `forward_intermediates`, without its classifier.
        patch: Side of a patch in pixels; the map's stride.
        pretrained_cfg: timm's record of the network: pixel statistics, licence, source.
    """

    def __init__(self, model: nn.Module, *, patch: int, pretrained_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.patch = patch
        self.pretrained_cfg = pretrained_cfg

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map of normalised images.

        Args:
            images: (B, 3, H, W) float.

        Returns:
            A single (B, C, h, w) float map with h = H / patch rounded, at least 1: images of
            other sizes are resized to whole patches, so the map covers the whole image.
        """
        forward: Any = self.model.forward_intermediates
        maps: list[Tensor] = forward(
            whole_patches(images, self.patch),
            indices=1,
            norm=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return maps

    def freeze(self, parts: int) -> None:
        """Stops training of the patch embedding and of the first quarters of the blocks.

        Args:
            parts: Quarters, 1 to 4; with 4 the last norm is frozen too.

        Raises:
            ConfigError: If the network has no blocks.
        """
        blocks = getattr(self.model, "blocks", None)
        if not isinstance(blocks, nn.Sequential | nn.ModuleList):
            raise ConfigError(
                "this backbone has no separate blocks to freeze; set train.frozen_stages to 0"
            )
        last = math.ceil(len(blocks) * min(parts, PARTS) / PARTS)
        trained = {f"blocks.{index}" for index in range(last, len(blocks))}
        if parts < PARTS:
            trained |= set(_AFTER_BLOCKS)
        for name, parameter in self.model.named_parameters():
            head = ".".join(name.split(".")[: 2 if name.startswith("blocks.") else 1])
            parameter.requires_grad_(head in trained)
        for name, child in self.model.named_children():
            if name != "blocks" and name not in trained:
                child.eval()
        for block in blocks[:last]:
            block.eval()


def whole_patches(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) float images with sides rounded to multiples of the patch, at least one."""
    # In whole numbers, so that the network can be exported for images of any size.
    height, width = (max(1, (side + patch // 2) // patch) * patch for side in images.shape[-2:])
    if (height, width) == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
