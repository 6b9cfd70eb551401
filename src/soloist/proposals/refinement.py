"""Outlines of coarse masks made better by the colours of the image they lie on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from soloist.ops.guided import guided_filter
from soloist.ops.masks import masks_to_boxes
from soloist.ops.resize import linear_weights, reduced, resized_masks
from soloist.structures import Instances

IMAGE_SIDE = 256
"""Short side of the image that outlines follow, in pixels."""


def refine_with_guided_filter(
    found: Instances, pixels: NDArray[np.uint8], radius: float
) -> Instances:
    """Masks whose outlines are drawn to the edges of the image by a guided filter.

    Args:
        found: N instances.
        pixels: (H', W', 3) uint8 RGB, perhaps reduced.
        radius: Of the filter, as a share of the image's short side, in [0, 1]; 0 leaves masks as
            they are.

    Returns:
        At most N instances of the same scores and embeddings; masks that vanish are left out.
    """
    if len(found) == 0 or radius == 0:
        return found
    image = torch.from_numpy(reduced(pixels, IMAGE_SIDE)).to(found.masks.device)
    guide = image.permute(2, 0, 1).float() / 255
    size = (guide.shape[1], guide.shape[2])
    soft = guided_filter(found.masks, guide, max(1, round(radius * min(size))))
    if size == found.image_size:
        masks = soft > 0.5
    else:
        row_weights, column_weights = (
            linear_weights(one, padded=one, cropped=one, target=other)
            for one, other in zip(size, found.image_size, strict=True)
        )
        masks = resized_masks(soft, row_weights, column_weights, 0.5)
    refined = replace(found, masks=masks, boxes=masks_to_boxes(masks))
    return refined.filter(masks.flatten(1).any(dim=1))
