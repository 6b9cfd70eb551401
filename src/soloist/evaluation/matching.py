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


def take_best(ious: NDArray[np.floating], threshold: float = 0.5) -> NDArray[np.int64]:
    """Which object each mask takes: one after the other the free one that fits best, as COCO does.

    Args:
        ious: (N, M) intersection over union, the mask of the best score first.
        threshold: Least overlap of a pair.

    Returns:
        (N,) index of the object, -1 where a mask takes none; each occurs once at most.
    """
    taken = np.full(len(ious), -1, dtype=np.int64)
    free = np.ones(ious.shape[1], dtype=np.bool_)
    for place, row in enumerate(ious):
        left = np.where(free, row, -1.0)
        # Of equal ones pycocotools takes the last.
        best = len(left) - 1 - int(left[::-1].argmax()) if len(left) else -1
        if best >= 0 and left[best] >= threshold:
            taken[place] = best
            free[best] = False
    return taken
