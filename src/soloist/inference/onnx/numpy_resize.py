"""Bilinear resizing in NumPy: maps by weights as `ops.resize` has them, pixels as torchvision does.

Both are matrix products: an output reads few neighbouring inputs, all other weights are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
AnyFloats = TypeVar("AnyFloats", Floats, Doubles)

_BLOCK = 64
"""Outputs made at a time, of the inputs they read."""
_LARGEST_WEIGHT = 2**15 - 1
_MAX_BITS = 21
"""Weights of pixels are rounded to fractions of 2 to this power, or to so few that they fit."""


def linear_weights(size: int, *, padded: int, cropped: int, target: int) -> Floats:
    """Weights of one axis resized, cropped and resized again; see `ops.resize.linear_weights`."""
    return _interpolation(size, padded)[:, :cropped] @ _interpolation(cropped, target)


def resize(maps: Floats, row_weights: Floats, column_weights: Floats) -> Floats:
    """(N, h, w) maps resized by (h, H) and (w, W) weights to (N, H, W)."""
    return _along_columns(_along_rows(maps, row_weights), column_weights)


def resize_pixels(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bilinear resizing with antialiasing, bit by bit what torchvision does on a processor.

    That is: weights rounded to fractions that fit 16 bits, columns before rows, and pixels rounded
    after each. Pillow rounds finer and differs in some pixels by 1 or 2, which is enough
    to bring objects over a threshold. Checked on processors with AVX2; on GPUs and old processors
    torchvision computes in floating point, which differs likewise.

    Args:
        pixels: (H, W, 3) uint8.
        size: Wanted (height, width).

    Returns:
        (height, width, 3) uint8.
    """
    maps = pixels.transpose(2, 0, 1).astype(np.float64)
    for axis, along in ((1, _along_columns), (0, _along_rows)):
        if pixels.shape[axis] != size[axis]:
            maps = _rounded_pass(maps, _antialiasing(pixels.shape[axis], size[axis]), along)
    return maps.astype(np.uint8).transpose(1, 2, 0)


def _rounded_pass(maps: Doubles, weights: Doubles, along: Callable[..., Doubles]) -> Doubles:
    """Pixels resized along an axis by whole numbers."""
    bits = _MAX_BITS
    while np.floor(0.5 + weights.max() * 2**bits) > _LARGEST_WEIGHT:
        bits -= 1
    sums = along(maps, np.floor(0.5 + weights * 2**bits))
    rounded: Doubles = np.clip(np.floor((sums + 2 ** (bits - 1)) / 2**bits), 0, 255)
    return rounded


def _antialiasing(size: int, target: int) -> Doubles:
    """(size, target) weights of a triangle as wide as the step between two outputs."""
    step = size / target
    centers = step * (np.arange(target) + 0.5)
    distances = np.abs(np.arange(size)[:, None] + 0.5 - centers) / max(step, 1)
    weights = np.maximum(1 - distances, 0)
    normalised: Doubles = weights / weights.sum(axis=0)
    return normalised


def _interpolation(size: int, target: int) -> Floats:
    """(size, target) weights of the two neighbours of each output, without antialiasing."""
    centers = (np.arange(target, dtype=np.float32) + 0.5) * np.float32(size / target) - 0.5
    centers = np.maximum(centers, 0)
    lower = np.minimum(centers.astype(np.int64), size - 1)
    upper = np.minimum(lower + 1, size - 1)
    share = np.minimum(centers - lower, 1).astype(np.float32)
    weights = np.zeros((size, target), dtype=np.float32)
    columns = np.arange(target)
    weights[lower, columns] = 1 - share
    weights[upper, columns] += share
    return weights


def _along_rows(maps: AnyFloats, weights: AnyFloats) -> AnyFloats:
    """(N, h, w) -> (N, H, w) by (h, H) weights."""
    return np.concatenate([band.T @ maps[:, used] for used, band in _bands(weights)], axis=1)


def _along_columns(maps: AnyFloats, weights: AnyFloats) -> AnyFloats:
    """(N, h, w) -> (N, h, W) by (w, W) weights."""
    return np.concatenate([maps[:, :, used] @ band for used, band in _bands(weights)], axis=2)


def _bands(weights: AnyFloats) -> list[tuple[slice, AnyFloats]]:
    """Blocks of outputs: the range of inputs each reads, and its weights."""
    bands = []
    for start in range(0, weights.shape[1], _BLOCK):
        block = weights[:, start : start + _BLOCK]
        used = np.flatnonzero(block.any(axis=1))
        inputs = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((inputs, block[inputs]))
    return bands
