"""Neighbouring pairs: against the definition over all 8 neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from soloist.ops.pairwise import pair_disagreement, pair_weights

STEPS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def reference(
    logits: Tensor, targets: Tensor, similarity: Tensor, threshold: float, dilation: int
) -> tuple[Tensor, Tensor]:
    """The definition, pair by pair in float64: sums (P, N) and numbers of pairs (N,)."""
    p = logits.double().sigmoid()
    height, width = logits.shape[1:]
    sums = torch.zeros(len(logits), len(targets), dtype=torch.float64)
    totals = torch.zeros(len(targets), dtype=torch.float64)
    for n, target in enumerate(targets):
        ys, xs = target.nonzero(as_tuple=True)
        if len(ys) == 0:
            continue
        for y in range(int(ys.min()), int(ys.max()) + 1):
            for x in range(int(xs.min()), int(xs.max()) + 1):
                for k, (down, right) in enumerate(STEPS):
                    v, u = y + down * dilation, x + right * dilation
                    if not (0 <= v < height and 0 <= u < width):
                        continue
                    if similarity[k, y, x] < threshold:
                        continue
                    a, b = p[:, y, x], p[:, v, u]
                    sums[:, n] = sums[:, n] - (a * b + (1 - a) * (1 - b)).log()
                    totals[n] += 1
    return sums, totals


def scene(size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, *size, generator=generator)
    targets = torch.zeros(3, *size, dtype=torch.bool)
    targets[0, size[0] // 3 :, : size[1] // 2 + 1] = True
    targets[1, 0, -1] = True  # one pixel in a corner; the third is empty
    return logits, targets, torch.rand(8, *size, generator=generator)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((9, 7), id="plain"),
        pytest.param((1, 1), id="one-pixel"),
        pytest.param((1, 8), id="one-row"),
        pytest.param((8, 1), id="one-column"),
        pytest.param((2, 2), id="smaller-than-the-dilation"),
        pytest.param((3, 3), id="corners-only"),
        pytest.param((2, 9), id="two-rows"),
        pytest.param((9, 2), id="two-columns"),
    ],
)
@pytest.mark.parametrize("dilation", [1, 2])
def test_values_and_gradients_equal_the_definition(size: tuple[int, int], dilation: int) -> None:
    logits, targets, similarity = scene(size)
    logits.requires_grad_()
    weights = pair_weights(targets, similarity, threshold=0.3, dilation=dilation)
    sums = pair_disagreement(logits, weights)
    wanted, totals = reference(logits, targets, similarity, 0.3, dilation)
    torch.testing.assert_close(weights.totals.double(), totals, rtol=0, atol=0)
    torch.testing.assert_close(sums.double(), wanted, rtol=1e-5, atol=1e-4)
    mix = torch.rand(4, 3, generator=torch.Generator().manual_seed(5))
    (got,) = torch.autograd.grad((sums * mix).sum(), logits)
    expected = torch.zeros_like(logits)
    if wanted.requires_grad:
        (expected,) = torch.autograd.grad((wanted * mix).sum(), logits)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_similarity_may_differ_between_the_two_directions_of_a_pair() -> None:
    targets = torch.ones(1, 1, 3, dtype=torch.bool)
    similarity = torch.zeros(8, 1, 3)
    similarity[4, 0, 0] = 1.0  # from pixel 0 to its right neighbour, pixel 2
    assert pair_weights(targets, similarity).totals.tolist() == [1.0]
    similarity[3, 0, 2] = 1.0  # and back
    assert pair_weights(targets, similarity).totals.tolist() == [2.0]


def test_threshold_itself_counts() -> None:
    targets = torch.ones(1, 1, 3, dtype=torch.bool)
    similarity = torch.zeros(8, 1, 3)
    similarity[4, 0, 0] = 0.5
    assert pair_weights(targets, similarity, threshold=0.5).totals.tolist() == [1.0]
    assert pair_weights(targets, similarity, threshold=0.51).totals.tolist() == [0.0]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(0.0, 0.0, math.log(2), id="undecided"),
        pytest.param(200.0, 200.0, 0.0, id="both-certain-foreground"),
        pytest.param(-200.0, -200.0, 0.0, id="both-certain-background"),
        pytest.param(200.0, -200.0, 200 - math.log(2), id="certain-and-opposite"),
        pytest.param(-1e4, 1e4, 1e4 - math.log(2), id="far-beyond-float-probabilities"),
    ],
)
def test_one_pair(a: float, b: float, expected: float) -> None:
    logits = torch.tensor([[[a, 0.0, b]]], requires_grad=True)
    similarity = torch.zeros(8, 1, 3)
    similarity[4, 0, 0] = 1.0
    weights = pair_weights(torch.ones(1, 1, 3, dtype=torch.bool), similarity)
    loss = pair_disagreement(logits, weights)
    torch.testing.assert_close(loss, torch.tensor([[expected]]))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(grad).all()


def test_flipping_the_scene_flips_nothing_in_the_sum() -> None:
    logits, targets, similarity = scene((6, 8))
    sums = pair_disagreement(logits, pair_weights(targets, similarity))
    mirrored = similarity.flip(-1)[[2, 1, 0, 4, 3, 7, 6, 5]]
    flipped = pair_disagreement(logits.flip(-1), pair_weights(targets.flip(-1), mirrored))
    torch.testing.assert_close(sums, flipped)


def test_no_masks_and_no_instances_are_empty() -> None:
    weights = pair_weights(torch.zeros(0, 4, 5, dtype=torch.bool), torch.rand(8, 4, 5))
    assert weights.totals.shape == (0,)
    logits = torch.zeros(0, 4, 5, requires_grad=True)
    sums = pair_disagreement(logits, weights)
    assert sums.shape == (0, 0)
    assert torch.autograd.grad(sums.sum(), logits)[0].shape == (0, 4, 5)
