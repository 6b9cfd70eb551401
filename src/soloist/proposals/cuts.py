"""Mask proposals by normalised cuts of the feature map, one object after the other.

Written from the idea of TokenCut (Wang et al., CVPR 2022) and MaskCut (Wang et al., CVPR 2023):
cells are the nodes of a graph whose edges join like features; the second smallest eigenvector of
its normalised Laplacian (Shi and Malik, PAMI 2000) parts an object from the rest, which is then cut
again.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from skimage.measure import label
from torch import Tensor
from torch.nn import functional

from soloist.config import CutConfig
from soloist.ops.features import unit_embeddings, unit_features
from soloist.ops.masks import masks_to_boxes
from soloist.structures import Instances

Floats = NDArray[np.float32]

_NO_EDGE = 1e-5
"""Weight of an edge between unlike cells: the graph stays connected."""


def cut_masks(
    features: Tensor, image_size: tuple[int, int], config: CutConfig | None = None
) -> Instances:
    """Objects of one image, cut out of its feature map one by one.

    Memory grows with (h * w) ** 2.

    Args:
        features: (C, h, w) float feature map of the whole image.
        image_size: (height, width) of the masks to make, in pixels.
        config: Options; None is the default.

    Returns:
        At most `config.objects` instances, best first: scores in [0, 1] are the mean cosine within
        a mask less the mean cosine to what lies outside of it; embeddings the (E,) unit mean
        features interpolated over channels.

    Raises:
        ValueError: If features is not 3-D, has an empty side or a value that is not finite.
    """
    config = config or CutConfig()
    unit = unit_features(features).flatten(1).T  # (h * w, C)
    cells = (features.shape[1], features.shape[2])
    cosines = (unit @ unit.T).cpu().numpy()
    found: list[NDArray[np.bool_]] = []
    free = np.ones(len(cosines), dtype=np.bool_)
    for _ in range(config.objects):
        mask = _cut(cosines, free, cells, config.threshold)
        if mask.sum() < config.min_cells or _contrast(cosines, mask) <= 0:
            break
        found.append(mask)
        free &= ~mask
    grids = np.array(found, dtype=np.bool_).reshape(-1, len(cosines))
    scores = np.array([_contrast(cosines, mask) for mask in grids], dtype=np.float32)
    order = np.argsort(-scores, kind="stable")
    masks = _upsample(torch.from_numpy(grids[order]).view(-1, *cells), image_size)
    masks = masks.to(features.device)
    sums = torch.from_numpy(grids[order]).to(unit) @ unit
    return Instances(
        image_size=image_size,
        masks=masks,
        scores=torch.from_numpy(scores[order].clip(0, 1)).to(features.device),
        boxes=masks_to_boxes(masks),
        embeddings=unit_embeddings(sums, config.embedding_size),
    ).filter(masks.flatten(1).any(dim=1))


def _cut(
    cosines: Floats, free: NDArray[np.bool_], cells: tuple[int, int], threshold: float
) -> NDArray[np.bool_]:
    """(h * w,) bool of the object that stands out most among the free cells; empty if none does."""
    number = len(cosines)
    nothing = np.zeros(number, dtype=np.bool_)
    if free.sum() < 3:
        return nothing
    edges = np.where(cosines[np.ix_(free, free)] >= threshold, 1.0, _NO_EDGE)
    roots = 1 / np.sqrt(edges.sum(axis=1))
    normalised = roots[:, None] * edges * roots
    # The largest two of this matrix are the smallest two of the normalised Laplacian. Iterative
    # solvers are quicker, but start again at random where a graph falls into equal parts.
    last = len(edges) - 1
    _, vectors = eigh(normalised, subset_by_index=(last - 1, last))
    second = roots * vectors[:, 0]
    seed = int(np.abs(second - second.mean()).argmax())
    side = second > second.mean()
    if not side[seed]:
        side = ~side
    whole = nothing.copy()
    whole[free] = side
    parts = label(whole.reshape(cells), connectivity=1).ravel()
    return np.asarray(parts == parts[np.flatnonzero(free)[seed]])


def _contrast(cosines: Floats, mask: NDArray[np.bool_]) -> float:
    """Mean cosine of a mask's cells with each other, less that with the cells outside."""
    rows = cosines[mask]
    outside = rows[:, ~mask]
    return float(rows[:, mask].mean() - (outside.mean() if outside.size else 1.0))


def _upsample(grids: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool of (N, h, w) bool."""
    if len(grids) == 0:
        return grids.new_zeros((0, *size))
    soft = functional.interpolate(grids[None].float(), size, mode="bilinear", align_corners=False)
    return soft[0] >= 0.5
