"""Suppression of duplicate masks and of neighbouring peaks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from soloist.ops.masks import intersections, mask_areas, mask_iou

_BLOCK = 128
"""Masks compared with all better ones at a time: memory holds a block of overlaps."""


def matrix_nms(
    masks: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    kernel: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 2.0,
) -> Tensor:
    """Scores decayed by the overlap with better masks (SOLOv2 section 3.3, equations 4 and 5).

    A mask's decay is the least over all better masks i of f(iou) / f(compensation_i), where
    compensation_i is the largest overlap of i with any mask better than i: a mask that is itself
    suppressed suppresses less. The input may be in any order; the result does not depend on it
    (of equal scores the first counts as the better one). Decayed scores never exceed the input.

    Differs from the released function, which takes the given order for the order of scores, and
    gives NaN for empty masks and, with the linear kernel, for duplicates (docs/fidelity.md).

    Args:
        masks: (N, H, W) bool. An empty mask neither decays others nor is decayed.
        scores: (N,) float in [0, 1].
        labels: (N,) integers; only masks of one label compete. None: all compete.
        kernel: f(iou) is exp(-sigma * iou ** 2) for "gaussian", 1 - iou for "linear".
        sigma: Width of the Gaussian kernel (SOLOv2: 2).

    Returns:
        (N,) float32 decayed scores in the order of the input.

    Raises:
        ValueError: If the lengths differ or the kernel is unknown.
    """
    _check_lengths(masks, scores, labels)
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"kernel must be 'gaussian' or 'linear', got {kernel!r}")
    n = len(masks)
    order = torch.argsort(scores, descending=True, stable=True)
    masks = masks[order]
    labels = None if labels is None else labels[order]
    ranks = torch.arange(n, device=masks.device)
    compensation = torch.zeros(n, device=masks.device)
    coefficients = torch.ones(n, device=masks.device)
    flat = masks.flatten(1)
    areas = mask_areas(masks)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        shared = intersections(flat[:stop], flat[start:stop])  # (stop, stop - start)
        iou = shared / (areas[:stop, None] + areas[start:stop] - shared).clamp(min=1)
        competes = ranks[:stop, None] < ranks[start:stop]
        if labels is not None:
            competes &= labels[:stop, None] == labels[start:stop]
        iou = torch.where(competes, iou, 0)
        compensation[start:stop] = iou.amax(dim=0)
        coefficients[start:stop] = _least_decay(iou, compensation[:stop, None], kernel, sigma)
    decayed = torch.empty(n, device=masks.device)
    decayed[order] = scores[order].float() * coefficients
    return decayed


def point_nms(scores: Tensor, kernel: int = 2) -> Tensor:
    """Grid scores with everything but the local peaks set to 0.

    A cell stays when no cell of its window scores higher; ties all stay. The window of 2 is the
    cell and its upper, left and upper-left neighbours (SOLOv2); an odd one is centred.

    Args:
        scores: (B, K, S, S) float.
        kernel: Side of the window, in cells.

    Returns:
        (B, K, S, S) of the dtype of scores.
    """
    height, width = scores.shape[-2:]
    peaks = functional.max_pool2d(scores, kernel, stride=1, padding=kernel // 2)
    return torch.where(scores == peaks[..., :height, :width], scores, 0)


def mask_nms(
    masks: Tensor, scores: Tensor, labels: Tensor | None = None, threshold: float = 0.5
) -> Tensor:
    """Which masks greedy suppression keeps: those that overlap no better kept mask too much.

    Args:
        masks: (N, H, W) bool. Empty masks are not kept.
        scores: (N,) float; the input may be in any order (of equal scores the first is better).
        labels: (N,) integers; only masks of one label compete. None: all compete.
        threshold: Masks whose IoU with a better kept one exceeds this are dropped.

    Returns:
        (N,) bool in the order of the input.

    Raises:
        ValueError: If the lengths differ.
    """
    _check_lengths(masks, scores, labels)
    order = torch.argsort(scores, descending=True, stable=True)
    suppresses = mask_iou(masks[order], masks[order]) > threshold  # (N, N)
    if labels is not None:
        suppresses &= labels[order][:, None] == labels[order]
    kept = masks[order].flatten(1).any(dim=1)
    for rank in range(len(order)):
        if kept[rank]:
            kept[rank + 1 :] &= ~suppresses[rank, rank + 1 :]
    keep = torch.empty_like(kept)
    keep[order] = kept
    return keep


def _least_decay(iou: Tensor, compensation: Tensor, kernel: str, sigma: float) -> Tensor:
    """The least f(iou) / f(compensation) of each column; at least 1 where the overlaps are 0."""
    if kernel == "gaussian":
        # The exponential falls: it is least where its argument is greatest.
        return torch.exp(-sigma * (iou.square() - compensation.square()).amax(dim=0))
    # A duplicate of a better mask (compensation 1) adds nothing to what that mask decays, and
    # 0 / 0 would be NaN.
    remaining = 1 - compensation
    return torch.where(remaining > 0, (1 - iou) / remaining.clamp(min=1e-12), 1).amin(dim=0)


def _check_lengths(masks: Tensor, scores: Tensor, labels: Tensor | None) -> None:
    lengths = {len(masks), len(scores), len(scores if labels is None else labels)}
    if len(lengths) != 1:
        raise ValueError(f"masks, scores and labels must have one length, got {sorted(lengths)}")
