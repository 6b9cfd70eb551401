"""Who makes the coarse masks that the first training learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soloist.config import Config
from soloist.cuts import cut_masks
from soloist.free_mask import free_masks
from soloist.ops.masks import mask_iou
from soloist.regions import region_masks
from soloist.structures import Instances


class MaskProposer(Protocol):
    """Coarse masks of one image, without labels."""

    def __call__(
        self,
        pixels: NDArray[np.uint8],
        features: Tensor,
        size: tuple[int, int],
        config: Config,
        /,
    ) -> Instances:
        """Proposes masks.

        Args:
            pixels: (H', W', 3) uint8 RGB, perhaps reduced.
            features: (C, h, w) float32 feature map of the whole image.
            size: (height, width) of the masks, in pixels.
            config: Options; each proposer reads its own section.

        Returns:
            Instances, best first.
        """
        ...


def propose(
    pixels: NDArray[np.uint8], features: Tensor, size: tuple[int, int], config: Config
) -> Instances:
    """Masks by the proposer that `extract.proposals` names; see `MaskProposer`."""
    return PROPOSERS[config.extract.proposals](pixels, features, size, config)


def _free_masks(
    _: NDArray[np.uint8], features: Tensor, size: tuple[int, int], config: Config
) -> Instances:
    return free_masks(features, size, config.free_mask)


def _regions(
    pixels: NDArray[np.uint8], features: Tensor, size: tuple[int, int], config: Config
) -> Instances:
    return region_masks(pixels, features, size, config.regions)


def _regions_then_free_masks(
    pixels: NDArray[np.uint8], features: Tensor, size: tuple[int, int], config: Config
) -> Instances:
    """Regions, then the free masks that are none of them; scores of the two are not compared."""
    regions = _regions(pixels, features, size, config)
    others = _free_masks(pixels, features, size, config)
    if len(regions) > 0 and len(others) > 0:
        overlap = mask_iou(others.masks, regions.masks).amax(dim=1)
        others = others.filter(overlap <= config.regions.nms_threshold)
    # Below every region: a free mask's score says how even its query is, no more.
    least = regions.scores.min() if len(regions) > 0 else 1.0
    return Instances(
        size,
        torch.cat([regions.masks, others.masks]),
        torch.cat([regions.scores, others.scores * least]),
        torch.cat([regions.boxes, others.boxes]),
        torch.cat([regions.embeddings, others.embeddings]),
    )


def _cuts(
    _: NDArray[np.uint8], features: Tensor, size: tuple[int, int], config: Config
) -> Instances:
    return cut_masks(features, size, config.cuts)


PROPOSERS: Mapping[str, MaskProposer] = {
    "free-mask": _free_masks,
    "regions": _regions,
    "regions+free-mask": _regions_then_free_masks,
    "cuts": _cuts,
}
