"""Feature maps: what they must be, and what describes a part of one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def unit_features(features: Tensor) -> Tensor:
    """A feature map whose vectors have length 1; zero vectors stay.

    Args:
        features: (C, h, w) of any float dtype.

    Returns:
        (C, h, w) float32.

    Raises:
        ValueError: If it is not 3-D, has an empty side or a value that is not finite.
    """
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError(f"features must be (C, H, W), none of them 0, got {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features must be finite, got NaN or infinity: check the backbone")
    return functional.normalize(features.float(), dim=0)


def unit_embeddings(sums: Tensor, size: int) -> Tensor:
    """Sums of features as embeddings of a fixed size, as free masks have them.

    Args:
        sums: (K, C) float32.
        size: E; channels are interpolated to E.

    Returns:
        (K, E) float32 of length 1, or 0 where the sum is 0.
    """
    if len(sums) == 0:
        return sums.new_zeros((0, size))
    if sums.shape[1] != size:
        sums = functional.interpolate(sums[None], size, mode="linear", align_corners=False)[0]
    return functional.normalize(sums, dim=1)
