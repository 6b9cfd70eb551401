from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from soloist.ops.resize import linear_weights, resize


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
def test_resize_equals_two_interpolations(
    size: tuple[int, int], cropped: tuple[int, int], target: tuple[int, int]
) -> None:
    maps = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    padded = size[0] * 4, size[1] * 4
    step = functional.interpolate(maps[None], padded, mode="bilinear")
    step = step[..., : cropped[0], : cropped[1]]
    expected = functional.interpolate(step, target, mode="bilinear")[0]
    weights = [
        linear_weights(size[i], padded=padded[i], cropped=cropped[i], target=target[i])
        for i in range(2)
    ]
    torch.testing.assert_close(resize(maps, *weights), expected)


def test_weights_sum_to_one() -> None:
    weights = linear_weights(9, padded=36, cropped=31, target=50)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(50))
    assert weights.min() >= 0


def test_resize_of_no_maps_is_empty() -> None:
    weights = linear_weights(4, padded=16, cropped=16, target=20)
    assert resize(torch.zeros(0, 4, 4), weights, weights).shape == (0, 20, 20)
