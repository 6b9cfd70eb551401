"""Mask proposals from hierarchies of regions: the nodes that look most like objects.

Not the paper's: Free Mask's maps are a sixteenth of the image or coarser, so its outlines are
blunt and small objects are missed. Regions of a hierarchy follow the edges of the image.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from soloist.config import RegionConfig
from soloist.ops.features import unit_embeddings, unit_features
from soloist.ops.masks import masks_to_boxes
from soloist.ops.resize import linear_weights, resized_masks
from soloist.proposals.hierarchy import Hierarchies, hierarchies
from soloist.proposals.judge import Judge
from soloist.proposals.ranking import Candidates, ranked, without_overlaps
from soloist.structures import Instances

logger = logging.getLogger(__name__)

MIN_SIDE = 384
"""Short side that smaller images are enlarged to before they are cut up, in pixels."""
REFERENCE_SIDE = 320
"""Larger ones are reduced half the way to this one, on a logarithmic scale."""
MAX_PIXELS = 2**21
"""None is cut up on more, which bounds memory; long and narrow ones are enlarged less."""
POOL_THRESHOLD = 0.8
"""Nodes of one tree that overlap (IoU) by more are one candidate; chosen on `photos/dev`."""
MAX_BYTES = 2**29
"""What the masks of one image may take; more of them than fit are left out, the worst first."""
MASKS_AT_ONCE = 32
"""Masks that are enlarged together."""


def region_masks(
    pixels: NDArray[np.uint8],
    features: Tensor,
    image_size: tuple[int, int],
    config: RegionConfig | None = None,
    judge: Judge | None = None,
) -> Instances:
    """Objects of one image as nodes of its hierarchies.

    Args:
        pixels: (H', W', 3) uint8 RGB of any size.
        features: (C, h, w) float feature map of the whole image.
        image_size: (height, width) of the masks to make, in pixels.
        config: Options; None is the default.
        judge: What finds and orders the nodes, if it was learned from labels.

    Returns:
        At most `config.max_masks` instances, best first: scores in [0, 1] are those of
        `ranking.object_scores` or the judge's, embeddings the (E,) unit mean features interpolated
        over channels, labels those of a judge of several classes.

    Raises:
        ValueError: If a shape is wrong or a feature is not finite.
    """
    config = config or RegionConfig()
    unit = unit_features(features)
    most = 2 * config.max_masks
    if judge is None:
        found, candidates = region_candidates(pixels, most=most, nms_threshold=config.nms_threshold)
        candidates = without_overlaps(candidates, config.nms_threshold)
    else:
        found, candidates = judge.candidates(image_hierarchies(pixels), image_size, most)
    candidates = candidates.filter(candidates.scores >= config.score_threshold)
    fitting = max(1, MAX_BYTES // (image_size[0] * image_size[1]))
    if min(len(candidates), config.max_masks) > fitting:
        logger.warning(
            "%d regions found, the best %d kept: masks of %d x %d pixels would take too much "
            "memory; use --tile for images of this size",
            min(len(candidates), config.max_masks),
            fitting,
            *image_size,
        )
    candidates = candidates.filter(np.arange(min(len(candidates), config.max_masks, fitting)))
    masks = candidate_masks(found, candidates, image_size).to(features.device)
    sums = _feature_sums(found, candidates, unit)
    classes = None if judge is None else judge.classes(found, candidates)
    return Instances(
        image_size=image_size,
        masks=masks,
        scores=torch.from_numpy(candidates.scores).float().to(features.device),
        boxes=masks_to_boxes(masks),
        embeddings=unit_embeddings(sums, config.embedding_size),
        labels=None if classes is None else torch.from_numpy(classes).to(features.device),
    ).filter(masks.flatten(1).any(dim=1))


def region_candidates(
    pixels: NDArray[np.uint8], *, most: int, nms_threshold: float = POOL_THRESHOLD
) -> tuple[Hierarchies, Candidates]:
    """The hierarchies of an image, and the nodes that look most like objects.

    Args:
        pixels: (H', W', 3) uint8 RGB of any size.
        most: How many nodes.
        nms_threshold: A node that overlaps a better one of its tree (IoU) by more is left out.

    Returns:
        The trees, and at most `most` of their nodes, best first.

    Raises:
        ValueError: If the shape or type is wrong.
    """
    found = image_hierarchies(pixels)
    return found, ranked(found, most, nms_threshold)


def image_hierarchies(pixels: NDArray[np.uint8]) -> Hierarchies:
    """The trees of an image of (H', W', 3) uint8 RGB, on its `working_size`.

    Raises:
        ValueError: If the shape or type is wrong.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    return hierarchies(_resized(pixels, working_size(pixels.shape[:2])))


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) on which an image is cut up.

    Half-way, on a logarithmic scale, between its own short side and `REFERENCE_SIDE`: small
    objects of large images stay, and details of photographs do not outweigh objects.
    """
    short = min(size)
    scale = max((short * REFERENCE_SIDE) ** 0.5, MIN_SIDE) / short
    scale = min(scale, (MAX_PIXELS / (size[0] * size[1])) ** 0.5)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    # Reduced images keep what lies between the pixels, enlarged ones have no steps.
    mode = (
        v2.InterpolationMode.BICUBIC if size[0] > pixels.shape[0] else v2.InterpolationMode.BILINEAR
    )
    resized = v2.functional.resize(planes, list(size), interpolation=mode, antialias=True)
    whole: NDArray[np.uint8] = resized.permute(1, 2, 0).contiguous().numpy()
    return whole


def candidate_masks(
    found: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
) -> Tensor:
    """(N, H, W) bool masks of candidates at the size of an image; outlines are interpolated."""
    masks = torch.zeros((len(candidates), *image_size), dtype=torch.bool)
    row_weights, column_weights = (
        linear_weights(own, padded=own, cropped=own, target=target)
        for own, target in zip(found.size, image_size, strict=True)
    )
    for first in range(0, len(candidates), MASKS_AT_ONCE):
        places = range(first, min(first + MASKS_AT_ONCE, len(candidates)))
        small = np.zeros((len(places), found.size[0] * found.size[1]), dtype=np.float32)
        for row, place in zip(small, places, strict=True):
            row[_pixels(found, candidates, place)] = 1
        part = torch.from_numpy(small).view(-1, *found.size)
        masks[places.start : places.stop] = (
            part > 0
            if found.size == image_size
            else resized_masks(part, row_weights, column_weights, 0.5, inclusive=True)
        )
    return masks


def _pixels(found: Hierarchies, candidates: Candidates, place: int) -> NDArray[np.int64]:
    """Flat indices of the pixels of one candidate."""
    tree = found.trees[int(candidates.trees[place])]
    return tree.pixels_of(int(candidates.nodes[place]))


def _feature_sums(found: Hierarchies, candidates: Candidates, unit: Tensor) -> Tensor:
    """(N, C) sums of (C, h, w) features over the pixels of candidates."""
    cells = [
        np.arange(pixels) * count // pixels
        for pixels, count in zip(found.size, unit.shape[1:], strict=True)
    ]
    flat = (cells[0][:, None] * unit.shape[2] + cells[1]).ravel()
    counts = np.zeros((len(candidates), unit.shape[1] * unit.shape[2]), dtype=np.float32)
    for place, row in enumerate(counts):
        row += np.bincount(flat[_pixels(found, candidates, place)], minlength=len(row))
    return torch.from_numpy(counts).to(unit.device) @ unit.flatten(1).T
