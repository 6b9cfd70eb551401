"""Connected parts of masks, by scikit-image: torch has no such function."""

from __future__ import annotations

import numpy as np
import torch
from skimage.measure import label
from torch import Tensor


def largest_parts(masks: Tensor) -> Tensor:
    """Each mask without all but its largest part (pixels that share an edge).

    A query, or a dynamic kernel, often finds like texture elsewhere; a few such pixels stretch the
    box over the image.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, H, W) bool, on the device of masks; empty masks stay empty.
    """
    kept = masks.cpu().numpy().copy()
    for index, mask in enumerate(kept):
        parts = label(mask, connectivity=1)  # (H, W), 0 is background
        sizes = np.bincount(parts.ravel())[1:]
        if len(sizes) > 1:
            kept[index] = parts == 1 + sizes.argmax()
    return torch.from_numpy(kept).to(masks.device)
