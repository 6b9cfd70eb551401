"""On how many pixels an image is cut up: coarse enough for large objects, fine enough for small."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from soloist.proposals.hierarchy import Hierarchies, hierarchies
from soloist.proposals.likeness import ranked
from soloist.proposals.ranking import without_overlaps

MIN_SIDE = 384
"""Short side that smaller images are enlarged to before they are cut up, in pixels."""
REFERENCE_SIDE = 320
"""Larger ones are reduced half the way to this one, on a logarithmic scale."""
MAX_PIXELS = 2**21
"""None is cut up on more, which bounds memory; long and narrow ones are enlarged less."""
SMALL_AREA, WANTED_AREA = 200.0, 450.0
"""Where the median object has fewer pixels than the first, an image that was reduced is cut up
again, reduced so much less that it has as many as the second. Chosen on three large images of
`photos/dev/nuclei`, of which AP50 rises from 33, 16 and 33 to 46, 26 and 55 at their own size."""
FINER = 1.3
"""It must have been reduced by more than this, or it is not worth the time."""
SURE, FEWEST = 0.3, 8
"""The median is over objects of at least this score, and counts if there are at least N."""


def image_hierarchies(pixels: NDArray[np.uint8]) -> Hierarchies:
    """The trees of an image of (H', W', 3) uint8 RGB, at the size that fits its objects.

    Raises:
        ValueError: If the shape or type is wrong.
    """
    working, found = _fitted(pixels)
    return hierarchies(working) if found is None else found


def working_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: an image of (H', W', 3) uint8 RGB at the size that fits its objects.

    Raises:
        ValueError: If the shape or type is wrong.
    """
    return _fitted(pixels)[0]


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) on which an image is cut up first.

    Half-way, on a logarithmic scale, between its own short side and `REFERENCE_SIDE`: small
    objects of large images stay, and details of photographs do not outweigh objects.
    """
    short = min(size)
    scale = max((short * REFERENCE_SIDE) ** 0.5, MIN_SIDE) / short
    return _scaled(size, min(scale, _largest(size)))


def _fitted(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Hierarchies | None]:
    """An image at the size that fits its objects, and its trees if they had to be looked at."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    size = (pixels.shape[0], pixels.shape[1])
    first = working_size(size)
    working = _resized(pixels, first)
    finest = _scaled(size, min(1.0, _largest(size)))
    if finest[0] < FINER * first[0]:
        return working, None
    found = hierarchies(working)
    area = _usual_area(found)
    if area >= SMALL_AREA:
        return working, found
    finer = _scaled(first, math.sqrt(WANTED_AREA / area))
    return _resized(pixels, min(finer, finest)), None


def _usual_area(found: Hierarchies) -> float:
    """Median pixels of the objects that an image shows; infinite if it shows few."""
    sure = without_overlaps(ranked(found, 400, 0.6, SURE), 0.3, within_trees=True)
    return float(np.median(sure.areas)) if len(sure) >= FEWEST else math.inf


def _largest(size: tuple[int, int]) -> float:
    """By how much an image can be enlarged, or must be reduced."""
    return float((MAX_PIXELS / (size[0] * size[1])) ** 0.5)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
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
