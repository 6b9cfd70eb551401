"""The guided filter: maps smoothed along the edges of an image, not across them."""

from __future__ import annotations

import torch
from torch import Tensor

from soloist.ops.resize import linear_weights

EPSILON = 1e-3
"""Variance of colours in [0, 1] under which a window counts as flat."""
MIN_RADIUS = 4
"""Models are fitted on an image reduced so far that their window has about this radius."""


def guided_filter(maps: Tensor, guide: Tensor, radius: int) -> Tensor:
    """Maps as locally linear functions of an image's colours (He et al., TPAMI 2013).

    In each window the map is fitted by an affine function of the colours; the functions of all
    windows a pixel lies in are averaged there. They are fitted on reduced maps (He and Sun, 2015),
    so that the time does not grow with the radius.

    Args:
        maps: (N, H', W') bool or float32, of the whole image at any size.
        guide: (3, H, W) float32 colours in [0, 1].
        radius: Of the square windows, in pixels of the guide; at least 1.

    Returns:
        (N, H, W) float32, which may leave the range of the maps a little.
    """
    height, width = guide.shape[1:]
    step = max(1, round(radius / MIN_RADIUS))
    size = (max(1, round(height / step)), max(1, round(width / step)))
    slopes, offsets = _models(_reduced(maps, size), _reduced(guide, size), round(radius / step))
    rows, columns = (
        linear_weights(few, padded=many, cropped=many, target=many).to(guide)
        for few, many in zip(size, (height, width), strict=True)
    )
    filtered = guide.new_empty((len(maps), height, width))
    for number, out in enumerate(filtered):  # one at a time stays in the cache
        torch.matmul(rows.T @ offsets[number], columns, out=out)
        for slope, color in zip(rows.T @ slopes[number] @ columns, guide, strict=True):
            out.addcmul_(slope, color)
    return filtered


def _models(values: Tensor, colors: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Slopes (N, 3, h, w) and offsets (N, h, w) of (N, h, w) maps over (3, h, w) colours."""
    size = colors.shape[1:]
    mean_colors, mean_values = _means(colors, radius), _means(values, radius)
    products = _means((colors[:, None] * colors).flatten(0, 1), radius).view(3, 3, *size)
    covariance = (products - mean_colors[:, None] * mean_colors).permute(2, 3, 0, 1)
    covariance = covariance + EPSILON * torch.eye(3).to(covariance)
    shared = _means((colors[:, None] * values).flatten(0, 1), radius).view(3, -1, *size)
    shared = (shared - mean_colors[:, None] * mean_values).permute(2, 3, 0, 1)  # (h, w, 3, N)
    slopes = torch.linalg.solve(covariance, shared).permute(3, 2, 0, 1)
    offsets = mean_values - (slopes * mean_colors).sum(dim=1)
    return _means(slopes.flatten(0, 1), radius).view(slopes.shape), _means(offsets, radius)


def _means(maps: Tensor, radius: int) -> Tensor:
    """Means of (C, h, w) over the part of each square window that lies inside."""
    rows, columns = (_averaging(side, radius).to(maps) for side in maps.shape[1:])
    return rows @ maps @ columns.T


def _averaging(side: int, radius: int) -> Tensor:
    """(side, side) matrix whose product with a line is its means over windows."""
    places = torch.arange(side)
    inside = (places[:, None] - places).abs() <= radius
    return inside / inside.sum(dim=1, keepdim=True)


def _reduced(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool or float as (N, h, w) float32: means of the pixels each new one covers."""
    rows, columns = (
        _covering(many, few).to(maps.device) for many, few in zip(maps.shape[1:], size, strict=True)
    )
    small = rows.new_empty((len(maps), *size))
    for one, out in zip(maps, small, strict=True):
        torch.matmul(rows @ one.float(), columns.T, out=out)
    return small


def _covering(many: int, few: int) -> Tensor:
    """(few, many) matrix whose product with a line is its means over `few` parts."""
    places, parts = torch.arange(many), torch.arange(few)[:, None]
    inside = (places >= parts * many // few) & (places < -(-(parts + 1) * many // few))
    return inside / inside.sum(dim=1, keepdim=True)
