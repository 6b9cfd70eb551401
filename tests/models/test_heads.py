"""SOLO's branches: against the released code, and piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from soloist.models.heads import (
    CategoryBranch,
    GroupNorm,
    KernelBranch,
    MaskFeatureBranch,
    coordinates,
    resize,
)
from soloist.models.solo import split_levels, with_coordinates

Golden = Callable[[str], Mapping[str, npt.NDArray[Any]]]
GRIDS = (40, 36, 24, 16, 12)


@pytest.fixture(scope="module")
def pyramid(golden: Golden) -> list[Tensor]:
    return [torch.from_numpy(golden("head")[f"feat_p{i}"]) for i in range(2, 7)]


def assert_near(got: Tensor, wanted: npt.NDArray[Any]) -> None:
    reference = torch.from_numpy(wanted)
    torch.testing.assert_close(got, reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max()))


@pytest.mark.parametrize("level", range(5))
@torch.no_grad()
def test_category_and_kernel_branch_equal_the_released_code(
    golden: Golden, released_branches: nn.ModuleDict, pyramid: list[Tensor], level: int
) -> None:
    expected = golden("head")
    features = split_levels(pyramid, image_size=(128, 160), strides=(8, 8, 16, 32, 32))[level]
    cells = resize(features, (GRIDS[level], GRIDS[level]))
    logits, embeddings = released_branches["category_branch"](cells)
    kernels = released_branches["kernel_branch"](with_coordinates(cells, features))
    assert_near(logits, expected[f"cate_l{level}"])
    assert_near(kernels, expected[f"kernel_l{level}"])
    wanted = expected[f"emb_l{level}"]
    assert embeddings.shape[1] == 128
    assert_near(embeddings[:, : wanted.shape[1]], wanted)


@torch.no_grad()
def test_mask_features_equal_the_released_code(
    golden: Golden, released_branches: nn.ModuleDict, pyramid: list[Tensor]
) -> None:
    assert_near(released_branches["mask_feature_branch"](pyramid[:4]), golden("head")["mask_pred"])


def test_coordinates_run_from_minus_one_to_one_x_first() -> None:
    position = coordinates(torch.zeros(2, 7, 2, 3))
    x = [[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]
    y = [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]
    torch.testing.assert_close(position, torch.tensor([[x, y], [x, y]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coordinates_of_one_cell_have_the_features_dtype(dtype: torch.dtype) -> None:
    position = coordinates(torch.zeros(1, 1, 1, 1, dtype=dtype))
    assert position.dtype == dtype
    assert position.flatten().tolist() == [-1.0, -1.0]


def test_category_starts_at_the_prior() -> None:
    branch = CategoryBranch(8, channels=64, num_classes=3, embedding_size=5)
    logits, embeddings = branch(torch.zeros(2, 8, 4, 4))
    assert embeddings.shape == (2, 5, 4, 4)
    torch.testing.assert_close(logits.sigmoid(), torch.full((2, 3, 4, 4), 0.01))


@pytest.mark.parametrize(
    ("channels", "groups"),
    [
        pytest.param(512, 32, id="paper"),
        pytest.param(64, 32, id="narrow"),
        pytest.param(32, 32, id="released-mask-branch"),
        pytest.param(48, 16, id="not-a-multiple-of-32"),
        pytest.param(16, 8, id="pairs"),
        pytest.param(1, 1, id="one-channel"),
    ],
)
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    branch = KernelBranch(4, channels=channels, depth=2, kernel_channels=3)
    norms = [module for module in branch.modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [groups, groups]
    assert branch(torch.randn(1, 6, 3, 3)).shape == (1, 3, 3, 3)


def test_depth_and_coordinates_set_the_towers() -> None:
    branch = KernelBranch(4, channels=8, depth=3, kernel_channels=5)
    convolutions = [m for m in branch.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.in_channels for conv in convolutions] == [6, 8, 8, 8]
    assert [conv.bias is None for conv in convolutions] == [True, True, True, False]


@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_group_norm_equals_torch_in_values_gradients_and_layout(
    groups: int, layout: torch.memory_format
) -> None:
    own, reference = GroupNorm(groups, 8), nn.GroupNorm(groups, 8)
    x = torch.randn(3, 8, 5, 6, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=layout)
    results = []
    for norm in (own, reference):
        nn.init.constant_(norm.weight, 1.5)
        inputs = x.clone().requires_grad_()
        y = norm(inputs)
        assert y.is_contiguous(memory_format=layout)
        results.append((y, *torch.autograd.grad(y.square().sum(), [inputs, norm.weight])))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([(16, 20), (8, 10), (4, 5), (2, 3)], id="halved"),
        pytest.param([(16, 20), (8, 10), (4, 5), (4, 5)], id="dilated"),
        pytest.param([(13, 17), (7, 9), (4, 5), (2, 3)], id="odd"),
    ],
)
def test_mask_features_equal_resizing_every_level_alone(sizes: list[tuple[int, int]]) -> None:
    branch = MaskFeatureBranch(6, channels=8, out_channels=4)
    generator = torch.Generator().manual_seed(2)
    pyramid = [torch.randn(2, 6, *size, generator=generator) for size in sizes]
    total = torch.zeros(2, 8, *sizes[0])
    for level, x in enumerate(pyramid):
        if level == 3:
            x = torch.cat([x, coordinates(x)], dim=1)
        for step in range(max(level, 1)):
            x = branch.get_submodule(f"levels.{level}.blocks.{step}")(x)
            x = resize(x, sizes[max(level - step - 1, 0)])
        total += x
    torch.testing.assert_close(branch(pyramid), branch.merge(total), rtol=1e-4, atol=1e-4)


def test_resize_of_a_step_edge_is_linear_between_centres() -> None:
    row = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert resize(row, (1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
    assert resize(row, (1, 2)) is row


def test_convolutions_start_small() -> None:
    torch.manual_seed(0)
    branch = MaskFeatureBranch(16, channels=32, out_channels=32)
    weights = torch.cat([m.weight.flatten() for m in branch.modules() if isinstance(m, nn.Conv2d)])
    assert math.isclose(weights.std().item(), 0.01, rel_tol=0.05)
