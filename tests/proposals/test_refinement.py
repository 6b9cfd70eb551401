"""Outlines by colour, on images whose objects are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from soloist.ops.masks import mask_iou, masks_to_boxes
from soloist.proposals.refinement import refine_with_guided_filter
from soloist.structures import Instances

SIZE = (60, 80)


def disc(radius: float, center: tuple[float, float] = (30, 40), scale: int = 1) -> Tensor:
    rows = torch.arange(SIZE[0] * scale)[:, None] / scale - center[0]
    columns = torch.arange(SIZE[1] * scale)[None] / scale - center[1]
    return rows**2 + columns**2 < radius**2


def instances(*masks: Tensor, scores: tuple[float, ...] | None = None) -> Instances:
    stacked = torch.stack(masks)
    return Instances(
        image_size=(stacked.shape[1], stacked.shape[2]),
        masks=stacked,
        scores=torch.tensor(scores or [0.9 - 0.1 * k for k in range(len(masks))]),
        boxes=masks_to_boxes(stacked),
        embeddings=torch.eye(len(masks), 4),
    )


def image(mask: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = np.full((*SIZE, 3), 40, dtype=np.uint8)
    pixels[mask.numpy()] = (220, 120, 60)
    return pixels


@pytest.mark.parametrize("scale", [1, 3])
def test_outlines_follow_the_colors(scale: int) -> None:
    blunt = instances(disc(12, scale=scale), disc(19, scale=scale))
    found = refine_with_guided_filter(blunt, image(disc(15)), 0.15)
    assert found.masks.shape == blunt.masks.shape
    truth = disc(15, scale=scale)[None]
    before, after = mask_iou(blunt.masks, truth), mask_iou(found.masks, truth)
    assert before.max() < 0.66
    assert after.min() > 0.85
    assert torch.equal(found.boxes, masks_to_boxes(found.masks))
    assert torch.equal(found.scores, blunt.scores)


def test_a_mask_that_vanishes_is_left_out() -> None:
    speck = torch.zeros(SIZE, dtype=torch.bool)
    speck[30, 40] = True
    found = refine_with_guided_filter(instances(speck, disc(12)), image(disc(15)), 0.2)
    assert torch.equal(found.scores, torch.tensor([0.8]))
    assert torch.equal(found.embeddings, torch.eye(2, 4)[1:])


def test_zero_leaves_masks() -> None:
    found = instances(disc(12))
    assert refine_with_guided_filter(found, image(disc(15)), 0.0) is found


def test_nothing_found_stays_nothing() -> None:
    nothing = Instances.empty(SIZE)
    assert len(refine_with_guided_filter(nothing, image(disc(15)), 0.1)) == 0
