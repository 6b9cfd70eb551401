"""Trees and masks of their nodes, slowly and from first principles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soloist.proposals.hierarchy import Tree

Pixels = NDArray[np.uint8]


def noise(height: int, width: int, seed: int = 0, levels: int = 256) -> Pixels:
    """Smooth blobs under noise, with `levels` values."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 200, (height // 5 + 2, width // 5 + 2, 3))
    blobs = rough.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]
    pixels = blobs + rng.integers(0, 40, (height, width, 3))
    return (pixels // (256 // levels) * (256 // levels)).clip(0, 255).astype(np.uint8)


def leaves_of(tree: Tree, node: int) -> list[int]:
    """The leaves whose way up passes a node."""
    leaves = []
    for leaf in range(tree.count):
        at = leaf
        while at != node and tree.parents[at] != at:
            at = int(tree.parents[at])
        if at == node:
            leaves.append(leaf)
    return leaves


def mask_of(tree: Tree, node: int) -> NDArray[np.bool_]:
    """(H, W) pixels of a node."""
    return np.isin(tree.partition.labels, leaves_of(tree, node))


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Overlap of two masks that are not both empty."""
    return float((one & other).sum() / (one | other).sum())
