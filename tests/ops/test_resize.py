from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from soloist.ops.resize import HalfCovered, linear_weights, resized_masks


@pytest.mark.parametrize("threshold", [0.3, 0.9])
@pytest.mark.parametrize(
    ("size", "cropped", "target"),
    [
        pytest.param((16, 20), (60, 78), (90, 117), id="enlarge"),
        pytest.param((16, 20), (64, 80), (64, 80), id="second-step-is-identity"),
        pytest.param((50, 76), (199, 301), (101, 150), id="shrink"),
        pytest.param((50, 76), (199, 301), (7, 3), id="skips-inputs"),
        pytest.param((1, 2), (4, 8), (130, 70), id="one-row"),
        pytest.param((3, 3), (1, 1), (5, 1), id="one-pixel-left"),
    ],
)
def test_masks_are_cut_from_two_interpolations(
    size: tuple[int, int], cropped: tuple[int, int], target: tuple[int, int], threshold: float
) -> None:
    soft_masks = torch.rand(8, *size, generator=torch.Generator().manual_seed(0))
    soft_masks[1:, : size[0] // 3] = 0
    soft_masks[2:, :, size[1] // 2 :] = 0
    soft_masks[3] = 0
    padded = size[0] * 4, size[1] * 4
    step = functional.interpolate(soft_masks[None], padded, mode="bilinear")
    step = step[..., : cropped[0], : cropped[1]]
    resized = functional.interpolate(step, target, mode="bilinear")[0]
    rows, columns = (
        linear_weights(size[i], padded=padded[i], cropped=cropped[i], target=target[i])
        for i in range(2)
    )
    masks = resized_masks(soft_masks, rows, columns, threshold)
    unsure = (resized - threshold).abs() < 1e-6
    assert unsure.float().mean() < 0.01
    assert torch.equal(masks | unsure, (resized > threshold) | unsure)
    assert not masks[3].any()


@pytest.mark.parametrize(("inclusive", "pixels"), [(False, 0), (True, 30)])
def test_what_is_at_the_threshold_is_foreground_if_wanted(inclusive: bool, pixels: int) -> None:
    rows, columns = (linear_weights(4, padded=4, cropped=4, target=side) for side in (5, 6))
    masks = resized_masks(torch.full((1, 4, 4), 0.5), rows, columns, 0.5, inclusive=inclusive)
    assert masks.shape == (1, 5, 6)
    assert masks.sum() == pixels


def test_weights_sum_to_one() -> None:
    weights = linear_weights(9, padded=36, cropped=31, target=50)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(50))
    assert weights.min() >= 0


def test_no_soft_masks_are_no_masks() -> None:
    weights = linear_weights(4, padded=16, cropped=16, target=20)
    assert resized_masks(torch.zeros(0, 4, 4), weights, weights, 0.5).shape == (0, 20, 20)


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((20, 30), (7, 11)),
        ((20, 30), (20, 30)),
        ((9, 13), (18, 40)),
        ((5, 5), (1, 1)),
        ((1, 9), (3, 4)),
    ],
)
def test_masks_that_cover_half_of_a_pixel_have_it(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, *size, generator=generator) < 0.5
    masks[1, : size[0] // 2] = False
    masks[2] = False
    pooled = functional.adaptive_avg_pool2d(masks[:, None].float(), target)[:, 0] >= 0.5
    resize = HalfCovered(size, target)
    for mask, wanted in zip(masks, pooled, strict=True):
        assert np.array_equal(resize(mask.numpy()), wanted.numpy())
