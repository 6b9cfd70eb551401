"""What is known of a candidate: attributes of its node, its pixels, how it differs from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from soloist.proposals.hierarchy import Hierarchies
from soloist.proposals.likeness import deviations, like_others
from soloist.proposals.pixels import Agreement, agreement
from soloist.proposals.ranking import (
    FLOORS,
    Attributes,
    Candidates,
    attributes,
    best_nodes,
    object_scores,
    without_overlaps,
)

DESCRIBED = len(FLOORS) + 15
"""Values of a candidate itself; as many follow that say how it differs from others (`describe`)."""
VERSION = 2
"""Of what `describe` gives: a judge that learned from another version is refused."""
ALIKE = 0.6
"""Nodes that overlap (IoU) by more are one candidate."""


@dataclass(frozen=True)
class Drawn:
    """Candidates before they are judged.

    Attributes:
        candidates: N of them; scores are those without learning.
        described: (N, 2 * DESCRIBED) float32 of `describe`.
    """

    candidates: Candidates
    described: NDArray[np.float32]


def draw_candidates(found: Hierarchies, image_size: tuple[int, int], most: int) -> Drawn:
    """The best nodes without learning, and the best by what was learned of the pixels.

    Args:
        found: The trees, with maps.
        image_size: (height, width) of the image itself.
        most: How many of each, before those that are alike are left out.
    """
    known, fits = _known_of(found)
    prior = [object_scores(one) for one in known]
    by_pixels = [fit.scores * (own > 0) for fit, own in zip(fits, prior, strict=True)]
    joined = Candidates.join(
        [
            without_overlaps(best_nodes(found, known, scores, most, ALIKE), ALIKE)
            for scores in (prior, by_pixels)
        ]
    )
    nodes = np.stack((joined.trees, joined.nodes), axis=1)
    _, firsts = np.unique(nodes, axis=0, return_index=True)
    joined = joined.filter(np.sort(firsts))
    scores = np.zeros(len(joined))
    for number, own in enumerate(prior):
        places = joined.trees == number
        scores[places] = own[joined.nodes[places]]
    candidates = like_others(replace(joined, scores=scores), known)
    return Drawn(candidates, _described(found, candidates, image_size, known, fits))


def _known_of(found: Hierarchies) -> tuple[list[Attributes], list[Agreement]]:
    """What is known of the nodes of each tree of an image with maps."""
    assert found.maps is not None
    return (
        [attributes(tree) for tree in found.trees],
        [agreement(tree, found.maps) for tree in found.trees],
    )


def class_shares(found: Hierarchies, candidates: Candidates) -> NDArray[np.float32]:
    """(N, K) shares of the classes in each of N candidates of an image with maps."""
    assert found.maps is not None
    shares = np.zeros((len(candidates), len(found.maps.inside)), dtype=np.float32)
    for number, tree in enumerate(found.trees):
        own = np.flatnonzero(candidates.trees == number)
        shares[own] = agreement(tree, found.maps).classes[candidates.nodes[own]]
    return shares


def describe(
    found: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
) -> NDArray[np.float32]:
    """(N, 2 * DESCRIBED) what is known of candidates.

    First each one's own values: attributes, colours, size, what the pixels say. Then how far each
    of these is from the surest candidates of the image (`likeness.deviations`).

    Args:
        found: The trees they are nodes of, with maps.
        candidates: N of them.
        image_size: (height, width) of the image itself, in whose pixels sizes are given.
    """
    return _described(found, candidates, image_size, *_known_of(found))


def _described(
    found: Hierarchies,
    candidates: Candidates,
    image_size: tuple[int, int],
    known: Sequence[Attributes],
    fits: Sequence[Agreement],
) -> NDArray[np.float32]:
    """As `describe`, where attributes and agreement with the maps are known."""
    rows = np.zeros((len(candidates), DESCRIBED), dtype=np.float32)
    scale = np.log(image_size[0] * image_size[1] / (found.size[0] * found.size[1]))
    first_of_maps = len(found.trees) - found.trees_of_maps
    for number, (tree, own, fit) in enumerate(zip(found.trees, known, fits, strict=True)):
        places = np.flatnonzero(candidates.trees == number)
        nodes = candidates.nodes[places]
        rows[places] = np.column_stack(
            [np.log(getattr(own, name)[nodes] + floor + 1e-12) for name, floor in FLOORS.items()]
            + [own.border[nodes], own.sides[nodes]]
            + [own.colors[nodes], own.colors[tree.parents[nodes]]]
            + [fit.described[nodes], np.full(len(nodes), float(number >= first_of_maps))]
            + [np.log(own.areas[nodes]), np.log(own.areas[nodes]) + scale]
        )
    return np.hstack((rows, deviations(rows, candidates).astype(np.float32)))
