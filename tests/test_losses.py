"""Single loss terms: literal values, and the released code's values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from soloist.config import LossConfig
from soloist.losses import (
    FreeSOLOCriterion,
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
from soloist.ops.masks import masks_to_boxes
from soloist.ops.pairwise import pair_weights
from soloist.structures import LevelTargets, SOLOOutputs

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
    for name, value in (
        ("focal_sum", loss.sum()),
        ("focal_sum_over_npos_plus1", loss.sum() / 5),
        ("FocalLoss_class_mean", loss.mean()),
    ):
        torch.testing.assert_close(value, torch.tensor(archive[f"B_{name}"]), rtol=1e-5, atol=0)


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


@pytest.mark.parametrize("level", [0, 1])
def test_dice_and_pairs_of_each_mask_equal_the_released_code(golden: Golden, level: int) -> None:
    archive = golden("losses")

    def read(name: str) -> Tensor:
        return torch.from_numpy(archive[f"A_l{level}_{name}"])

    logits, targets = read("mask_logits"), read("target").bool()
    soft = logits.sigmoid()
    for name, project in (("max", max_projections), ("mean", mean_projections)):
        predicted, wanted = project(soft), project(targets)
        columns = dice_loss(predicted.columns, wanted.columns)
        rows = dice_loss(predicted.rows, wanted.rows)
        torch.testing.assert_close(columns, read(f"dice_{name}_y"), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(rows, read(f"dice_{name}_x"), rtol=1e-5, atol=1e-6)
    # A variant that the method does not use adds 0.001 to each part of the denominator.
    full = full_mask_dice(soft, targets)
    torch.testing.assert_close(full, read("dice_loss_py"), rtol=1e-4, atol=0)
    similarity = torch.from_numpy(archive["A_color_similarity"])
    weights = pair_weights(targets, similarity)
    inside = weights.totals.new_zeros(targets.shape, dtype=torch.bool)
    for mask, box in zip(inside, masks_to_boxes(targets).long().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    counted = inside[:, None] & (similarity >= 0.3)  # (P, 8, h, w)
    sums = (read("pairwise_term") * counted).sum(dim=(1, 2, 3))
    own = pairwise_affinity_loss(logits, torch.arange(len(targets)), weights)
    torch.testing.assert_close(own, sums, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("calls", [1, 500, 1000])
def test_losses_of_two_levels_equal_the_released_code(golden: Golden, calls: int) -> None:
    """Its mask logits are made by kernels that pick one mask feature each."""
    archive = golden("losses")
    counts, side = (5, 3), 3
    logits, targets = (
        torch.cat([torch.from_numpy(archive[f"A_l{level}_{name}"]) for level in range(2)])
        for name in ("mask_logits", "target")
    )
    features = logits[None].requires_grad_()
    kernels, levels, first = [], [], 0
    for count in counts:
        kernel = torch.zeros(1, len(logits), side * side)
        kernel[0, torch.arange(first, first + count), torch.arange(count)] = 1
        kernels.append(kernel.view(1, len(logits), side, side))
        category = (torch.arange(side * side) >= count).long().view(side, side)
        levels.append(
            LevelTargets(category, torch.arange(count), torch.arange(first, first + count))
        )
        first += count
    outputs = SOLOOutputs(
        category_logits=tuple(torch.zeros(1, 1, side, side) for _ in counts),
        kernels=tuple(kernels),
        semantic_embeddings=tuple(torch.ones(1, 2, side, side) for _ in counts),
        mask_features=features,
    )
    similarity = torch.from_numpy(archive["A_color_similarity"])[None]
    losses = FreeSOLOCriterion()(
        outputs, [tuple(levels)], [targets.bool()], [torch.ones(8, 2)], similarity, calls - 1
    )
    names = {"ins": "avg_projection", "ins_max": "max_projection", "pairwise": "pairwise_affinity"}
    for theirs, ours in names.items():
        loss = losses[f"loss_{ours}"]
        wanted = torch.tensor(archive[f"A_iter{calls}_loss_{theirs}"])
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
        if calls == 1000:
            (grad,) = torch.autograd.grad(loss, features, retain_graph=True)
            expected = torch.cat(
                [torch.from_numpy(archive[f"A_l{level}_grad_loss_{theirs}"]) for level in range(2)]
            )
            scale = expected.abs().max().item()
            torch.testing.assert_close(grad[0], expected, rtol=1e-5, atol=1e-6 * scale)


def test_a_weight_of_zero_switches_the_semantic_term_off() -> None:
    """As in the released code, whose term is always reported as zero."""
    outputs = SOLOOutputs(
        category_logits=(torch.zeros(1, 1, 2, 2),),
        kernels=(torch.zeros(1, 3, 2, 2),),
        semantic_embeddings=(torch.rand(1, 4, 2, 2, requires_grad=True),),
        mask_features=torch.zeros(1, 3, 4, 4),
    )
    target = LevelTargets(torch.tensor([[0, 1], [1, 1]]), torch.tensor([0]), torch.tensor([0]))
    masks, similarity = torch.ones(1, 4, 4, dtype=torch.bool), torch.ones(1, 8, 4, 4)
    embeddings = torch.tensor([[1.0, -1.0, 0.0, 0.0]])
    for weight, size in ((4.0, 1.0), (0.0, 0.0)):
        criterion = FreeSOLOCriterion(LossConfig(semantic=weight))
        losses = criterion(outputs, [(target,)], [masks], [embeddings], similarity, 0)
        loss = losses["loss_semantic"]
        (grad,) = torch.autograd.grad(loss, outputs.semantic_embeddings[0])
        assert (loss.item() > 0) == (size > 0)
        assert bool(grad.any()) == (size > 0)
