"""Suppression of duplicate masks and of neighbouring peaks."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from soloist.ops.masks import intersections, mask_areas, mask_iou

Kernel = Literal["gaussian", "linear"]

_BLOCK = 128
"""Masks compared with all better ones at a time: memory holds a block of overlaps."""
_FIRST_BLOCK = 8
"""Where few masks can pass: the first ones, of which the best alone decays most others."""

_ALL = slice(None)


def matrix_nms(
    masks: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    kernel: Kernel = "gaussian",
    sigma: float = 2.0,
    *,
    least: float = 0.0,
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
        least: Decayed scores below this are not wanted. Above 0 only masks that can pass, and
            those that bear on them, are compared, which is much quicker where few pass.

    Returns:
        (N,) float32 decayed scores in the order of the input; 0 for those below `least`, the
        others do not depend on it.

    Raises:
        ValueError: If the lengths differ or the kernel is unknown.
    """
    _check_lengths(masks, scores, labels)
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"kernel must be 'gaussian' or 'linear', got {kernel!r}")
    order = torch.argsort(scores, descending=True, stable=True)
    ranked = _Ranked(
        scores[order].float(),
        masks[order].flatten(1),
        mask_areas(masks)[order],
        None if labels is None else labels[order],
    )
    if least > 0:
        sorted_scores = _decayed_from(least, ranked, kernel, sigma)
    else:
        sorted_scores = ranked.scores * _decay(_all_strengths(ranked, kernel), kernel, sigma)
    decayed = torch.empty_like(sorted_scores)
    decayed[order] = sorted_scores
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


class _Ranked(NamedTuple):
    """Masks, best first.

    Attributes:
        scores: (N,) float32, descending.
        masks: (N, P) bool.
        areas: (N,) float32.
        labels: (N,) integers; None where all compete.
    """

    scores: Tensor
    masks: Tensor
    areas: Tensor
    labels: Tensor | None

    def iou(self, rows: Tensor | slice, columns: Tensor | slice) -> Tensor:
        """(R, C) float32 overlaps of masks given by their ranks; 0 where labels differ."""
        shared = intersections(self.masks[rows], self.masks[columns])
        iou = shared / (self.areas[rows, None] + self.areas[columns] - shared).clamp(min=1)
        if self.labels is None:
            return iou
        return torch.where(self.labels[rows, None] == self.labels[columns], iou, 0)


def _all_strengths(ranked: _Ranked, kernel: Kernel) -> Tensor:
    """(N,) how strongly each mask is decayed, for `_decay`."""
    n = len(ranked.scores)
    ranks = torch.arange(n, device=ranked.masks.device)
    compensation = torch.zeros(n, device=ranked.masks.device)
    strengths = torch.empty_like(compensation)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        iou = ranked.iou(slice(stop), slice(start, stop))
        iou = torch.where(ranks[:stop, None] < ranks[start:stop], iou, 0)
        compensation[start:stop] = iou.amax(dim=0)
        strengths[start:stop] = _strength(iou, compensation[:stop, None], kernel).amax(dim=0)
    return strengths


def _decayed_from(least: float, ranked: _Ranked, kernel: Kernel, sigma: float) -> Tensor:
    """(N,) decayed scores of the masks whose decayed score is at least this; 0 for the others.

    A mask that one other alone decays too far is out, whatever the rest does. Masks are compared
    with all in blocks: first, in the order of their scores, those that are not out, then those
    that could decay one of these further, if they were compensated no more than is known. To the
    bit the same as without `least`: a strength is a maximum, which only equals are left out of.
    """
    n, device = len(ranked.scores), ranked.masks.device
    ranks = torch.arange(n, device=device)
    compared = torch.zeros(n, dtype=torch.bool, device=device)
    known_compensation = torch.zeros(n, device=device)  # at most the true one
    # No overlap decays by the factor 1, in either kernel.
    nothing = torch.zeros((), device=device)
    strengths = _strength(nothing, nothing, kernel).repeat(n)
    block = _FIRST_BLOCK
    while True:
        decayed = ranked.scores * _decay(strengths, kernel, sigma)
        passing = decayed >= least
        rows = (passing & ~compared).nonzero()[:, 0]
        if len(rows) == 0:
            bearing = _bearing_on(
                passing.nonzero()[:, 0], ranked, strengths, known_compensation, kernel
            )
            rows = (bearing & ~compared).nonzero()[:, 0]
        if len(rows) == 0:
            return torch.where(passing, decayed, 0)
        rows = rows[:block]
        iou = ranked.iou(rows, _ALL)
        compensation = torch.where(ranks < rows[:, None], iou, 0).amax(dim=1, keepdim=True)
        iou = torch.where(rows[:, None] < ranks, iou, 0)
        known_compensation = torch.maximum(known_compensation, iou.amax(dim=0))
        strengths = torch.maximum(strengths, _strength(iou, compensation, kernel).amax(dim=0))
        compared[rows] = True
        block = min(2 * block, _BLOCK)


def _bearing_on(
    passing: Tensor,
    ranked: _Ranked,
    strengths: Tensor,
    known_compensation: Tensor,
    kernel: Kernel,
) -> Tensor:
    """Which masks (N,) bool may decay one of the passing ones, given by rank, further."""
    ranks = torch.arange(len(strengths), device=strengths.device)
    bearing = torch.zeros_like(strengths, dtype=torch.bool)
    for columns in torch.split(passing, _BLOCK):
        iou = torch.where(ranks[:, None] < columns, ranked.iou(_ALL, columns), 0)
        possible = _strength(iou, known_compensation[:, None], kernel)
        bearing |= (possible > strengths[columns]).any(dim=1)
    return bearing


def _strength(iou: Tensor, compensation: Tensor, kernel: Kernel) -> Tensor:
    """What f(iou) / f(compensation) falls with, and so never less for a smaller compensation."""
    if kernel == "gaussian":
        return iou.square() - compensation.square()
    # A duplicate of a better mask (compensation 1) adds nothing to what that mask decays, and
    # 0 / 0 would be NaN.
    remaining = 1 - compensation
    return torch.where(remaining > 0, (iou - 1) / remaining.clamp(min=1e-12), -1)


def _decay(strengths: Tensor, kernel: Kernel, sigma: float) -> Tensor:
    """Factors f(iou) / f(compensation) of strengths, in [0, 1] for the greatest of a mask."""
    return torch.exp(-sigma * strengths) if kernel == "gaussian" else -strengths


def _check_lengths(masks: Tensor, scores: Tensor, labels: Tensor | None) -> None:
    lengths = {len(masks), len(scores), len(scores if labels is None else labels)}
    if len(lengths) != 1:
        raise ValueError(f"masks, scores and labels must have one length, got {sorted(lengths)}")
