"""What is scored: the masks of an image with scores, whoever made them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.encoded import EncodedMasks
from soloist.data.sources import ImageRef
from soloist.structures import Instances


@dataclass(frozen=True)
class Proposals:
    """Masks of one image, in any order.

    Attributes:
        masks: N masks at the size of the image's file.
        scores: (N,) float32, greater is better.
        shown: (N,) bool: those a user sees, who changes no option; precision is theirs.
    """

    masks: EncodedMasks
    scores: NDArray[np.float32]
    shown: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        masks: EncodedMasks | NDArray[np.bool_],
        scores: NDArray[np.float32],
        shown: NDArray[np.bool_] | None = None,
    ) -> Self:
        """From (N, H, W) bool or encoded masks; all are shown by default."""
        encoded = masks if isinstance(masks, EncodedMasks) else EncodedMasks.of(masks)
        if shown is None:
            shown = np.ones(len(encoded), dtype=np.bool_)
        if not len(encoded) == len(scores) == len(shown):
            raise ValueError(
                f"masks, scores and shown must be equally many, got {len(encoded)}, "
                f"{len(scores)} and {len(shown)}"
            )
        return cls(encoded, scores, shown)

    def instances(self) -> Instances[NDArray[np.float32], EncodedMasks]:
        """The masks as files are written of them: one class, no embeddings."""
        count = len(self.scores)
        boxes = np.zeros((count, 4), dtype=np.float32)
        embeddings = np.zeros((count, 0), dtype=np.float32)
        return Instances(self.masks.size, self.masks, self.scores, boxes, embeddings)


Proposer = Callable[[ImageRef], Proposals]
"""Reads an image and finds masks on it; what it needs is loaded when the proposer is made."""
