"""The SOLO network (paper section 3.3; SOLOv2): images -> raw outputs, no targets, no losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from soloist.models.fpn import FPN
from soloist.models.heads import (
    CategoryBranch,
    KernelBranch,
    MaskFeatureBranch,
    coordinates,
    resize,
)
from soloist.models.simple_pyramid import SimplePyramid
from soloist.structures import SOLOOutputs

MASK_LEVELS = 4
"""P2..P5 go into the mask features (SOLOv2)."""


class Sizes(TypedDict, total=False):
    """Channels and classes of a network; what is left out is the paper's.

    Attributes:
        fpn_channels: Channels of P2..P6.
        head_channels: Channels of the category and kernel towers.
        mask_channels: Channels inside the mask feature branch.
        kernel_channels: Channels of the mask features and size of a dynamic kernel, D.
        tower_depth: Convolutions in each tower.
        embedding_size: Size of the semantic embedding, E.
        num_classes: K; 1 is objectness.
    """

    fpn_channels: int
    head_channels: int
    mask_channels: int
    kernel_channels: int
    tower_depth: int
    embedding_size: int
    num_classes: int


PAPER = Sizes(
    fpn_channels=256,
    head_channels=512,
    mask_channels=128,
    kernel_channels=256,
    tower_depth=4,
    embedding_size=128,
    num_classes=1,
)


class SOLO(nn.Module):
    """Backbone, feature pyramid and SOLOv2's three branches.

    Args:
        backbone: Maps images to C2..C5: a list of (B, C_i, H_i, W_i) maps, finest first, the
            first of stride 4.
        backbone_channels: Channels of these maps.
        neck: Makes C2..C5 where the backbone has one map only; None where it has all.
        level_strides: Strides in pixels the levels are resized to before the heads.
        grids: Grid side of each level.
        sizes: Channels and classes; see `Sizes`.

    Raises:
        ValueError: If level_strides and grids differ in length.
        TypeError: If there is no such size.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        backbone_channels: Sequence[int],
        neck: SimplePyramid | None = None,
        level_strides: Sequence[int] = (8, 8, 16, 32, 32),
        grids: Sequence[int] = (40, 36, 24, 16, 12),
        **sizes: Unpack[Sizes],
    ) -> None:
        super().__init__()
        if len(level_strides) != len(grids):
            raise ValueError(
                "level_strides and grids must have one entry per level, got "
                f"{len(level_strides)} and {len(grids)}"
            )
        unknown = sizes.keys() - PAPER.keys()
        if unknown:
            raise TypeError(f"wanted some of {', '.join(PAPER)}, got {', '.join(sorted(unknown))}")
        widths: Sizes = {**PAPER, **sizes}
        fpn_channels = widths["fpn_channels"]
        self.level_strides = tuple(level_strides)
        self.grids = tuple(grids)
        self.backbone = backbone
        self.neck = neck
        channels = backbone_channels if neck is None else neck.channels
        self.fpn = FPN(channels, out_channels=fpn_channels, num_levels=len(grids))
        self.category_branch = CategoryBranch(
            fpn_channels,
            channels=widths["head_channels"],
            depth=widths["tower_depth"],
            num_classes=widths["num_classes"],
            embedding_size=widths["embedding_size"],
        )
        self.kernel_branch = KernelBranch(
            fpn_channels,
            channels=widths["head_channels"],
            depth=widths["tower_depth"],
            kernel_channels=widths["kernel_channels"],
        )
        self.mask_feature_branch = MaskFeatureBranch(
            fpn_channels,
            channels=widths["mask_channels"],
            out_channels=widths["kernel_channels"],
            num_levels=MASK_LEVELS,
        )

    def forward(self, images: Tensor) -> SOLOOutputs:
        """Runs the network.

        Args:
            images: (B, 3, H, W) float, normalised as the backbone expects.

        Returns:
            Raw logits, kernels, embeddings and mask features; the same in train and eval mode.
        """
        return self.heads(self.backbone(images), (images.shape[-2], images.shape[-1]))

    def heads(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> SOLOOutputs:
        """What follows the backbone.

        Args:
            features: Of the backbone, one (B, C_i, H_i, W_i) float per level.
            image_size: (height, width) of the images, in pixels.

        Returns:
            As `forward`.
        """
        if self.neck is not None:
            features = self.neck(features[-1], image_size)
        pyramid = self.fpn(features)
        levels = split_levels(pyramid, image_size=image_size, strides=self.level_strides)
        category_logits, kernels, embeddings = [], [], []
        for level, side in zip(levels, self.grids, strict=True):
            cells = resize(level, (side, side))  # (B, C, S, S)
            logits, embedding = self.category_branch(cells)
            category_logits.append(logits)
            embeddings.append(embedding)
            kernels.append(self.kernel_branch(with_coordinates(cells, level)))
        return SOLOOutputs(
            category_logits=tuple(category_logits),
            kernels=tuple(kernels),
            semantic_embeddings=tuple(embeddings),
            mask_features=self.mask_feature_branch(pyramid[:MASK_LEVELS]),
        )


def split_levels(
    pyramid: Sequence[Tensor], *, image_size: tuple[int, int], strides: Sequence[int]
) -> list[Tensor]:
    """Resizes each level of the pyramid to the stride its head works at.

    Args:
        pyramid: P2..P6, one (B, C, H_i, W_i) float per level.
        image_size: (height, width) of the network's input in pixels.
        strides: Wanted stride of each level, in pixels.

    Returns:
        One (B, C, ceil(H / stride), ceil(W / stride)) float per level.
    """
    height, width = image_size
    return [
        resize(level, (math.ceil(height / stride), math.ceil(width / stride)))
        for level, stride in zip(pyramid, strides, strict=True)
    ]


def with_coordinates(cells: Tensor, level: Tensor) -> Tensor:
    """Appends the coordinates of the level to its features on the grid.

    Resizing acts on each channel alone: only the two coordinate channels of one image are
    resized here, which equals resizing features and coordinates together.

    Args:
        cells: (B, C, S, S) float features resized to the grid.
        level: (B, C, H, W) float features before that.

    Returns:
        (B, C + 2, S, S) float; x and y come last, in [-1, 1].
    """
    position = resize(coordinates(level[:1]), (cells.shape[-2], cells.shape[-1]))
    return torch.cat([cells, position.expand(cells.shape[0], -1, -1, -1)], dim=1)
