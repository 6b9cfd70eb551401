"""How steady the best masks of a segmenter are: which of several is better, without labels.

A segmenter that knows its objects ranks the same ones first when an image is reduced or enlarged;
one that goes by chance of texture and noise ranks others. The figure compares segmenters on the
same images at the same number of masks; by itself it says little. That a mask is found again at
all says nothing where masks are regions of the image: these hardly change (docs/fit.md).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch

from soloist.data.drawing.rendering import resize_masks
from soloist.data.images import read_with_size
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.evaluation.agreement import best_overlaps
from soloist.evaluation.quality import bounded_size, scaled_views
from soloist.inference.segmenter import Segmenter
from soloist.runtime.files import shown
from soloist.runtime.progress import track
from soloist.runtime.stopping import stop_if_asked

logger = logging.getLogger(__name__)


def steadiness(
    segmenter: Segmenter, images: Sequence[ImageRef], counts: Mapping[str, int]
) -> float:
    """How well the best masks of images are among the best at other scales.

    Args:
        segmenter: Makes the masks.
        images: Some images; those that cannot be read are left out, which is logged.
        counts: By the names of images, how many masks are called the best, at least one: the same
            for all segmenters that are compared. A mask that is missing counts 0.

    Returns:
        Mean over images of the mean overlap (IoU) of the masks with one of each scale, in [0, 1];
        0 if no image can be read.
    """
    total, seen = 0.0, 0
    views = scaled_views(segmenter)
    with track("looking at other scales", len(images)) as tracker:
        for image in images:
            stop_if_asked()
            tracker.advance()
            try:
                pixels, size = read_with_size(image.path, reading=image.reading)
            except DataError as error:
                logger.warning("left out: %s: %s", shown(image.name), error)
                continue
            small, most = bounded_size(size), max(1, counts.get(image.name, 1))
            found = segmenter.masks(pixels, size, most).numpy()
            masks = torch.from_numpy(resize_masks(found, small))
            for view in views:
                again = best_overlaps(masks, view.masks(pixels, small, most))
                total += float(again.sum()) / (most * len(views))
            seen += 1
    return total / max(seen, 1)
