"""What agreement between views of an image tells about masks, and how far that is true.

A mask that a network finds again after the image was mirrored, scaled or recoloured has likely an
object under it; one that comes and goes has not. Nothing here reads a label, but for the functions
that compare the estimates with true overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from soloist.evaluation.matching import take_best
from soloist.ops.masks import mask_iou

Floats = NDArray[np.float64]

AGREED = 0.9
"""A mask is confirmed from this mean overlap on; chosen on generated scenes (docs/quality.md)."""
RIGHT = 0.5
"""A mask is right from this overlap with a true object on: that of AP50."""
KEPT = 0.3
"""Masks from this score on are what an image is judged by: those that self-training keeps."""
BIN_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the bins of scores; the last one holds 1."""


@dataclass(frozen=True)
class ScoreBin:
    """Masks of similar score.

    Attributes:
        low: Least score.
        high: Scores are below it; in the last bin up to it.
        masks: How many there are, at least one.
        expected_precision: Share of them that is confirmed.
        precision: Share of them that is right; None without a ground truth.
    """

    low: float
    high: float
    masks: int
    expected_precision: float
    precision: float | None


def best_overlaps(masks: Tensor, others: Tensor) -> Tensor:
    """The overlap of each mask with the one of the others that fits it best.

    Args:
        masks: (N, H, W) bool.
        others: (M, H, W) bool.

    Returns:
        (N,) float32 intersection over union in [0, 1]; 0 where there are no others.
    """
    if len(others) == 0:
        return masks.new_zeros(len(masks)).float()
    return mask_iou(masks, others).amax(dim=1)


def mean_agreement(agreements: Floats) -> Floats:
    """Mean over the views of the best overlaps.

    Args:
        agreements: (N, V) in [0, 1], V at least 1.

    Returns:
        (N,) in [0, 1].
    """
    mean: Floats = agreements.mean(axis=1)
    return mean


def expected_precision(agreement: Floats, threshold: float = AGREED) -> float:
    """Share of masks that are confirmed: an estimate of the share that is right.

    Args:
        agreement: (N,) mean agreement of each mask, N at least 1.
        threshold: From which on a mask is confirmed.
    """
    return float((agreement >= threshold).mean())


def score_bins(scores: Floats, agreement: Floats, best_ious: Floats | None) -> list[ScoreBin]:
    """Expected precision of the masks of each bin of scores; empty bins are left out.

    Args:
        scores: (N,) in [0, 1].
        agreement: (N,) mean agreement of each mask.
        best_ious: (N,) overlap of each with the true object that fits best; None if not known.
    """
    # The small addition keeps 0.3, stored as 0.29999, out of the bin below.
    places = np.searchsorted(BIN_EDGES, scores + 1e-9, side="right") - 1
    places = places.clip(0, len(BIN_EDGES) - 2)
    bins = []
    for place in np.unique(places):
        inside = places == place
        bins.append(
            ScoreBin(
                low=BIN_EDGES[place],
                high=BIN_EDGES[place + 1],
                masks=int(inside.sum()),
                expected_precision=expected_precision(agreement[inside]),
                precision=None if best_ious is None else float((best_ious[inside] >= RIGHT).mean()),
            )
        )
    return bins


def image_estimate(scores: Floats, agreement: Floats) -> float:
    """How well an image is segmented: the mean agreement of the masks that would be kept.

    Args:
        scores: (N,) score of each mask.
        agreement: (N,) mean agreement of each mask.

    Returns:
        In [0, 1]. If no mask would be kept, the agreement of the best one times its score, so that
        such images come first; 0 without masks: whether it is empty or missed takes a look.
    """
    if len(scores) == 0:
        return 0.0
    chosen = scores >= KEPT
    if chosen.any():
        return float(agreement[chosen].mean())
    best = scores.argmax()
    return float(agreement[best] * scores[best])


def kept_precision(scores: Floats, best_ious: Floats) -> float | None:
    """Share of an image's masks to be kept that are right: what `image_estimate` stands for.

    Args:
        scores: (N,) score of each mask.
        best_ious: (N,) overlap of each with the true object that fits best.

    Returns:
        In [0, 1]; None if no mask would be kept.
    """
    chosen = scores >= KEPT
    return float((best_ious[chosen] >= RIGHT).mean()) if chosen.any() else None


def image_ap50(scores: Floats, ious: Floats) -> float | None:
    """Average precision of one image at an overlap of 0.5, all points interpolated.

    Masks choose by score; each takes the free object that fits best.

    Args:
        scores: (N,) score of each mask.
        ious: (N, M) overlap of each mask with each true object.

    Returns:
        In [0, 1]; None without objects.
    """
    best_first = np.argsort(-scores, kind="stable")
    hits = take_best(ious[best_first], RIGHT) >= 0
    if ious.shape[1] == 0:
        return None
    if len(hits) == 0:
        return 0.0
    precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    interpolated = np.maximum.accumulate(precisions[::-1])[::-1]
    return float(interpolated[hits].sum() / ious.shape[1])


def pearson(one: Floats, other: Floats) -> float | None:
    """Linear correlation in [-1, 1]; None for fewer than two values or a constant."""
    if not _vary(one, other):
        return None
    from scipy import stats  # Which takes a third of a second: most commands correlate nothing.

    return float(stats.pearsonr(one, other).statistic)


def spearman(one: Floats, other: Floats) -> float | None:
    """Correlation of the ranks, equal values sharing theirs; None as in `pearson`."""
    if not _vary(one, other):
        return None
    from scipy import stats

    return float(stats.spearmanr(one, other).statistic)


def _vary(one: Floats, other: Floats) -> bool:
    """Whether there is a correlation to speak of."""
    return bool(len(one) >= 2 and np.ptp(one) > 0 and np.ptp(other) > 0)
