"""Mask proposals by merging superpixels: features and colours decide what belongs together.

Not the paper's: Free Mask's maps are a sixteenth of the image or coarser, so its outlines are
blunt and small objects are missed. Superpixels follow the outlines of the picture. Merging the
most alike neighbours first (hierarchical grouping, as in selective search, Uijlings et al., IJCV
2013, and multiscale grouping, Arbelaez et al., CVPR 2014) makes a tree; an object is a node of
it that is costly to merge with anything beside it, compact, with contrast all along its outline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.segmentation import slic
from torch import Tensor
from torch.nn import functional

from soloist.config import RegionConfig
from soloist.ops.features import unit_embeddings, unit_features
from soloist.ops.masks import masks_to_boxes
from soloist.ops.resize import reduced
from soloist.structures import Instances

Floats = NDArray[np.float64]

LAB_UNIT = 20.0
"""Distance in CIE-Lab that counts as much as one feature vector differs from another."""
SMOOTHING = 0.7
"""Standard deviation of the filter before contrasts are read, in pixels."""
LEAST_CONTRAST = 0.05
"""Added to contrasts before they are divided by."""
HALF_COST, HALF_CONTRAST = 3.0, 1.0
"""Cost of its merge, and contrast, that give a region half of the score."""


def region_masks(
    pixels: NDArray[np.uint8],
    features: Tensor,
    image_size: tuple[int, int],
    config: RegionConfig | None = None,
) -> Instances:
    """Objects of one image as groups of its superpixels.

    Args:
        pixels: (H', W', 3) uint8 RGB of any size.
        features: (C, h, w) float feature map of the whole image.
        image_size: (height, width) of the masks to make, in pixels.
        config: Options; None is the default.

    Returns:
        At most `config.max_masks` instances, best first: scores in [0, 1] are what `_scores`
        explains, embeddings the (E,) unit mean features interpolated over channels.

    Raises:
        ValueError: If a shape is wrong or a feature is not finite.
    """
    config = config or RegionConfig()
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    unit = unit_features(features).cpu().numpy()
    picture = reduced(pixels, config.short_side)
    labels = superpixels(picture, config)
    leaves = _leaves(rgb2lab(picture), unit, labels, config)
    tree = _merge(leaves, config)
    scores = _scores(leaves, tree, config)
    chosen = _distinct(leaves, tree, scores, config)
    masks = _masks(labels, tree.members[chosen], image_size).to(features.device)
    shares = tree.members[chosen] * leaves.areas
    sums = torch.from_numpy(shares @ leaves.features).float().to(features.device)
    return Instances(
        image_size=image_size,
        masks=masks,
        scores=torch.from_numpy(scores[chosen]).float().to(features.device),
        boxes=masks_to_boxes(masks),
        embeddings=unit_embeddings(sums, config.embedding_size),
    ).filter(masks.flatten(1).any(dim=1))


@dataclass(frozen=True)
class _Leaves:
    """The n superpixels of a picture.

    Attributes:
        areas: (n,) pixels.
        features: (n, C) mean unit features.
        distances: (n, n) squared distances of what describes them: colour and features.
        seams: (n, n) pixels along which two touch; 0 where they do not.
        contrasts: (n, n) colour contrast summed over these.
        sides: (n, 4) bool, which sides of the picture each touches.
    """

    areas: Floats
    features: Floats
    distances: Floats
    seams: Floats
    contrasts: Floats
    sides: NDArray[np.bool_]


@dataclass(frozen=True)
class _Tree:
    """Superpixels, and what they were merged to: N nodes, the leaves first.

    Attributes:
        members: (N, n) bool, the leaves of a node.
        deaths: (N,) cost at which a node was merged with another; 0 for what is left.
    """

    members: NDArray[np.bool_]
    deaths: Floats


def superpixels(pixels: NDArray[np.uint8], config: RegionConfig) -> NDArray[np.int64]:
    """(H, W) numbers from 0 on of the superpixel that each of (H, W, 3) uint8 pixels is in."""
    labels: NDArray[np.int64] = slic(
        pixels,
        n_segments=config.superpixels,
        compactness=config.compactness,
        start_label=0,
        channel_axis=2,
    )
    return labels


def _leaves(
    lab: Floats, unit: NDArray[np.float32], labels: NDArray[np.int64], config: RegionConfig
) -> _Leaves:
    count = int(labels.max()) + 1
    flat = labels.ravel()
    areas = np.bincount(flat, minlength=count).astype(np.float64)
    channels = lab.reshape(-1, 3).T
    means = [np.bincount(flat, weights=one, minlength=count) / areas for one in channels]
    colors = np.stack(means, axis=1) / LAB_UNIT
    features = _cell_weights(labels, unit.shape[1:], count) @ unit.reshape(len(unit), -1).T
    described = np.concatenate([colors, config.feature_weight * features], axis=1)
    squares = np.square(described).sum(axis=1)
    distances = squares[:, None] + squares - 2 * described @ described.T
    smooth = ndimage.gaussian_filter(lab, (SMOOTHING, SMOOTHING, 0))
    seams, contrasts = np.zeros((count, count)), np.zeros((count, count))
    for rows, values in ((labels, smooth), (labels.T, smooth.swapaxes(0, 1))):
        # The contrast between the second pixels off the seam: a picture's edges are soft.
        difference = np.zeros((rows.shape[0] - 1, rows.shape[1]))
        difference[1:-1] = np.linalg.norm(values[3:] - values[:-3], axis=2) / LAB_UNIT
        across = rows[:-1] != rows[1:]
        pairs = rows[:-1][across] * count + rows[1:][across]
        for total, weights in ((seams, None), (contrasts, difference[across])):
            found = np.bincount(pairs, weights=weights, minlength=count**2).reshape(count, count)
            total += found + found.T
    sides = np.zeros((count, 4), dtype=bool)
    for side, border in enumerate((labels[0], labels[-1], labels[:, 0], labels[:, -1])):
        sides[border, side] = True
    return _Leaves(areas, features, np.maximum(distances, 0), seams, contrasts, sides)


def _cell_weights(
    labels: NDArray[np.int64], cells: tuple[int, ...], count: int
) -> NDArray[np.float64]:
    """(n, h * w): how much of each feature cell a superpixel's mean is, interpolated bilinearly."""
    taps = []
    for pixels, side in zip(labels.shape, cells, strict=True):
        places = ((np.arange(pixels) + 0.5) * side / pixels - 0.5).clip(0, side - 1)
        first = np.floor(places).astype(np.int64)
        second = np.minimum(first + 1, side - 1)
        taps.append(((first, 1 - places + first), (second, places - first)))
    weights: Floats = np.zeros(count * cells[0] * cells[1])
    for rows, row_weights in taps[0]:
        for columns, column_weights in taps[1]:
            index = (labels * cells[0] + rows[:, None]) * cells[1] + columns
            weights += np.bincount(
                index.ravel(),
                weights=np.outer(row_weights, column_weights).ravel(),
                minlength=len(weights),
            )
    table = weights.reshape(count, -1)
    normalised: Floats = table / table.sum(axis=1, keepdims=True)
    return normalised


def _merge(leaves: _Leaves, config: RegionConfig) -> _Tree:
    """Merges the two touching regions that cost least, until one is left.

    The cost is the distance of their means plus the mean contrast along their seam, times a power
    of the smaller one's share of the picture: small regions are merged early. Distances of means
    follow from those of the parts (Lance and Williams, 1967), so that a merge is a few operations
    on rows.
    """
    count = len(leaves.areas)
    areas, total = leaves.areas.copy(), leaves.areas.sum()
    distances, seams, contrasts = (
        array.copy() for array in (leaves.distances, leaves.seams, leaves.contrasts)
    )

    def cost(row: int) -> Floats:
        touching = seams[row] > 0
        costs = np.full(count, np.inf)
        smaller = np.minimum(areas[row], areas[touching]) / total
        costs[touching] = (
            np.sqrt(distances[row, touching])
            + config.contrast_weight * contrasts[row, touching] / seams[row, touching]
        ) * smaller**config.size_power
        return costs

    costs = np.stack([cost(row) for row in range(count)])
    nodes = list(range(count))  # of the rows
    members = np.eye(2 * count - 1, count, dtype=bool)
    deaths = np.zeros(2 * count - 1)
    highest = 0.0
    for made in range(count, 2 * count - 1):
        kept, gone = divmod(int(costs.argmin()), count)
        # A merge may make the next one cheaper; that one is made no earlier for it.
        highest = max(highest, float(costs[kept, gone]))
        deaths[nodes[kept]] = deaths[nodes[gone]] = highest
        members[made] = members[nodes[kept]] | members[nodes[gone]]
        share = areas[kept] / (areas[kept] + areas[gone])
        merged = (
            share * distances[kept]
            + (1 - share) * distances[gone]
            - share * (1 - share) * distances[kept, gone]
        )
        distances[kept] = distances[:, kept] = np.maximum(merged, 0)
        areas[kept] += areas[gone]
        for total_of in (seams, contrasts):
            total_of[kept] += total_of[gone]
            total_of[:, kept] = total_of[kept]
            total_of[kept, kept] = 0
            total_of[gone] = total_of[:, gone] = 0
        costs[gone] = costs[:, gone] = np.inf
        costs[kept] = costs[:, kept] = cost(kept)
        nodes[kept] = made
    return _Tree(members, deaths)


def _scores(leaves: _Leaves, tree: _Tree, config: RegionConfig) -> Floats:
    """How much each node looks like an object, (N,) in [0, 1].

    The geometric mean of how unlike its surroundings it is (the cost at which it was merged), its
    compactness (its area relative to that of a square of its outline) and the contrast along its
    outline, whose weak stretches count most (harmonic mean); times a factor for each side of the
    picture it touches, three of which make it background.
    """
    members = tree.members.astype(np.float64)
    areas = members @ leaves.areas
    outline = (members @ leaves.seams * (1 - members)).sum(axis=1)
    means = leaves.contrasts / np.maximum(leaves.seams, 1)
    resistance = leaves.seams / (means + LEAST_CONTRAST)
    # Of the root, which has no outline, nothing is left.
    contrast = outline / np.maximum((members @ resistance * (1 - members)).sum(axis=1), 1e-9)
    compactness = np.minimum(16 * areas / np.maximum(outline, 1) ** 2, 1)
    touched = (tree.members[:, :, None] & leaves.sides).any(axis=1).sum(axis=1)
    border = np.where(touched < 3, config.border_factor**touched, 0.0)
    unlike = tree.deaths / (tree.deaths + HALF_COST)
    clear = contrast / (contrast + HALF_CONTRAST)
    scores = np.cbrt(unlike * compactness * clear) * border
    share = areas / leaves.areas.sum()
    return np.where((share >= config.least_area) & (share <= config.most_area), scores, 0.0)


def _distinct(
    leaves: _Leaves, tree: _Tree, scores: Floats, config: RegionConfig
) -> NDArray[np.int64]:
    """The best nodes, best first, without those too like a better one."""
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > config.score_threshold]
    members = tree.members[order].astype(np.float64)
    areas = members @ leaves.areas
    shared = (members * leaves.areas) @ members.T
    overlaps = shared / (areas[:, None] + areas - shared)
    kept: list[int] = []
    for candidate in range(len(order)):
        if len(kept) == config.max_masks:
            break
        if not (overlaps[candidate, kept] > config.nms_threshold).any():
            kept.append(candidate)
    return order[kept]


def _masks(labels: NDArray[np.int64], members: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """(K, H, W) bool at the image's size; outlines are interpolated."""
    masks = torch.from_numpy(members[:, labels])
    if len(masks) == 0:
        return masks.new_zeros((0, *size))
    if tuple(masks.shape[1:]) == size:
        return masks
    soft = functional.interpolate(masks[None].float(), size, mode="bilinear", align_corners=False)
    return soft[0] >= 0.5
