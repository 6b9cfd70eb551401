"""Outlines by colour and scores by contrast, on pictures whose objects are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from soloist.ops.masks import mask_iou, masks_to_boxes
from soloist.proposals.refinement import follow_colors, weigh_by_contrast
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


def picture(mask: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = np.full((*SIZE, 3), 40, dtype=np.uint8)
    pixels[mask.numpy()] = (220, 120, 60)
    return pixels


@pytest.mark.parametrize("scale", [1, 3])
def test_outlines_follow_the_colors(scale: int) -> None:
    blunt = instances(disc(12, scale=scale), disc(19, scale=scale))
    found = follow_colors(blunt, picture(disc(15)), 0.15)
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
    found = follow_colors(instances(speck, disc(12)), picture(disc(15)), 0.2)
    assert torch.equal(found.scores, torch.tensor([0.8]))
    assert torch.equal(found.embeddings, torch.eye(2, 4)[1:])


def test_an_object_scores_above_its_background() -> None:
    features = torch.zeros(4, 15, 20)
    features[0] = 1
    inside = disc(15)[2::4, 2::4]
    features[:, inside] = torch.tensor([0.0, 1, 0, 0])[:, None]
    whole, plain = torch.ones(SIZE, dtype=torch.bool), disc(6, center=(10, 68))
    found = instances(plain, whole, disc(15), scores=(0.9, 0.8, 0.5))
    scored = weigh_by_contrast(found, features, 1.0)
    assert torch.equal(scored.masks[0], disc(15))
    # Opposite corners of a cube are sqrt(2) apart, of 2 that are possible.
    assert scored.scores[0] == pytest.approx(0.5 * 0.5**0.5, abs=0.06)
    assert scored.scores[1:].max() < 0.02
    weaker = weigh_by_contrast(found, features, 0.5).scores[0]
    torch.testing.assert_close(weaker, (0.5 * scored.scores[0]).sqrt())


def test_zero_leaves_masks_and_scores() -> None:
    found = instances(disc(12))
    assert follow_colors(found, picture(disc(15)), 0.0) is found
    assert weigh_by_contrast(found, torch.rand(4, 15, 20), 0.0) is found


def test_nothing_found_stays_nothing() -> None:
    nothing = Instances.empty(SIZE)
    assert len(follow_colors(nothing, picture(disc(15)), 0.1)) == 0
    assert len(weigh_by_contrast(nothing, torch.rand(4, 15, 20), 1.0)) == 0
