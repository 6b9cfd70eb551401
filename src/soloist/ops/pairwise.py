"""Pairs of neighbouring pixels: how much each counts, and how far their labels differ."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from soloist.ops.masks import masks_to_boxes

HALF_OF_THE_NEIGHBORS = ((1, 1), (1, 0), (1, -1), (0, 1))
"""Steps (down, right) to neighbours 7, 6, 5, 4 of a 3x3 window; 0, 1, 2, 3 lie opposite."""


class PairWeights(NamedTuple):
    """How often each pair of neighbouring pixels counts, for every instance of an image.

    Pixels are numbered row by row. A pair (k, k + offset) is counted from its first pixel, from
    its second, from both or not at all, which covers 8 neighbours by 4 directions.

    Attributes:
        pairs: One (N, H * W - offset) float32 in {0, 1, 2} per direction.
        pixels: (N, H * W) float32: the weights of all pairs a pixel belongs to.
        totals: (N,) float32: the weights of all pairs.
    """

    pairs: tuple[Tensor, ...]
    pixels: Tensor
    totals: Tensor


def pair_weights(
    targets: Tensor, color_similarity: Tensor, *, threshold: float = 0.3, dilation: int = 2
) -> PairWeights:
    """Counts pairs of alike colour that start in the box of a target mask.

    Args:
        targets: (N, H, W) bool masks of one image; only their boxes count.
        color_similarity: (8, H, W) float in [0, 1], neighbours row-major without the centre,
            see `affinity.color_similarity`.
        threshold: Least similarity of a pair that counts (paper: 0.3).
        dilation: Distance to the neighbours, in pixels (BoxInst: 2).
    """
    _, height, width = targets.shape
    size = height * width
    inside = _inside_boxes(targets).flatten(1).float()  # (N, H * W)
    alike = (color_similarity >= threshold).flatten(1).float()  # (8, H * W)
    rows = torch.arange(height, device=targets.device)[:, None]
    columns = torch.arange(width, device=targets.device)
    pairs = []
    pixels = torch.zeros_like(inside)
    for opposite, (down, right) in enumerate(HALF_OF_THE_NEIGHBORS):
        reach = max(size - (down * width + right) * dilation, 0)  # pixels with a partner's number
        partner = columns + right * dilation
        in_map = (rows + down * dilation < height) & (partner >= 0) & (partner < width)
        first = (alike[7 - opposite] * in_map.flatten())[:reach]
        second = alike[opposite, size - reach :] * in_map.flatten()[:reach]
        weights = inside[:, :reach] * first + inside[:, size - reach :] * second
        pixels[:, :reach] += weights
        pixels[:, size - reach :] += weights
        pairs.append(weights)
    return PairWeights(tuple(pairs), pixels, totals=pixels.sum(dim=1) / 2)


def pair_disagreement(logits: Tensor, weights: PairWeights) -> Tensor:
    """Weighted sum of -log(probability that two neighbours carry the same label).

    With logits a and b that is -log(s(a) s(b) + s(-a) s(-b)), which equals
    softplus(a) + softplus(b) - softplus(a + b): nothing over- or underflows, and the term is the
    same from both ends, so one evaluation serves two neighbours. Differentiable once in logits.

    Args:
        logits: (P, H, W) float mask logits.
        weights: Of N instances.

    Returns:
        (P, N) float32 >= 0: each mask under the weights of each instance.
    """
    sums: Tensor = _PairDisagreement.apply(logits.float().flatten(1), weights)
    return sums


class _PairDisagreement(torch.autograd.Function):
    """Hand-written backward: a third of autograd's time, and only the logits are kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, weights: PairWeights) -> Tensor:
        ctx.save_for_backward(logits, weights.pixels, *weights.pairs)
        sums = _softplus(logits) @ weights.pixels.T
        for pairs in weights.pairs:
            sums -= _softplus(_both(logits, pairs.shape[1])) @ pairs.T
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, pixels, *all_pairs = ctx.saved_tensors
        result = logits.sigmoid().mul_(grad @ pixels)
        for pairs in all_pairs:
            reach = pairs.shape[1]
            slope = _both(logits, reach).sigmoid_().mul_(grad @ pairs)
            result[:, :reach] -= slope
            result[:, logits.shape[1] - reach :] -= slope
        return result, None


def _both(logits: Tensor, reach: int) -> Tensor:
    """Sums of the logits of pixels k and k + offset, (P, H * W) to (P, reach)."""
    return logits[:, :reach] + logits[:, logits.shape[1] - reach :]


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) of float32, to 1e-7: four times as fast as torch's on a processor."""
    # The sigmoid of |x| lies in [0.5, 1], so the logarithm is safe for every x.
    return x.clamp(min=0).sub_(x.abs().sigmoid_().log_())


def _inside_boxes(masks: Tensor) -> Tensor:
    """(N, H, W) bool: whether a pixel lies in the tight box of each (N, H, W) bool mask."""
    left, top, right, bottom = masks_to_boxes(masks)[:, :, None].unbind(dim=1)  # (N, 1) each
    rows = torch.arange(masks.shape[1], device=masks.device)
    columns = torch.arange(masks.shape[2], device=masks.device)
    inside_rows = (rows >= top) & (rows < bottom)  # (N, H)
    inside_columns = (columns >= left) & (columns < right)  # (N, W)
    return inside_rows[:, :, None] & inside_columns[:, None]
