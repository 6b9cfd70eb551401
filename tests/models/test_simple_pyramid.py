from __future__ import annotations

import pytest
import torch
from torch import nn

from soloist.models.simple_pyramid import SimplePyramid


@pytest.mark.parametrize(
    ("stride", "channels"),
    [
        pytest.param(8, (32, 64, 64, 64), id="patches-of-8"),
        pytest.param(14, (16, 32, 64, 64), id="patches-of-14"),
        pytest.param(16, (16, 32, 64, 64), id="patches-of-16"),
        pytest.param(32, (8, 16, 32, 64), id="patches-of-32"),
    ],
)
@pytest.mark.parametrize("levels", [1, 3, 4])
@pytest.mark.parametrize("size", [(64, 96), (256, 320), (100, 61)])
def test_maps_have_the_strides_they_claim(
    stride: int, channels: tuple[int, ...], levels: int, size: tuple[int, int]
) -> None:
    pyramid = SimplePyramid(64, stride=stride, levels=levels)
    cells = [max(1, round(side / stride)) for side in size]
    maps = pyramid(torch.rand(2, 64, *cells), size)
    assert pyramid.channels == channels[:levels]
    assert pyramid.strides == (4, 8, 16, 32)[:levels]
    assert [tuple(one.shape) for one in maps] == [
        (2, width, -(-size[0] // wanted), -(-size[1] // wanted))
        for width, wanted in zip(channels, pyramid.strides, strict=False)
    ]


def test_the_map_itself_is_a_level_where_it_fits() -> None:
    features = torch.rand(1, 8, 4, 6)
    maps = SimplePyramid(8, stride=16)(features, (64, 96))
    assert torch.equal(maps[2], features)
    assert torch.equal(maps[3], torch.nn.functional.max_pool2d(features, 2))


@pytest.mark.parametrize("stride", [14, 16])
def test_levels_lie_where_the_map_does(stride: int) -> None:
    """What is on the right stays on the right, at every level, at the same share of the width."""
    torch.manual_seed(0)
    features = torch.zeros(1, 16, 16, 16)
    features[:, :8, :, :8] = 1.0
    features[:, 8:, :, 8:] = 1.0
    side = 16 * stride
    pyramid = SimplePyramid(16, stride=stride)
    with torch.no_grad():
        for layer in pyramid.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                # The four new pixels of an old one alike, so that steps are those of the map.
                layer.weight.copy_(layer.weight.mean(dim=(2, 3), keepdim=True))
    for one in pyramid(features, (side, side)):
        step = (one[..., 1:] - one[..., :-1]).abs().sum(dim=(0, 1, 2))
        border = (int(step.argmax()) + 1) / one.shape[-1]
        assert border == pytest.approx(0.5, abs=1.5 / one.shape[-1])


def test_every_weight_learns() -> None:
    pyramid = SimplePyramid(16, stride=16)
    maps = pyramid(torch.rand(1, 16, 4, 4), (64, 64))
    sum((one**2).sum() for one in maps).backward()
    for name, value in pyramid.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name


def test_an_empty_batch_gives_empty_maps() -> None:
    maps = SimplePyramid(16, stride=14)(torch.zeros(0, 16, 4, 4), (64, 64))
    assert [tuple(one.shape) for one in maps] == [
        (0, 4, 16, 16),
        (0, 8, 8, 8),
        (0, 16, 4, 4),
        (0, 16, 2, 2),
    ]
