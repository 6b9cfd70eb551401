"""Single loss terms: literal values, and the released code's values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from soloist.losses import (
    Projections,
    dice_coefficient,
    dice_loss,
    full_mask_dice,
    max_projections,
    mean_projections,
    pairwise_affinity_loss,
    projection_loss,
    semantic_loss,
    sigmoid_focal_loss,
)
from soloist.ops.pairwise import pair_weights

Golden = Callable[[str], Mapping[str, npt.NDArray[Any]]]


@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [
        pytest.param(0.0, 1, 0.25 * 0.25 * math.log(2), id="undecided-positive"),
        pytest.param(0.0, 0, 0.75 * 0.25 * math.log(2), id="undecided-negative"),
        pytest.param(100.0, 1, 0.0, id="right-and-certain"),
        pytest.param(100.0, 0, 75.0, id="wrong-and-certain"),
    ],
)
def test_focal_loss(logit: float, target: int, expected: float) -> None:
    loss = sigmoid_focal_loss(torch.tensor([logit]), torch.tensor([target]))
    torch.testing.assert_close(loss, torch.tensor([expected]))


def test_focal_loss_equals_the_released_code(golden: Golden) -> None:
    archive = golden("losses")
    loss = sigmoid_focal_loss(
        torch.from_numpy(archive["B_logits"]), torch.from_numpy(archive["B_targets"])
    )
    torch.testing.assert_close(
        loss, torch.from_numpy(archive["B_focal_none"]), rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(loss.sum() / 5, torch.tensor(archive["B_focal_sum_over_npos_plus1"]))


@pytest.mark.parametrize(
    ("values", "targets", "expected"),
    [
        pytest.param([1.0, 0.0], [1.0, 0.0], 1.0, id="equal"),
        pytest.param([1.0, 0.0], [0.0, 1.0], 0.0, id="disjoint"),
        pytest.param([0.5, 0.0], [1.0, 0.0], 0.8, id="half-sure"),
        pytest.param([0.0, 0.0], [0.0, 0.0], 0.0, id="both-empty"),
    ],
)
def test_dice(values: list[float], targets: list[float], expected: float) -> None:
    got = dice_coefficient(torch.tensor([values]), torch.tensor([targets]))
    torch.testing.assert_close(got, torch.tensor([expected]), rtol=2e-5, atol=0)
    torch.testing.assert_close(dice_loss(torch.tensor([values]), torch.tensor([targets])), 1 - got)


def test_projections() -> None:
    masks = torch.tensor([[[0.0, 0.8, 0.4], [0.0, 0.0, 0.2]]])
    highest, mean = max_projections(masks), mean_projections(masks)
    torch.testing.assert_close(highest.columns, torch.tensor([[0.0, 0.8, 0.4]]))
    torch.testing.assert_close(highest.rows, torch.tensor([[0.8, 0.2]]))
    torch.testing.assert_close(mean.columns, torch.tensor([[0.0, 0.4, 0.3]]))
    torch.testing.assert_close(mean.rows, torch.tensor([[0.4, 0.2 / 3]]))


@pytest.mark.parametrize("project", [max_projections, mean_projections])
def test_projection_loss_of_the_target_itself_is_zero(
    project: Callable[[Tensor], Projections],
) -> None:
    targets = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    logits = torch.where(targets, 60.0, -60.0).requires_grad_()
    loss = projection_loss(project(logits.sigmoid()), project(targets))
    torch.testing.assert_close(loss, torch.zeros(3), rtol=0, atol=1e-4)
    assert torch.isfinite(torch.autograd.grad(loss.sum(), logits)[0]).all()


def test_max_projection_asks_for_the_box_only() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[:, 1:3, 1:3] = True
    diagonal = torch.zeros(1, 4, 4)
    diagonal[0, 1, 1] = diagonal[0, 2, 2] = 1.0
    loss = projection_loss(max_projections(diagonal), max_projections(target))
    torch.testing.assert_close(loss, torch.zeros(1), rtol=0, atol=1e-4)
    assert full_mask_dice(diagonal, target) > 0.3


@pytest.mark.parametrize(
    ("embedding", "target", "expected"),
    [
        pytest.param([3.0, 0.0], [0.5, 0.0], 0.0, id="parallel"),
        pytest.param([0.0, 2.0], [7.0, 0.0], 1.0, id="orthogonal"),
        pytest.param([-1.0, 0.0], [2.0, 0.0], 2.0, id="opposite"),
        pytest.param([0.0, 0.0], [2.0, 0.0], 1.0, id="zero-vector"),
    ],
)
def test_semantic_loss(embedding: list[float], target: list[float], expected: float) -> None:
    predicted = torch.tensor([embedding], requires_grad=True)
    loss = semantic_loss(predicted, torch.tensor([target]))
    torch.testing.assert_close(loss, torch.tensor([expected]))
    assert torch.isfinite(torch.autograd.grad(loss.sum(), predicted)[0]).all()


@pytest.mark.parametrize("level", [0, 1])
def test_mask_terms_and_gradients_equal_the_released_code(golden: Golden, level: int) -> None:
    archive = golden("losses")
    logits = torch.from_numpy(archive[f"A_l{level}_mask_logits"]).requires_grad_()
    targets = torch.from_numpy(archive[f"A_l{level}_target"]).bool()
    weights = pair_weights(targets, torch.from_numpy(archive["A_color_similarity"]))
    assert weights.totals.sum().item() == archive[f"A_l{level}_pairwise_weight_sum"]
    pairs = pairwise_affinity_loss(logits, torch.arange(len(targets)), weights)
    soft = logits.sigmoid()
    terms = {
        "ins": projection_loss(mean_projections(soft), mean_projections(targets)).mean(),
        "ins_max": projection_loss(max_projections(soft), max_projections(targets)).mean(),
        "pairwise": pairs.sum() / weights.totals.sum(),
    }
    for name, term in terms.items():
        wanted = torch.tensor(archive[f"A_perlevel_loss_{name}_unweighted"][level])
        torch.testing.assert_close(term, wanted, rtol=1e-5, atol=0)
        weighted = term * (0.1 if name == "ins" else 1.0) / 2  # two levels
        (grad,) = torch.autograd.grad(weighted, logits, retain_graph=True)
        expected = torch.from_numpy(archive[f"A_l{level}_grad_loss_{name}"])
        scale = expected.abs().max().item()
        torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-6 * scale)
    torch.testing.assert_close(
        full_mask_dice(soft, targets),
        torch.from_numpy(archive[f"A_l{level}_dice_coefficient_full"]),
    )
