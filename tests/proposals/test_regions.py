from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from soloist.config import RegionConfig
from soloist.ops.masks import mask_iou
from soloist.proposals.regions import region_masks

Pixels = NDArray[np.uint8]
SIZE = (96, 128)
NOTHING = torch.ones(3, 6, 8)
QUICK = RegionConfig(superpixels=80, score_threshold=0.0)


def picture(*objects: tuple[slice, slice, tuple[int, int, int]]) -> Pixels:
    """Objects of one colour each on grey, with a little noise so that nothing is exactly even."""
    pixels = np.full((*SIZE, 3), 128, dtype=np.int64)
    for rows, columns, color in objects:
        pixels[rows, columns] = color
    pixels += np.random.default_rng(0).integers(-4, 5, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def mask_of(rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros((1, *SIZE), dtype=torch.bool)
    mask[0, rows, columns] = True
    return mask


RED = (slice(20, 52), slice(16, 56), (200, 40, 40))
BLUE = (slice(40, 84), slice(76, 112), (30, 60, 200))


def test_the_objects_of_a_picture_are_the_best_masks() -> None:
    found = region_masks(picture(RED, BLUE), NOTHING, SIZE, QUICK)
    wanted = torch.cat([mask_of(*RED[:2]), mask_of(*BLUE[:2])])
    assert (mask_iou(wanted, found.masks[:2]).amax(dim=1) > 0.9).all()
    assert (found.scores[:2] > 2 * found.scores[2:].max()).all()


def test_masks_scores_and_boxes_are_what_instances_promise() -> None:
    found = region_masks(picture(RED, BLUE), torch.randn(5, 6, 8), SIZE, QUICK)
    assert 0 < len(found) <= QUICK.max_masks
    assert (found.scores.diff() <= 0).all()
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    assert found.embeddings.shape == (len(found), QUICK.embedding_size)
    assert torch.allclose(found.embeddings.norm(dim=1), torch.ones(len(found)), atol=1e-4)
    for mask, box in zip(found.masks, found.boxes, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == [float(value) for value in tight]
    overlaps = mask_iou(found.masks, found.masks).fill_diagonal_(0)
    # Cut at the image's size, not at that of the superpixels: a little more may overlap.
    assert overlaps.max() <= QUICK.nms_threshold + 0.05


def test_features_part_what_colours_do_not() -> None:
    """A part of the ground whose features differ; the dot sets the range of colours."""
    features = torch.zeros(2, 6, 8)
    features[0] = 1
    features[:, 1:5, 2:6] = torch.tensor([0.0, 1.0])[:, None, None]
    inside = mask_of(slice(16, 80), slice(32, 96))
    plain = picture((slice(2, 10), slice(2, 10), (250, 20, 20)))

    def best(weight: float) -> float:
        options = RegionConfig(
            superpixels=80, score_threshold=0.0, feature_weight=weight, contrast_weight=0.0
        )
        found = region_masks(plain, features, SIZE, options)
        return float(mask_iou(inside, found.masks).amax()) if len(found) else 0.0

    assert best(4.0) > 0.75 > 0.6 > best(0.0)


def test_a_mirrored_picture_gives_mirrored_masks_about() -> None:
    """Superpixels start on a grid that is not symmetric, so outlines may move by some pixels."""
    pixels = picture(RED, BLUE)
    found = region_masks(pixels, NOTHING, SIZE, QUICK)
    mirrored = region_masks(pixels[:, ::-1].copy(), NOTHING, SIZE, QUICK)
    overlap = mask_iou(found.masks[:2], mirrored.masks[:2].flip(-1)).amax(dim=1)
    assert (overlap > 0.9).all()


@pytest.mark.parametrize(("sides", "least", "most"), [(0, 0.2, 1.0), (1, 0.1, 0.7), (3, 0.0, 0.0)])
def test_what_touches_the_border_scores_less(sides: int, least: float, most: float) -> None:
    places = {
        0: (slice(30, 60), slice(30, 80)),
        1: (slice(0, 30), slice(30, 80)),
        3: (slice(0, 30), slice(0, 128)),
    }
    rows, columns = places[sides]
    wanted = mask_of(rows, columns)
    found = region_masks(picture((rows, columns, RED[2])), NOTHING, SIZE, QUICK)
    same = mask_iou(wanted, found.masks)[0] > 0.9
    score = float(found.scores[same].max()) if same.any() else 0.0
    assert least <= score <= most


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (40, 1)])
def test_tiny_pictures_have_no_objects_and_no_error(shape: tuple[int, int]) -> None:
    pixels = np.zeros((*shape, 3), dtype=np.uint8)
    found = region_masks(pixels, torch.ones(2, 1, 1), shape, QUICK)
    assert found.masks.shape[1:] == shape


def test_a_picture_of_one_colour_has_no_confident_mask() -> None:
    pixels = np.full((*SIZE, 3), 90, dtype=np.uint8)
    assert len(region_masks(pixels, NOTHING, SIZE, RegionConfig(superpixels=80))) == 0


def test_masks_are_made_at_the_size_asked_for() -> None:
    """Pixels may have been read at reduced size."""
    whole = region_masks(picture(RED, BLUE), NOTHING, (192, 256), QUICK)
    small = region_masks(picture(RED, BLUE), NOTHING, SIZE, QUICK)
    assert whole.masks.shape[1:] == (192, 256)
    shrunk = whole.masks[:, ::2, ::2]
    assert (mask_iou(small.masks[:2], shrunk[:2]).amax(dim=1) > 0.93).all()


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        (RegionConfig(superpixels=80, score_threshold=0.0, max_masks=3), lambda n, _: n == 3),
        (RegionConfig(superpixels=80, score_threshold=0.99), lambda n, _: n == 0),
        (
            RegionConfig(superpixels=80, score_threshold=0.0, least_area=0.1),
            lambda _, shares: (shares > 0.08).all(),
        ),
        (
            RegionConfig(superpixels=80, score_threshold=0.0, most_area=0.05),
            lambda _, shares: (shares < 0.07).all(),
        ),
    ],
    ids=["max_masks", "score_threshold", "least_area", "most_area"],
)
def test_options_bound_what_is_kept(options: RegionConfig, holds: object) -> None:
    found = region_masks(picture(RED, BLUE), NOTHING, SIZE, options)
    shares = found.masks.float().mean(dim=(1, 2))
    assert callable(holds)
    assert holds(len(found), shares)


@pytest.mark.parametrize(
    ("pixels", "features", "message"),
    [
        (np.zeros((4, 4), np.uint8), NOTHING, "pixels must be"),
        (np.zeros((4, 4, 3), np.float32), NOTHING, "pixels must be"),
        (np.zeros((4, 4, 3), np.uint8), torch.ones(3, 0, 2), "features must be"),
        (np.zeros((4, 4, 3), np.uint8), torch.full((3, 2, 2), torch.nan), "finite"),
    ],
)
def test_wrong_input_is_told(pixels: Pixels, features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        region_masks(pixels, features, (4, 4))
