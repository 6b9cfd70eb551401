"""Feature pyramid: against torchvision's, with fewer levels, with equal strides."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from soloist.models.fpn import FPN


def features(sizes: list[tuple[int, int]], channels: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, *size, generator=generator)
        for c, size in zip(channels, sizes, strict=True)
    ]


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([(16, 24), (8, 12), (4, 6), (2, 3)], id="halved-each-time"),
        pytest.param([(15, 23), (8, 12), (4, 6), (2, 3)], id="odd-sides"),
        pytest.param([(16, 24), (8, 12), (4, 6), (4, 6)], id="dilated-last-stage"),
        pytest.param([(1, 1), (1, 1), (1, 1), (1, 1)], id="one-pixel"),
    ],
)
def test_fpn_equals_torchvision(sizes: list[tuple[int, int]]) -> None:
    channels = [4, 6, 8, 10]
    reference = FeaturePyramidNetwork(channels, 5, extra_blocks=LastLevelMaxPool())
    ours = FPN(channels, out_channels=5)
    with torch.no_grad():
        for theirs, own in (
            (reference.inner_blocks, ours.lateral),
            (reference.layer_blocks, ours.output),
        ):
            for source, target in zip(theirs.parameters(), own.parameters(), strict=True):
                target.copy_(source.normal_())
    maps = features(sizes, channels)
    expected = list(reference({str(i): x for i, x in enumerate(maps)}).values())
    levels = ours(maps)
    assert len(levels) == 5
    for level, wanted in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, wanted)


def test_levels_beyond_the_backbone_are_every_other_pixel_of_the_one_below() -> None:
    fpn = FPN([4, 6], out_channels=5, num_levels=4)
    levels = fpn(features([(9, 12), (5, 6)], [4, 6]))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (5, 9, 12),
        (5, 5, 6),
        (5, 3, 3),
        (5, 2, 2),
    ]
    torch.testing.assert_close(levels[2], levels[1][..., ::2, ::2], rtol=0, atol=0)
    torch.testing.assert_close(levels[3], levels[2][..., ::2, ::2], rtol=0, atol=0)


def test_coarse_levels_reach_fine_ones_but_not_the_reverse() -> None:
    fpn = FPN([3, 3], out_channels=4, num_levels=2)
    fine, coarse = (x.requires_grad_() for x in features([(4, 4), (2, 2)], [3, 3]))
    p2, p3 = fpn([fine, coarse])
    assert torch.autograd.grad(p2.sum(), coarse, retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(p3.sum(), fine, allow_unused=True)[0] is None


@pytest.mark.parametrize("count", [0, 3])
def test_number_of_input_levels_is_checked(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 2 entries.*got {count}"):
        FPN([4] * count, num_levels=2)


def test_wrong_number_of_maps_is_an_error() -> None:
    fpn = FPN([4, 6], out_channels=5)
    with pytest.raises(ValueError, match="built for 2 feature maps, got 1"):
        fpn(features([(4, 4)], [4]))
