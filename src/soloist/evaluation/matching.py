"""Which masks of a file lie on which objects of a ground truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.rle import rle_iou
from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.evaluation.image_matching import match_images


@dataclass(frozen=True)
class Overlaps:
    """Masks and true objects of one image.

    Attributes:
        predicted: The N masks, in the file's order.
        objects: The M true objects with a mask; crowd regions are none.
        ious: (N, M) float64 intersection over union.
    """

    predicted: tuple[CocoAnnotation, ...]
    objects: tuple[CocoAnnotation, ...]
    ious: NDArray[np.float64]


def overlaps(predicted: CocoFile, truth: CocoFile) -> dict[int, Overlaps]:
    """The overlaps of every image that both files have, by its id among the predictions.

    Images are matched as `evaluate` does.

    Raises:
        DataError: If no image of the two matches, or images that match differ in size.
    """
    found = {}
    predicted, true_ids = match_images(predicted, truth)
    for image_id, true_id in true_ids.items():
        masks = _masked(predicted.annotations[image_id])
        objects = _masked(one for one in truth.annotations[true_id] if not one.iscrowd)
        ious = rle_iou([one.rle for one in masks], [one.rle for one in objects])
        found[image_id] = Overlaps(masks, objects, ious)
    return found


def _masked(objects: Iterable[CocoAnnotation]) -> tuple[CocoAnnotation, ...]:
    return tuple(one for one in objects if one.segmentation is not None)


def pair_up(ious: NDArray[np.floating], threshold: float = 0.5) -> list[tuple[int, int]]:
    """Pairs of one mask and one object each, the highest overlap first.

    Args:
        ious: (N, M) intersection over union.
        threshold: Least overlap of a pair.

    Returns:
        (mask, object) indices; each occurs once at most.
    """
    pairs: list[tuple[int, int]] = []
    free_masks, free_objects = set(range(ious.shape[0])), set(range(ious.shape[1]))
    for place in np.argsort(-ious, axis=None, kind="stable"):
        mask, one = divmod(int(place), ious.shape[1])
        if ious[mask, one] < threshold:
            break
        if mask in free_masks and one in free_objects:
            pairs.append((mask, one))
            free_masks.remove(mask)
            free_objects.remove(one)
    return pairs
