"""A judge of candidates from labelled images: what `finetune` learns in seconds."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from soloist.config import RegionConfig
from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.data.images import read_image
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.proposals.judge import Example, Judge, describe, learn_judge
from soloist.proposals.ranking import overlaps_with, without_overlaps
from soloist.proposals.regions import region_candidates
from soloist.runtime.files import shown
from soloist.runtime.progress import track

logger = logging.getLogger(__name__)

CANDIDATES = 800
"""Candidates of an image that a judge learns from."""
OVERLAP = 0.6
"""Nodes of different trees that overlap by more are one candidate."""
MOST_IMAGES = 64
"""From more labelled images a network learns better; a judge sees this many at most."""


def judge_of(images: Sequence[ImageRef], labels: CocoFile, *, seed: int) -> Judge | None:
    """Learns which candidates are objects.

    Args:
        images: Labelled images, of which the first `MOST_IMAGES` are read.
        labels: Their objects; classes are not told apart.
        seed: Of the weights it starts from.

    Returns:
        The judge; None if no image has a candidate.
    """
    by_name = {image.file_name: labels.annotations[image.id] for image in labels.images}
    examples: list[Example] = []
    chosen = images[:MOST_IMAGES]
    with track("candidates", len(chosen)) as tracker:
        for image in chosen:
            try:
                pixels = read_image(image.path, reading=image.reading)
            except DataError as error:
                logger.warning("left out: %s: %s", shown(image.name), error)
            else:
                example = example_of(pixels, by_name.get(image.name, ()))
                if len(example.prior):
                    examples.append(example)
            tracker.advance()
    return learn_judge(examples, seed=seed) if examples else None


def example_of(pixels: NDArray[np.uint8], objects: Sequence[CocoAnnotation]) -> Example:
    """The candidates of an image of (H, W, 3) uint8 RGB, and how well each fits an object."""
    usual = RegionConfig().nms_threshold
    found, candidates = region_candidates(pixels, most=CANDIDATES, nms_threshold=usual)
    candidates = without_overlaps(candidates, OVERLAP)
    masks = np.zeros((len(objects), *found.size), dtype=bool)
    for mask, one in zip(masks, objects, strict=True):
        whole = torch.from_numpy(decode_mask(one.rle))[None, None].float()
        mask[:] = functional.interpolate(whole, found.size, mode="area")[0, 0].numpy() >= 0.5
    overlaps = overlaps_with(found, candidates, masks)
    size = (pixels.shape[0], pixels.shape[1])
    best = overlaps.max(axis=1) if len(objects) else np.zeros(len(candidates))
    return Example(describe(found, candidates, size), candidates.scores, best)
