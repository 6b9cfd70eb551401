"""A judge of candidates: which nodes of the hierarchies are objects, learned from a few labels.

The hierarchies hold most objects; what an object is depends on the task. A handful of labelled
images hold millions of labelled pixels (`pixels`) and thousands of labelled candidates
(`candidate_networks`), enough to correct the rank without learning, in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.proposals.candidate_networks import Networks, NodeClassifier, NodeRanker, look_of
from soloist.proposals.descriptions import VERSION, class_shares, describe, draw_candidates
from soloist.proposals.hierarchy import Hierarchies
from soloist.proposals.partition import Floats
from soloist.proposals.pixels import PixelClassifier, with_maps
from soloist.proposals.ranking import Candidates, without_overlaps

JUDGED_OVERLAP = 0.4
"""Judged ones that overlap by more are one object: the better fit is kept."""


@dataclass(frozen=True)
class Judge:
    """What was learned from a few labelled images.

    Attributes:
        pixels: Which pixels are inside an object or on an outline.
        nodes: Which candidates are objects.
        kinds: Which class each is of; None where all are one, or none was learned from.
    """

    pixels: PixelClassifier
    nodes: NodeRanker
    kinds: NodeClassifier | None = None

    def candidates(
        self, plain: Hierarchies, image_size: tuple[int, int], most: int
    ) -> tuple[Hierarchies, Candidates]:
        """The objects of an image.

        Args:
            plain: Its trees.
            image_size: (height, width) of the image itself, in whose pixels sizes are given.
            most: Nodes that are judged, once the best without learning, once by the pixels.

        Returns:
            The trees, those of the maps among them, and the judged candidates, best first.
        """
        found = with_maps(plain, self.pixels.maps(plain.lab))
        drawn = draw_candidates(found, image_size, most)
        if len(drawn.candidates) == 0:
            return found, drawn.candidates
        scores = self.nodes.scores(drawn.described, drawn.candidates.scores, look_of(plain.lab))
        judged = replace(drawn.candidates, scores=scores)
        judged = judged.filter(np.argsort(-scores, kind="stable"))
        return found, without_overlaps(judged, JUDGED_OVERLAP, within_trees=True)

    def scores(
        self, plain: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
    ) -> Floats:
        """(N,) scores in [0, 1] of nodes of an image's own trees, whose scores are `ranked`'s.

        Args:
            plain: The trees.
            candidates: N of their nodes.
            image_size: As in `candidates`.
        """
        found = replace(plain, maps=self.pixels.maps(plain.lab))
        described = describe(found, candidates, image_size)
        return self.nodes.scores(described, candidates.scores, look_of(plain.lab))

    def classes(
        self, found: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
    ) -> NDArray[np.int64] | None:
        """(N,) class of each candidate in [0, K); None where all are one.

        Args:
            found: The trees as `candidates` returned them.
            candidates: N of their nodes.
            image_size: As in `candidates`.
        """
        if self.pixels.classes == 1:
            return None
        means = class_shares(found, candidates)
        if self.kinds is None:
            labels: NDArray[np.int64] = means.argmax(axis=1)
            return labels
        return self.kinds.classes(describe(found, candidates, image_size), means)

    def record(self) -> dict[str, Any]:
        """Its values by name, for a model's record."""
        record = {
            "described": VERSION,
            "pixels": self.pixels.record(),
            "nodes": self.nodes.record(),
        }
        kinds = {} if self.kinds is None else {"kinds": self.kinds.networks.record()}
        return {**record, **kinds}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Judge:
        """The judge of such a record; raises as `Networks.of_record` does."""
        if (got := record.get("described", 1)) != VERSION:
            raise ValueError(
                f"it learned from version {got} of the descriptions of regions, not {VERSION}"
            )
        kinds = record.get("kinds")
        return cls(
            PixelClassifier.of_record(record["pixels"]),
            NodeRanker.of_record(record["nodes"]),
            None if kinds is None else NodeClassifier(Networks.of_record(kinds)),
        )
