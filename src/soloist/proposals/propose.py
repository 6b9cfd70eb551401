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
from soloist.ops.masks import mask_iou
from soloist.proposals.refinement import refine_with_guided_filter
from soloist.proposals.regions import region_masks
from soloist.structures import Instances

SCORE_POWER = 2.0
"""What the score of a proposal counts beside what a segmenter says of it."""
SAME = 0.5
"""A segmenter's mask that overlaps (IoU) no proposal by more is none of them."""
UNCONFIRMED = 0.5
"""Factor of the scores of those."""


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


def rerank_proposals(proposals: Instances, found: Instances) -> Instances:
    """Proposals ranked by what a segmenter says of them, then its masks that are none of them.

    A proposal's score becomes the geometric mean of its own, `SCORE_POWER` times, and of the
    largest product of a mask's overlap with it (IoU) and that mask's score; from that mask it has
    its embedding and its class. A proposal on which the segmenter sees nothing is dropped.

    Args:
        proposals: N masks with good outlines.
        found: M masks of a segmenter on the same image, those of low scores too.

    Returns:
        At most N + M instances, best first.
    """
    if len(found) == 0:
        return found
    overlaps = mask_iou(proposals.masks, found.masks)  # (N, M)
    support, which = (overlaps * found.scores).max(dim=1)
    scores = (proposals.scores**SCORE_POWER * support) ** (1 / (SCORE_POWER + 1))
    ranked = replace(
        found.filter(which), masks=proposals.masks, boxes=proposals.boxes, scores=scores
    ).filter(support > 0)
    nearest = torch.cat([overlaps, overlaps.new_zeros(1, len(found))]).amax(dim=0)
    others = found.filter(nearest <= SAME)
    others = replace(others, scores=others.scores * UNCONFIRMED)
    return _joined(ranked, others).top_k(len(ranked) + len(others))


def _joined(one: Instances, other: Instances) -> Instances:
    """The instances of both, with the outputs that both have."""
    both = set(one.present()) & set(other.present())
    joined = {name: torch.cat([getattr(one, name), getattr(other, name)]) for name in both}
    return Instances(image_size=one.image_size, **joined)
