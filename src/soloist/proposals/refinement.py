"""Coarse masks made better by the picture they lie on: outlines by colour, scores by contrast."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from soloist.ops.features import unit_features
from soloist.ops.guided import guided_filter
from soloist.ops.masks import masks_to_boxes
from soloist.ops.resize import linear_weights, reduced, resized_masks
from soloist.structures import Instances

PICTURE_SIDE = 256
"""Short side of the picture that outlines follow, in pixels."""
CELLS = 64
"""Cells of the short side on which a mask and its surroundings are compared."""
SURROUNDINGS = 8
"""Cells around a mask that are its surroundings."""


def follow_colors(found: Instances, pixels: NDArray[np.uint8], radius: float) -> Instances:
    """Masks whose outlines are drawn to the edges of the picture by a guided filter.

    Args:
        found: N instances.
        pixels: (H', W', 3) uint8 RGB, perhaps reduced.
        radius: Of the filter, as a share of the picture's short side, in [0, 1]; 0 leaves masks as
            they are.

    Returns:
        At most N instances of the same scores and embeddings; masks that vanish are left out.
    """
    if len(found) == 0 or radius == 0:
        return found
    picture = torch.from_numpy(reduced(pixels, PICTURE_SIDE)).to(found.masks.device)
    guide = picture.permute(2, 0, 1).float() / 255
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


def weigh_by_contrast(found: Instances, features: Tensor, power: float) -> Instances:
    """Instances whose scores say too how unlike their surroundings they are.

    A score is multiplied by a power of half the distance between the mean unit features of the
    mask and of a strip around it, which is in [0, 1].

    Args:
        found: N instances, masks not empty.
        features: (C, h, w) float feature map of the whole image.
        power: Of the contrast; at least 0, which leaves scores as they are.

    Returns:
        N instances, best first.
    """
    if len(found) == 0 or power == 0:
        return found
    height, width = features.shape[1:]
    scale = CELLS / min(height, width)
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    unit = unit_features(features)
    unit = functional.interpolate(unit[None], size, mode="bilinear", align_corners=False)[0]
    inside = torch.cat(
        [functional.interpolate(one[None, None].float(), size, mode="area") for one in found.masks]
    )
    side = 2 * SURROUNDINGS + 1
    around = functional.max_pool2d(inside, side, 1, SURROUNDINGS) - inside
    # A mask that covers the picture has no surroundings, and no contrast.
    least = torch.finfo(torch.float32).tiny
    means = [
        shares.flatten(1) @ unit.flatten(1).T / shares.sum(dim=(1, 2, 3))[:, None].clamp(min=least)
        for shares in (inside, around)
    ]
    contrast = (means[0] - means[1]).norm(dim=1) / 2
    contrast = torch.where(around.sum(dim=(1, 2, 3)) > 0, contrast, 0)
    scored = replace(found, scores=found.scores * contrast**power)
    return scored.top_k(len(scored))
