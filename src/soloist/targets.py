"""Which grid cell learns which instance (paper section 3.3; SOLO)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from soloist.ops.masks import center_of_mass
from soloist.structures import GridTargets, LevelTargets

CENTER_SIGMA = 0.2
"""Share of each side of a box that is positive (SOLO; released)."""


def grid_targets(
    boxes: Tensor,
    masks: Tensor,
    *,
    labels: Tensor | None = None,
    input_size: tuple[int, int],
    grids: Sequence[int] = (40, 36, 24, 16, 12),
    scale_ranges: Sequence[tuple[float, float]] = (
        (1, 96),
        (48, 192),
        (96, 384),
        (192, 768),
        (384, 2048),
    ),
    center_sigma: float = CENTER_SIGMA,
    num_classes: int = 1,
) -> GridTargets:
    """Assigns the instances of one image to levels and grid cells.

    An instance goes to each level whose closed range holds sqrt(box area), so to up to three.
    Its positive cells are those its box touches when shrunk by center_sigma and moved to the
    mask's centre of mass, at most one cell off the centre cell. Instances may share a cell: both
    learn their mask from it, and the later one gives the cell's category. Instances with an
    empty mask are skipped.

    Args:
        boxes: (N, 4) float xyxy in pixels of the network's input.
        masks: (N, H, W) bool at the size of the network's input or smaller (the padding at the
            bottom and right may be left off).
        labels: (N,) int64 class of each instance in [0, num_classes); all 0 when None.
        input_size: (height, width) of the padded network input in pixels; the grid covers it.
        grids: Grid side of each level.
        scale_ranges: Closed range of sqrt(box area) of each level, in pixels.
        center_sigma: Share of the box that is positive.
        num_classes: K; this value marks background cells.

    Returns:
        One LevelTargets per level, on the device of masks; positive cells are ordered by
        instance, then row, then column.

    Raises:
        ValueError: If the numbers of boxes, masks and labels or of grids and ranges differ, or
            the masks are larger than input_size.
    """
    labels = labels if labels is not None else torch.zeros(len(masks), dtype=torch.int64)
    labels = labels.to(masks.device)
    if not len(boxes) == len(masks) == len(labels):
        raise ValueError(
            "boxes, masks and labels must describe the same instances, got "
            f"{len(boxes)}, {len(masks)} and {len(labels)}"
        )
    if masks.shape[1] > input_size[0] or masks.shape[2] > input_size[1]:
        raise ValueError(
            f"masks must fit in input_size {tuple(input_size)}, got {tuple(masks.shape[1:])}; "
            "give the padded size"
        )
    filled = masks.flatten(1).any(dim=1)
    return assign_cells(
        boxes.to(masks.device, torch.float32) * filled[:, None],
        center_of_mass(masks),
        labels,
        input_size=input_size,
        grids=grids,
        scale_ranges=scale_ranges,
        center_sigma=center_sigma,
        num_classes=num_classes,
    )


def assign_cells(
    boxes: Tensor,
    centers: Tensor,
    labels: Tensor,
    *,
    input_size: tuple[int, int],
    grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
    num_classes: int,
    center_sigma: float = CENTER_SIGMA,
) -> GridTargets:
    """`grid_targets` of instances of which only boxes and centres are left.

    Args:
        boxes: (N, 4) float32 xyxy in pixels; one without area stands for an empty mask.
        centers: (N, 2) float32 centres of mass (y, x) in pixels.
        labels: (N,) int64.
        input_size: As for `grid_targets`, like all that follow.
        grids: Likewise.
        scale_ranges: Likewise.
        num_classes: Likewise.
        center_sigma: Likewise.

    Returns:
        As `grid_targets`, on the device of boxes.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).flip(1).clamp(min=0)  # (N, 2) height, width
    scales = sides.prod(dim=1).sqrt()
    size = torch.tensor(input_size, device=boxes.device)
    centers = centers / size  # (N, 2) in [0, 1)
    halves = sides * (0.5 * center_sigma) / size
    levels = []
    for side, (lower, upper) in zip(grids, scale_ranges, strict=True):
        chosen = (scales > 0) & (scales >= lower) & (scales <= upper)
        center = _cell(centers, side)
        first = torch.maximum(_cell(centers - halves, side), center - 1)
        last = torch.minimum(_cell(centers + halves, side), center + 1)
        numbers = torch.arange(side, device=boxes.device)
        inside = (numbers >= first[:, :, None]) & (numbers <= last[:, :, None])  # (N, 2, S)
        positive = inside[:, 0, :, None] & inside[:, 1, None, :] & chosen[:, None, None]
        instances, rows, columns = positive.nonzero(as_tuple=True)  # (P,) each
        levels.append(
            LevelTargets(
                category=_category(positive, labels, background=num_classes),
                cells=rows * side + columns,
                instances=instances,
            )
        )
    return tuple(levels)


def downsample_masks(masks: Tensor, out_size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Shrinks binary masks to the size of the mask features.

    Bilinear without antialiasing, as the released code does by OpenCV: at stride 4 the mean of
    the four middle pixels of each 4x4 block. Objects thinner than that may vanish.

    Args:
        masks: (N, H, W) bool.
        out_size: (h, w) in cells.
        threshold: A cell is foreground when its resized value is >= this.

    Returns:
        (N, h, w) bool.
    """
    if len(masks) == 0:
        return masks.new_zeros((0, *out_size))
    soft = F.interpolate(masks[None].float(), size=out_size, mode="bilinear", align_corners=False)
    return soft[0] >= threshold


def _cell(positions: Tensor, side: int) -> Tensor:
    """Index of the cell a position in [0, 1) lies in.

    Divided by the cell's width as in the released code: floor(positions * side) puts a position
    on the line between two cells (the middle of the image) into the other one.
    """
    return torch.div(positions, 1 / side, rounding_mode="floor")


def _category(positive: Tensor, labels: Tensor, *, background: int) -> Tensor:
    """(S, S) int64 label of the last instance on each cell of (N, S, S) bool positives."""
    if len(positive) == 0:
        return labels.new_full(positive.shape[1:], background)
    order = torch.arange(1, len(positive) + 1, device=positive.device)
    last = (positive * order[:, None, None]).amax(dim=0)  # 0 where no instance is
    return torch.cat([labels.new_full((1,), background), labels])[last]
