"""Who makes coarse masks, and what becomes of them once a segmenter has been trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soloist.config import Config
from soloist.free_mask import free_masks
from soloist.postprocess import CellMasks
from soloist.proposals.partition import Floats, Integers
from soloist.proposals.ranking import logit
from soloist.proposals.refinement import refine_with_guided_filter
from soloist.proposals.regions import Masks, Regions, region_masks
from soloist.structures import Instances

SUPPORT, DOUBT = 6.0, 2.0
"""What full support of a network adds to the log-odds of a region's score, and what is taken away
without any, chosen on `photos/dev` (docs/photographs.md)."""
LEAST = 0.015
"""Regions of lower scores are not worth a look, whatever supports them."""
HEARD, UNHEARD = 2.7, 3.7
"""Up to the first `evidence` of an image a network is heard, from the second on it is not."""


class MaskProposer(Protocol):
    """Coarse masks of one image, without labels."""

    def __call__(
        self,
        pixels: NDArray[np.uint8],
        features: Tensor,
        size: tuple[int, int],
        config: Config,
        /,
    ) -> Instances:
        """Proposes masks.

        Args:
            pixels: (H', W', 3) uint8 RGB, perhaps reduced.
            features: (C, h, w) float32 feature map of the whole image.
            size: (height, width) of the masks, in pixels.
            config: Options; each proposer reads its own section.

        Returns:
            Instances, best first.
        """
        ...


def propose(
    pixels: NDArray[np.uint8], features: Tensor, size: tuple[int, int], config: Config
) -> Instances:
    """Masks by the proposer that `extract.proposals` names; see `MaskProposer`."""
    return PROPOSERS[config.extract.proposals](pixels, features, size, config)


def _free_masks(
    pixels: NDArray[np.uint8], features: Tensor, size: tuple[int, int], config: Config
) -> Instances:
    found = free_masks(features, size, config.free_mask)
    return refine_with_guided_filter(found, pixels, config.free_mask.outline_radius)


def _regions(
    pixels: NDArray[np.uint8], features: Tensor, size: tuple[int, int], config: Config
) -> Instances:
    return region_masks(pixels, features, size, config.regions)


PROPOSERS: Mapping[str, MaskProposer] = {"free-mask": _free_masks, "regions": _regions}


def decoded_side(config: Config) -> int | None:
    """Short side down to which images may be decoded reduced; None: regions see every pixel."""
    return None if config.extract.proposals == "regions" else config.extract.short_side


def confirmed(
    regions: Regions[Masks], seen: CellMasks, most: int | None = None, threshold: float = 0.0
) -> Regions[Masks]:
    """Regions whose scores count what a network says of them, where an image tells little itself.

    A region's support is the geometric mean of a mask's score and its overlap with the region, by
    the shares that both have of the cells of a feature map, of the mask with the largest. It adds
    to the log-odds of the score as much as the regions of the image are unlike each other: of many
    alike the network has no say.

    Args:
        regions: N regions of an image.
        seen: M masks of a network on it, in the cells that the regions are described by.
        most: How many to keep; None keeps all.
        threshold: Those of lower scores are left out.

    Returns:
        The regions, best first; classes are those of the masks, if these have any.
    """
    shares = (regions.counts / np.maximum(regions.pixels.ravel(), 1)).astype(np.float32)
    support, which = support_of(shares, seen)
    scores = confirmed_scores(regions.scores, support, regions.evidence)
    labels = regions.labels
    if seen.labels is not None and len(seen.labels) > 0:
        labels = seen.labels.cpu().numpy().astype(np.int64)[which]
    best = np.argsort(-scores, kind="stable")[:most]
    best = best[scores[best] >= threshold]
    return replace(regions, scores=scores, labels=labels).filter(best)


def confirmed_scores(scores: Floats, support: Floats, evidence: float) -> Floats:
    """(N,) scores in [0, 1] of `confirmed` regions.

    Args:
        scores: (N,) before, in [0, 1].
        support: (N,) as of `support_of`.
        evidence: As of `Candidates`.
    """
    say = float(np.clip((UNHEARD - evidence) / (UNHEARD - HEARD), 0, 1))
    odds = logit(scores) + say * (SUPPORT * support - DOUBT)
    return np.where(scores > 0, 1 / (1 + np.exp(-odds)), 0.0)


def looked_at(threshold: float) -> float:
    """The score from which on regions are to be found so that `confirmed` ones have a threshold.

    Without support regions of lower scores cannot have it; with some they can, unless their scores
    are below `LEAST` as well.
    """
    odds = logit(np.array(threshold)) + DOUBT
    return min(float(1 / (1 + np.exp(-odds))), LEAST) if threshold > 0 else 0.0


def support_of(shares: NDArray[np.float32], seen: CellMasks) -> tuple[Floats, Integers]:
    """What a network says for regions; see `confirmed`.

    Args:
        shares: (N, h * w) share of each cell that a region covers.
        seen: Its masks, in the same cells.

    Returns:
        (N,) support in [0, 1], and which mask gives it; 0 where there is none.
    """
    if len(shares) == 0 or len(seen.scores) == 0:
        return np.zeros(len(shares)), np.zeros(len(shares), dtype=np.int64)
    own, masks = torch.from_numpy(shares).to(seen.shares), seen.shares
    inside = own @ masks.T
    either = own.square().sum(dim=1)[:, None] + masks.square().sum(dim=1) - inside
    support, which = (inside / either.clamp(min=1e-9) * seen.scores).max(dim=1)
    return support.double().sqrt().cpu().numpy(), which.cpu().numpy()
