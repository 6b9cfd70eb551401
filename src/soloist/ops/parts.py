"""Connected parts of masks, by scikit-image: torch has no such function.

Importable without torch, for what runs an exported network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

if TYPE_CHECKING:
    from torch import Tensor


def largest_component(masks: Tensor) -> Tensor:
    """Each mask without all but its largest part (pixels that share an edge).

    A query, or a dynamic kernel, often finds like texture elsewhere; a few such pixels stretch the
    box over the image.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, H, W) bool, on the device of masks; empty masks stay empty.
    """
    return masks.new_tensor(largest_components_of_arrays(masks.cpu().numpy()))


def largest_components_of_arrays(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`largest_component` of an array, as a new array."""
    kept = masks.copy()
    for mask in kept:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows) == 0:
            continue
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        parts = label(box, connectivity=1)  # 0 is background
        sizes = np.bincount(parts.ravel())[1:]
        if len(sizes) > 1:
            box[:] = parts == 1 + sizes.argmax()
    return kept
