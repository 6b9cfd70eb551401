"""Masks that stay compressed, and masks of a part of an image put into it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from soloist.data.coco.encoded import EncodedMasks, encoded
from soloist.data.coco.rle import (
    box_mask,
    decode_mask,
    encode_masks,
    encode_part,
    joined_mask,
    placed_mask,
    rle_iou,
)
from soloist.data.coco.write import instances_to_annotations
from soloist.ops.masks import masks_to_boxes
from soloist.structures import Instances


def random_masks(count: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((count, *size)) < 0.6


@pytest.fixture
def instances() -> Instances:
    masks = torch.from_numpy(random_masks(3, (7, 9)))
    masks[1] = False
    masks[1, 2:4, 3:5] = True
    return Instances(
        (7, 9),
        masks,
        torch.tensor([0.9, 0.5, 0.2]),
        masks_to_boxes(masks),
        torch.eye(3, 5),
        labels=torch.tensor([2, 0, 1]),
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_part_is_encoded_as_the_mask_of_the_larger_image(data: st.DataObject) -> None:
    """To the last character: other code compares and writes these."""
    side = st.integers(1, 9)
    rows, columns = data.draw(side), data.draw(side)
    above, below, left, right = (data.draw(st.integers(0, 4)) for _ in range(4))
    share = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    part = np.random.default_rng(data.draw(st.integers(0, 99))).random((rows, columns)) < share
    whole = np.pad(part, ((above, below), (left, right)))
    placed = placed_mask(encode_masks(part[None])[0], (above, left), whole.shape)
    assert placed == encode_masks(whole[None])[0]
    assert encode_part(part, (above, left), whole.shape) == placed


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (4, 0), (0, 5)])
def test_a_part_outside_the_image_is_refused(corner: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not inside 6 x 7"):
        placed_mask(encode_masks(random_masks(1, (3, 3)))[0], corner, (6, 7))


def test_masks_are_joined_and_clipped_without_decoding() -> None:
    one, other = random_masks(2, (8, 6))
    both = encode_masks(np.stack([one, other]))
    np.testing.assert_array_equal(decode_mask(joined_mask(both)), one | other)
    box = np.zeros((8, 6), dtype=np.bool_)
    box[3:7, 1:4] = True
    clipped = joined_mask([both[0], box_mask((1, 3, 4, 7), (8, 6))], intersect=True)
    np.testing.assert_array_equal(decode_mask(clipped), one & box)
    covered = rle_iou(both[:1], both[1:], over_masks=True)[0, 0]
    assert covered == pytest.approx((one & other).sum() / one.sum())


def test_encoded_objects_hold_what_they_were_made_of(instances: Instances) -> None:
    found = encoded(instances)
    assert found.masks.shape == (3, 7, 9)
    assert len(found) == len(found.masks) == 3
    for k in range(3):
        np.testing.assert_array_equal(found.masks[k], instances.masks[k].numpy())
    assert instances_to_annotations(found, 4, 1, {1: "a", 2: "b", 3: "c"}) == (
        instances_to_annotations(instances, 4, 1, {1: "a", 2: "b", 3: "c"})
    )


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(torch.tensor([True, False, True]), id="flags"),
        pytest.param(torch.tensor([2, 0]), id="places"),
        pytest.param(torch.zeros(3, dtype=torch.bool), id="none"),
    ],
)
def test_fields_move_together(instances: Instances, keep: torch.Tensor) -> None:
    found, wanted = encoded(instances).filter(keep), instances.filter(keep)
    assert found.masks == EncodedMasks.of(wanted.masks)
    assert found.labels is not None
    assert wanted.labels is not None
    for name in ("scores", "boxes", "embeddings", "labels"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


def test_the_largest_comes_first(instances: Instances) -> None:
    masks = encoded(instances).masks
    areas = [int(mask.sum()) for _, mask in masks.largest_first()]
    assert areas == sorted(areas, reverse=True)
    assert {number for number, _ in masks.largest_first()} == {0, 1, 2}
