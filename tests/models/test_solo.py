"""The network as a whole: shapes, levels, precision and layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soloist.models import SOLO
from soloist.models.heads import coordinates, resize
from soloist.models.solo import split_levels, with_coordinates
from soloist.structures import SOLOOutputs

Golden = Callable[[str], Mapping[str, npt.NDArray[Any]]]
GRIDS = (10, 8, 6, 4, 3)


class Pooled(nn.Module):
    """The smallest backbone: pooled pixels, one 1x1 convolution a level."""

    def __init__(self, strides: tuple[int, ...] = (4, 8, 16, 32)) -> None:
        super().__init__()
        self.strides = strides
        self.convs = nn.ModuleList(nn.Conv2d(3, 4 + i, 1) for i in range(len(strides)))
        self.channels = [4 + i for i in range(len(strides))]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [
            conv(F.avg_pool2d(images, stride, ceil_mode=True))
            for conv, stride in zip(self.convs, self.strides, strict=True)
        ]


def small_solo(strides: tuple[int, ...] = (4, 8, 16, 32), num_classes: int = 1) -> SOLO:
    torch.manual_seed(0)
    backbone = Pooled(strides)
    return SOLO(
        backbone,
        backbone_channels=backbone.channels,
        fpn_channels=8,
        head_channels=16,
        mask_channels=12,
        kernel_channels=6,
        tower_depth=2,
        embedding_size=7,
        num_classes=num_classes,
        grids=GRIDS,
    )


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


def tensors(outputs: SOLOOutputs) -> list[Tensor]:
    return [
        *outputs.category_logits,
        *outputs.kernels,
        *outputs.semantic_embeddings,
        outputs.mask_features,
    ]


@pytest.mark.parametrize(
    "strides",
    [
        pytest.param((4, 8, 16, 32), id="plain"),
        pytest.param((4, 8, 16, 16), id="last-stage-dilated"),
        pytest.param((4, 8, 16), id="three-stages"),
    ],
)
@pytest.mark.parametrize("size", [(64, 96), (70, 90)])
def test_outputs_have_the_documented_shapes(
    strides: tuple[int, ...], size: tuple[int, int]
) -> None:
    outputs = small_solo(strides, num_classes=2)(images(2, *size))
    assert [tuple(x.shape) for x in outputs.category_logits] == [(2, 2, s, s) for s in GRIDS]
    assert [tuple(x.shape) for x in outputs.kernels] == [(2, 6, s, s) for s in GRIDS]
    assert [tuple(x.shape) for x in outputs.semantic_embeddings] == [(2, 7, s, s) for s in GRIDS]
    assert tuple(outputs.mask_features.shape) == (2, 6, -(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize("level", [0, 4])
def test_split_levels_equals_the_released_code(golden: Golden, level: int) -> None:
    head = golden("head")
    pyramid = [torch.from_numpy(head[f"feat_p{i}"]) for i in range(2, 7)]
    levels = split_levels(pyramid, image_size=(128, 160), strides=(8, 8, 16, 32, 32))
    torch.testing.assert_close(levels[level], torch.from_numpy(head[f"split_l{level}"]))
    # Of the levels that stay as they are only the shapes are stored.
    assert [list(levels[i].shape) for i in (1, 2, 3)] == [
        head[f"split_l{i}"].tolist() for i in (1, 2, 3)
    ]
    assert all(levels[i] is pyramid[i] for i in (1, 2, 3))


def test_coordinates_are_resized_like_the_features() -> None:
    level = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(4))
    together = resize(torch.cat([level, coordinates(level)], dim=1), (4, 4))
    apart = with_coordinates(resize(level, (4, 4)), level)
    torch.testing.assert_close(apart, together)


@torch.no_grad()
def test_a_batch_equals_its_images_alone() -> None:
    model = small_solo().eval()
    batch = images(3, 64, 64)
    together = tensors(model(batch))
    for i in range(3):
        for got, wanted in zip(tensors(model(batch[i : i + 1])), together, strict=True):
            torch.testing.assert_close(got, wanted[i : i + 1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_train_and_eval_mode_give_the_same() -> None:
    model = small_solo()
    batch = images(1, 64, 64)
    evaluated = tensors(model.eval()(batch))
    for got, wanted in zip(tensors(model.train()(batch)), evaluated, strict=True):
        torch.testing.assert_close(got, wanted)


def test_every_parameter_is_trained() -> None:
    model = small_solo()
    outputs = model(images(2, 64, 64))
    torch.autograd.backward([x.square().sum() for x in tensors(outputs)])
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize("training", [True, False])
def test_autocast_keeps_bfloat16_and_channels_last_throughout(training: bool) -> None:
    model = small_solo().to(memory_format=torch.channels_last)
    batch = images(2, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(training):
        exact = tensors(model(batch))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = tensors(model(batch))
    for x in rounded:
        assert x.dtype == torch.bfloat16
        assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(rounded[0].float(), exact[0], rtol=0.02, atol=0.02)


def test_levels_and_grids_must_agree() -> None:
    with pytest.raises(ValueError, match="one entry per level, got 5 and 2"):
        SOLO(Pooled(), backbone_channels=[4, 5, 6, 7], grids=(4, 2))


def test_there_is_one_class_by_default() -> None:
    with_default = SOLO(Pooled(), backbone_channels=[4, 5, 6, 7], head_channels=16, grids=GRIDS)
    assert with_default.category_branch.category.out_channels == 1
