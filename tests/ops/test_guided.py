"""The guided filter against its definition, and on an image with one edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from soloist.ops.guided import EPSILON, guided_filter


def by_definition(maps: Tensor, guide: Tensor, radius: int) -> Tensor:
    """Least squares in each window, then the mean of the fits of the windows around a pixel."""
    height, width = guide.shape[1:]
    sums, counts = torch.zeros_like(maps), torch.zeros(height, width)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius), y + radius + 1)
            columns = slice(max(0, x - radius), x + radius + 1)
            colors = guide[:, rows, columns].flatten(1).T.double()  # (P, 3)
            values = maps[:, rows, columns].flatten(1).T.double()
            centered = colors - colors.mean(dim=0)
            matrix = centered.T @ centered / len(colors) + EPSILON * torch.eye(3)
            slopes = torch.linalg.solve(matrix, centered.T @ values / len(colors))
            fitted = centered @ slopes + values.mean(dim=0)
            sums[:, rows, columns] += fitted.T.view(len(maps), *counts[rows, columns].shape).float()
            counts[rows, columns] += 1
    return sums / counts


@pytest.mark.parametrize("radius", [1, 3, 5])
def test_windows_are_fitted_by_least_squares(radius: int) -> None:
    generator = torch.Generator().manual_seed(0)
    guide = torch.rand(3, 16, 20, generator=generator)
    maps = torch.rand(2, 16, 20, generator=generator)
    wanted = by_definition(maps, guide, radius)
    torch.testing.assert_close(guided_filter(maps, guide, radius), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("radius", [4, 8, 16])
def test_a_blunt_mask_ends_where_the_color_does(radius: int) -> None:
    guide = torch.zeros(3, 64, 96)
    guide[0, :, 40:] = 1
    blunt = torch.zeros(1, 64, 96)
    blunt[:, :, 40 - radius // 2 :] = 1
    mask = guided_filter(blunt, guide, radius)[0] > 0.5
    edges = [int(np.flatnonzero(row)[0]) for row in mask.numpy()]
    # The edge of a reduced map lies within its step.
    assert all(abs(edge - 40) <= radius // 4 for edge in edges)
    assert mask[:, 60:].all()


def test_a_flat_image_leaves_means() -> None:
    maps = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0))
    smooth = guided_filter(maps, torch.full((3, 12, 12), 0.5), 30)
    torch.testing.assert_close(smooth, maps.mean().expand(1, 12, 12), rtol=0, atol=1e-5)


def test_no_maps_stay_none() -> None:
    assert guided_filter(torch.zeros(0, 8, 9), torch.zeros(3, 8, 9), 2).shape == (0, 8, 9)
