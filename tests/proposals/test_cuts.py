from __future__ import annotations

import pytest
import torch
from torch import Tensor

from soloist.config import CutConfig
from soloist.ops.masks import mask_iou
from soloist.proposals.cuts import cut_masks

CELLS = (8, 10)
SIZE = (64, 80)


def features_of(*objects: tuple[slice, slice]) -> Tensor:
    """A map whose ground and objects each have a direction of their own, and a little noise."""
    features = torch.zeros(1 + len(objects), *CELLS)
    features[0] = 1
    for number, (rows, columns) in enumerate(objects, start=1):
        features[:, rows, columns] = 0
        features[number, rows, columns] = 1
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    return features + 0.05 * noise


def mask_of(rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros((1, *CELLS))
    mask[0, rows, columns] = 1
    return torch.nn.functional.interpolate(mask[None], SIZE, mode="nearest")[0] > 0


ONE = (slice(1, 4), slice(1, 5))
OTHER = (slice(4, 7), slice(6, 9))


def test_objects_are_cut_out_one_by_one() -> None:
    found = cut_masks(features_of(ONE, OTHER), SIZE)
    overlap = mask_iou(torch.cat([mask_of(*ONE), mask_of(*OTHER)]), found.masks)
    # Corners are rounded by the interpolation.
    assert (overlap.amax(dim=1) > 0.75).all()
    assert (found.scores.diff() <= 0).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert torch.allclose(found.embeddings.norm(dim=1), torch.ones(len(found)), atol=1e-4)


def test_no_more_objects_than_asked_for() -> None:
    for count in (1, 2):
        found = cut_masks(features_of(ONE, OTHER), SIZE, CutConfig(objects=count))
        assert len(found) == count
    shared = found.masks.sum(dim=0)
    assert shared.max() == 1


def test_the_same_features_give_the_same_masks() -> None:
    features = features_of(ONE, OTHER)
    first, second = cut_masks(features, SIZE), cut_masks(features, SIZE)
    assert torch.equal(first.masks, second.masks)
    assert torch.equal(first.scores, second.scores)


@pytest.mark.parametrize("cells", [(1, 1), (1, 2), (1, 3), (2, 2)])
def test_maps_of_few_cells_are_no_error(cells: tuple[int, int]) -> None:
    found = cut_masks(torch.randn(3, *cells), (9, 12), CutConfig(min_cells=1))
    assert found.masks.shape[1:] == (9, 12)


def test_features_all_zero_have_no_object() -> None:
    assert len(cut_masks(torch.zeros(3, *CELLS), SIZE)) == 0


@pytest.mark.parametrize(
    "features", [torch.ones(3, 4), torch.ones(3, 0, 4), torch.full((3, 2, 2), torch.nan)]
)
def test_wrong_features_are_told(features: Tensor) -> None:
    with pytest.raises(ValueError, match="features must be"):
        cut_masks(features, SIZE)
