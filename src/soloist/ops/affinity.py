"""Colours of neighbouring pixels, for the pairwise affinity loss (paper section 3.3)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
"""Linear sRGB to CIE XYZ (ITU-R BT.709 primaries)."""
_WHITE = (0.95047, 1.0, 1.08883)
"""XYZ of the reference white D65, observer of 2 degrees."""


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB to CIE-Lab (D65), where distances follow what the eye tells apart.

    Equals `skimage.color.rgb2lab`, on the device of the input.

    Args:
        rgb: (..., 3, H, W) float in [0, 1].

    Returns:
        (..., 3, H, W) float32: L in [0, 100], a and b about [-128, 127].

    Raises:
        ValueError: If there are not 3 channels.
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"rgb must be (..., 3, H, W), got {tuple(rgb.shape)}")
    return linear_to_lab(srgb_to_linear(rgb.float()))


def srgb_to_linear(values: Tensor) -> Tensor:
    """Intensities in [0, 1] of float sRGB values in [0, 1], of any shape."""
    # The sRGB curve is linear near black.
    curved = ((values + 0.055) / 1.055).clamp(min=0) ** 2.4
    return torch.where(values > 0.04045, curved, values / 12.92)


def linear_to_lab(linear: Tensor) -> Tensor:
    """(..., 3, H, W) float32 CIE-Lab of linear RGB in [0, 1]; see `rgb_to_lab`."""
    to_xyz = _to_xyz(linear.device)
    with torch.autocast(linear.device.type, enabled=False):
        xyz = torch.einsum("dc,...chw->...dhw", to_xyz, linear)
    # So is the cube root of CIE-Lab.
    roots = torch.where(xyz > 0.008856, xyz.clamp(min=0) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = roots.unbind(dim=-3)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-3)


@cache
def _to_xyz(device: torch.device) -> Tensor:
    """(3, 3) float32, over the reference white; kept, since a device waits for what is sent."""
    white = torch.tensor(_WHITE, device=device)[:, None]
    return torch.tensor(_XYZ_FROM_RGB, device=device) / white


def neighbors(maps: Tensor, dilation: int = 2) -> Tensor:
    """The 8 neighbours of every position, row-major without the centre.

    Args:
        maps: (B, C, H, W) float.
        dilation: Distance to the neighbours, in positions (BoxInst: 2).

    Returns:
        (B, C, 8, H, W) of the dtype of maps; 0 outside the map.
    """
    height, width = maps.shape[-2:]
    padded = functional.pad(maps, (dilation,) * 4)
    steps = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
    shifted = [
        padded[..., row * dilation :, column * dilation :][..., :height, :width]
        for row, column in steps
    ]
    return torch.stack(shifted, dim=2)


def color_similarity(lab: Tensor, valid: Tensor) -> Tensor:
    """How alike the colours of neighbouring pixels are: exp(-||a - b|| / 2).

    Args:
        lab: (B, 3, H, W) float CIE-Lab colours.
        valid: (B, H, W) bool or float 0 / 1; False in padding.

    Returns:
        (B, 8, H, W) float32 in [0, 1], neighbours as in `neighbors`; 0 towards a neighbour that
        is not valid or lies outside the image.
    """
    lab = lab.float()
    distances = torch.linalg.vector_norm(neighbors(lab) - lab[:, :, None], dim=1)
    neighbor_valid = neighbors(valid[:, None].float())[:, 0]  # (B, 8, H, W)
    return torch.exp(-distances / 2) * neighbor_valid
