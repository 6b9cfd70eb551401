"""Areas, boxes, centres and overlaps of masks, and the means of soft ones."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

_FLOATS = 2**24
"""Values of masks held as float32 at a time, beside the others: memory does not grow with N."""


def mean_inside(soft_masks: Tensor, masks: Tensor) -> Tensor:
    """Mean of each soft mask over its binary mask; 0 where that is empty.

    Args:
        soft_masks: (N, H, W) float in [0, 1].
        masks: (N, H, W) bool.

    Returns:
        (N,) float32 in [0, 1].
    """
    foreground = masks.flatten(1).float()
    confidence: Tensor = torch.linalg.vecdot(soft_masks.flatten(1).float(), foreground)
    return confidence / foreground.sum(dim=1).clamp(min=1)


def mask_areas(masks: Tensor) -> Tensor:
    """Number of foreground pixels of each mask, exact below 2**24.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N,) float32 areas in pixels.
    """
    return _counts(masks.flatten(1))


def mask_iou(masks: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every mask with every other one, by one matrix product.

    Args:
        masks: (N, H, W) bool.
        others: (M, H, W) bool.

    Returns:
        (N, M) float32 in [0, 1]; 0 between two empty masks.

    Raises:
        ValueError: If the masks are not 3-D or differ in (H, W).
    """
    _check_masks("masks", masks)
    _check_masks("others", others)
    if masks.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"masks and others must have one size, got {tuple(masks.shape[1:])} "
            f"and {tuple(others.shape[1:])}"
        )
    rows, columns = masks.flatten(1), others.flatten(1)
    shared = intersections(rows, columns)  # (N, M)
    unions = _counts(rows)[:, None] + _counts(columns) - shared
    return shared / unions.clamp(min=1)


def intersections(masks: Tensor, others: Tensor) -> Tensor:
    """Number of pixels that every mask shares with every other one, exact below 2**24.

    Args:
        masks: (N, P) bool.
        others: (M, P) bool.

    Returns:
        (N, M) float32.
    """
    if masks.device.type == "cpu" and _multiplies_bytes() and masks.numel() and len(others):
        # Five times as fast as float32, and the bools' own memory. torch has no other name for it.
        return torch._int_mm(masks.view(torch.int8), others.view(torch.int8).T).float()
    columns = others.float().T
    chunk = max(1, _FLOATS // max(masks.shape[1], 1))
    shared = masks.new_empty((len(masks), len(others)), dtype=torch.float32)
    with torch.autocast(masks.device.type, enabled=False):
        for start in range(0, len(masks), chunk):
            shared[start : start + chunk] = masks[start : start + chunk].float() @ columns
    return shared


@cache
def _multiplies_bytes() -> bool:
    """Whether torch hands products of bytes to oneDNN; elsewhere they are slow."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")


def _counts(masks: Tensor) -> Tensor:
    """Foreground pixels of (N, P) bool masks: (N,) float32."""
    if masks.device.type == "cpu":
        # Nine times as fast as torch's sum of bools.
        return torch.tensor([np.count_nonzero(row) for row in masks.numpy()]).float()
    return masks.sum(dim=1, dtype=torch.int32).float()


def occupied(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows and which columns hold foreground.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, H) bool rows and (N, W) bool columns.
    """
    # The maximum of bytes is fifty times faster than `any` of bools on a processor.
    flags = masks.bool().view(torch.uint8)
    return flags.amax(dim=2).bool(), flags.amax(dim=1).bool()


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Tight boxes around masks.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) float32 xyxy pixels, exclusive end; zeros for an empty mask.

    Raises:
        ValueError: If masks is not 3-D.
    """
    _check_masks("masks", masks)
    rows, columns = occupied(masks)
    top, bottom = _span(rows)
    left, right = _span(columns)
    return torch.stack((left, top, right, bottom), dim=1)


def extents(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean index and number of the rows, and of the columns, that hold foreground.

    Of a mask in one part that is the centre and the size of its box.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 2) float32 centres (y, x), where pixel (0, 0) has its centre at 0, and (N, 2) float32
        sizes (height, width) in pixels; zeros for an empty mask.
    """
    centers, sizes = [], []
    for flags in occupied(masks):
        numbers = torch.arange(flags.shape[1], device=flags.device)
        counts = flags.sum(dim=1)
        centers.append((flags * numbers).sum(dim=1) / counts.clamp(min=1))
        sizes.append(counts.float())
    return torch.stack(centers, dim=1), torch.stack(sizes, dim=1)


def extent_boxes(masks: Tensor) -> Tensor:
    """Boxes of the released code: the centre of `extents` and half its size to either side.

    A run of pixels a..b gives [a - 0.5, b + 0.5]; around a mask in several parts the box is not
    tight. Only for comparisons (docs/fidelity.md); `masks_to_boxes` is what a box should be.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) float32 xyxy pixels; zeros for an empty mask.

    Raises:
        ValueError: If masks is not 3-D.
    """
    _check_masks("masks", masks)
    centers, sizes = extents(masks)
    return torch.cat((centers - sizes / 2, centers + sizes / 2), dim=1)[:, [1, 0, 3, 2]]


def center_of_mass(masks: Tensor) -> Tensor:
    """Mean position of the foreground of each mask, in whole-pixel coordinates.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 2) float32 (y, x), where pixel (0, 0) has its centre at 0; zeros for an empty mask.

    Raises:
        ValueError: If masks is not 3-D.
    """
    _check_masks("masks", masks)
    _, height, width = masks.shape
    per_row = masks.sum(dim=2, dtype=torch.int32).float()
    per_column = masks.sum(dim=1, dtype=torch.int32).float()
    areas = per_row.sum(dim=1).clamp(min=1)
    y = (per_row * torch.arange(height, device=masks.device)).sum(dim=1) / areas
    x = (per_column * torch.arange(width, device=masks.device)).sum(dim=1) / areas
    return torch.stack((y, x), dim=1)


def _span(flags: Tensor) -> tuple[Tensor, Tensor]:
    """First set index and one past the last of each row of (N, L) bool; 0 and 0 where none is."""
    length = flags.shape[1]
    numbers = torch.arange(length, device=flags.device)
    first = torch.where(flags, numbers, length).amin(dim=1)
    end = torch.where(flags, numbers + 1, 0).amax(dim=1)
    return torch.minimum(first, end).float(), end.float()


def _check_masks(name: str, masks: Tensor) -> None:
    if masks.ndim != 3:
        raise ValueError(f"{name} must be (N, H, W), got {tuple(masks.shape)}")
