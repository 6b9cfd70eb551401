"""The guided filter: maps smoothed along the edges of a picture, not across them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-3
"""Variance of colours in [0, 1] under which a window counts as flat."""
LEAST_RADIUS = 4
"""Models are fitted on a picture reduced so far that their window has about this radius."""


def guided_filter(maps: Tensor, guide: Tensor, radius: int) -> Tensor:
    """Maps as locally linear functions of a picture's colours (He et al., TPAMI 2013).

    In each window the map is fitted by an affine function of the colours; the functions of all
    windows a pixel lies in are averaged there. They are fitted on reduced maps (He and Sun, 2015),
    so that the time does not grow with the radius.

    Args:
        maps: (N, H, W) float32.
        guide: (3, H, W) float32 colours in [0, 1].
        radius: Of the square windows, in pixels; at least 1.

    Returns:
        (N, H, W) float32, which may leave the range of the maps a little.
    """
    if len(maps) == 0:
        return maps
    height, width = guide.shape[1:]
    step = max(1, round(radius / LEAST_RADIUS))
    size = (max(1, round(height / step)), max(1, round(width / step)))
    window = max(1, round(radius / step))
    colors, values = (
        functional.interpolate(one[None], size, mode="area")[0] for one in (guide, maps)
    )
    mean_colors, mean_values = _means(colors, window), _means(values, window)  # (3 | N, h, w)
    products = _means((colors[:, None] * colors).flatten(0, 1), window).view(3, 3, *size)
    covariance = (products - mean_colors[:, None] * mean_colors).permute(2, 3, 0, 1)
    covariance = covariance + EPSILON * torch.eye(3).to(covariance)
    shared = _means((colors[:, None] * values).flatten(0, 1), window).view(3, -1, *size)
    shared = (shared - mean_colors[:, None] * mean_values).permute(2, 3, 0, 1)  # (h, w, 3, N)
    slopes = torch.linalg.solve(covariance, shared).permute(3, 2, 0, 1)  # (N, 3, h, w)
    offsets = mean_values - (slopes * mean_colors).sum(dim=1)
    models = _means(torch.cat([slopes, offsets[:, None]], dim=1).flatten(0, 1), window)
    models = functional.interpolate(
        models[None], (height, width), mode="bilinear", align_corners=False
    )[0].view(-1, 4, height, width)
    return (models[:, :3] * guide).sum(dim=1) + models[:, 3]


def _means(maps: Tensor, radius: int) -> Tensor:
    """Means of (C, h, w) over the part of each square window that lies inside."""
    rows, columns = (_averaging(side, radius).to(maps) for side in maps.shape[1:])
    return rows @ maps @ columns.T


def _averaging(side: int, radius: int) -> Tensor:
    """(side, side) matrix whose product with a line is its means over windows."""
    places = torch.arange(side)
    inside = (places[:, None] - places).abs() <= radius
    return inside / inside.sum(dim=1, keepdim=True)
