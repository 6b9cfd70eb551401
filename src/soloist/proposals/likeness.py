"""What the objects of an image have in common: a candidate is surer if it is like the surest ones.

Cells, fruits, caps: where an image shows many objects they are alike in colour, size and shape,
and what is not is mostly a part of one, several together, or background between them. Nothing is
learned; each image tells by itself. How many there are, and how alike, tells too how sure all of
them are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from soloist.proposals.hierarchy import Hierarchies
from soloist.proposals.partition import Floats, Integers
from soloist.proposals.ranking import (
    FLOORS,
    HELD,
    Attributes,
    Candidates,
    apart_from_better,
    attributes,
    best_nodes,
    logit,
    object_scores,
    shared_areas,
)

EXAMPLES = 60
"""Up to N of the surest candidates tell what the objects of an image are like."""
LOOKED_AT = 400
"""They are found among the N best, of which those that overlap are one."""
DISTINCT = 0.3
"""Overlap (IoU) from which on they are."""
CERTAINTY = 1.5
"""Power of an example's score that is its weight."""
ROUNDS, OUTVOTED = 5, 2.0
"""In each round the weight of an example falls by e to the second times its mean deviation from
what all have in common, so that a few that are unlike the others, such as gaps between cells, have
no say."""
BLUR = 0.2
"""Share of the standard deviation of the candidates looked at that is added to the examples'."""
FURTHEST = 4.0
"""Deviations are clipped to this."""
WEIGHT = 0.46
"""What a mean deviation of one takes from the log-odds of a score, times the square root of the
effective number of examples: many alike say more than few. These were chosen on `photos/dev`."""
AT_FIRST, BY_NUMBER, BY_COLOR = 2.0, 1.2, 0.17
"""Added to the log-odds of all of an image, so that a score is about the share of such masks that
are right: a constant, a logarithm of the effective number of examples, and what is taken away by
the standard deviation of their colours, in CIE-Lab. Many objects of a colour stand out from
their ground; in an everyday scene most of what looks like an object is a part of one. Chosen on the
five sets of `photos/dev` (docs/photographs.md)."""
LEAST_ADDED = 2.2
"""The least that is added: among images of few objects alike the order of their masks is better
without it (docs/photographs.md)."""
MOST_ADDED = AT_FIRST + BY_NUMBER * float(np.log(EXAMPLES + 0.5))
"""The most that is ever added."""
EXAMPLE_SCORE = 0.05
"""Candidates of a lower rank are no examples."""
SHAPE = ("compactness", "ellipse")
"""The attributes of shape that are compared."""
IMPORTANCE = np.array([1 / 9] * 3 + [1 / 3] + [1 / 6] * 2)
"""Of colour, size and shape: a third each."""
POOL = 1500
"""Nodes of an image that are compared, at least."""
DISTINCT_NODES = 0.8
"""Overlap (IoU) from which on two of one tree are one for `evidence`."""
PAIR_DOUBT = 0.5
"""Share of its score that a candidate loses at most for two others that it holds."""
SMALLEST_HELD, LARGEST_HELD = 0.1, 0.7
"""Those that it holds are such shares of it."""
LEAST_HELD = 0.015
"""And have at least this score, so that it does not matter which lower ones are there."""
APART = 0.15
"""Two are apart whose boxes share no more than this of the smaller one."""
ALONE, OF_A_KIND = 2.0, 3.0
"""Up to the first `evidence` of an image nothing is lost, from the second on all of that. These
constants, but for the least score, were chosen on eight sets (docs/photographs.md)."""


def ranked(
    found: Hierarchies, most: int, nms_threshold: float, score_threshold: float = 0.0
) -> Candidates:
    """The best candidates of an image without learning, best first, near duplicates left out.

    Args:
        found: The trees.
        most: How many.
        nms_threshold: A node that overlaps a better one of its tree (IoU) by more is left out.
        score_threshold: So is one of a lower score; no other score depends on it.
    """
    known = [attributes(tree) for tree in found.trees]
    # What is as like the others as can be gets what an image can add, and no more.
    needed = 1 / (1 + np.exp(MOST_ADDED - logit(np.array(score_threshold))))
    least = min(float(needed), EXAMPLE_SCORE)
    scores = [np.where(own >= least, own, 0.0) for own in map(object_scores, known)]
    best = best_nodes(found, known, scores, max(most, POOL), nms_threshold)
    if len(best) == 0:
        return best
    best = like_others(best, known)
    return best.filter(best.scores >= score_threshold).filter(slice(most))


def evidence(found: Hierarchies) -> float:
    """How much speaks for objects in an image: large where many of the surest are alike in colour.

    `like_others` adds it to the log-odds of all candidates, or `LEAST_ADDED` where that is more.

    Args:
        found: The trees of the image.
    """
    known = [attributes(tree) for tree in found.trees]
    best = best_nodes(found, known, [object_scores(one) for one in known], POOL, DISTINCT_NODES)
    looks = _looks(best, known)
    return _evidence(looks, _common(looks, best, IMPORTANCE))


def like_others(found: Candidates, known: Sequence[Attributes]) -> Candidates:
    """Candidates with scores that count how like the surest of the image each is, best first.

    Args:
        found: Candidates of one image, with scores of `object_scores`.
        known: The attributes of the nodes of each tree.

    Returns:
        The same candidates in the order of their new scores.
    """
    looks = _looks(found, known)
    common = _common(looks, found, IMPORTANCE)
    apart = common.distances(looks) @ IMPORTANCE
    seen = _evidence(looks, common)
    added = max(seen, LEAST_ADDED)
    odds = logit(found.scores) - WEIGHT * np.sqrt(common.number) * apart + added
    scores = 1 / (1 + np.exp(-odds))
    changed = replace(found, scores=np.where(found.scores > 0, scores, 0.0), evidence=seen)
    return changed.filter(np.argsort(-changed.scores, kind="stable"))


def doubting_pairs(found: Candidates) -> Candidates:
    """Candidates, best first, of which those that hold two others are less sure.

    Where the objects of an image are alike, what holds two of them is no third one. This is to be
    said before overlaps are left out, or it takes the place of both.

    Args:
        found: Candidates, best first; how much speaks for objects that are alike is their evidence.

    Returns:
        The same candidates in the order of their new scores.
    """
    say = float(np.clip((found.evidence - ALONE) / (OF_A_KIND - ALONE), 0, 1))
    if say == 0 or len(found) == 0:
        return found
    shared, box_areas = shared_areas(found.boxes)
    shares = found.areas / found.areas[:, None]
    holds = (shared > HELD * box_areas) & (shares > SMALLEST_HELD) & (shares < LARGEST_HELD)
    held = np.where(holds & (found.scores >= LEAST_HELD), found.scores, 0.0)
    surest = held.argmax(axis=1)
    apart = shared < APART * np.minimum.outer(box_areas, box_areas)
    second = np.where(apart[surest], held, 0.0).max(axis=1)
    both = np.where(second > 0, np.minimum(held.max(axis=1) + second, 1), 0.0)
    changed = replace(found, scores=found.scores * (1 - PAIR_DOUBT * say * both))
    return changed.filter(np.argsort(-changed.scores, kind="stable"))


def deviations(values: NDArray[np.floating], found: Candidates) -> Floats:
    """How far candidates are from what the surest of their image have in common.

    Args:
        values: (N, D) what is known of each.
        found: The N candidates, in any order.

    Returns:
        (N, D) distances from the mean of the examples, in their standard deviations, in
        [0, `FURTHEST`]; 0 where there is no example.
    """
    equal = np.full(values.shape[1], 1 / values.shape[1])
    return _common(values, found, equal).distances(values)


@dataclass(frozen=True)
class _Common:
    """What the surest candidates of an image have in common.

    Attributes:
        examples: (n,) places of these candidates.
        weights: (n,) how much each counts, of sum 1.
        mean: (D,) of their values.
        spread: (D,) their standard deviation; infinite without an example.
    """

    examples: Integers
    weights: Floats
    mean: Floats
    spread: Floats

    @property
    def number(self) -> float:
        """How many examples of equal weight would say as much."""
        return float(1 / (self.weights**2).sum()) if len(self.weights) else 0.0

    def distances(self, values: NDArray[np.floating]) -> Floats:
        """(N, D) deviations of (N, D) values, in [0, `FURTHEST`]."""
        distances: Floats = np.abs(values - self.mean) / self.spread
        return np.minimum(distances, FURTHEST)


def _common(values: NDArray[np.floating], found: Candidates, importance: Floats) -> _Common:
    """What is common in the (N, D) values of N candidates; the (D,) importance has a sum of 1."""
    order = np.argsort(-found.scores, kind="stable")[:LOOKED_AT]
    order = order[found.scores[order] >= EXAMPLE_SCORE]
    if len(order) == 0:
        nowhere = np.full(values.shape[1], np.inf)
        return _Common(order, np.zeros(0), np.zeros(values.shape[1]), nowhere)
    chosen = order[apart_from_better(found.filter(order), DISTINCT, within_trees=True)][:EXAMPLES]
    blur = BLUR * values[order].std(axis=0)
    alone = found.scores[chosen] ** CERTAINTY
    weights = alone / alone.sum()
    for remaining in range(ROUNDS, -1, -1):
        mean = weights @ values[chosen]
        variance = weights @ (values[chosen] - mean) ** 2 + blur**2
        common = _Common(chosen, weights, mean, np.sqrt(variance + 1e-6))
        if remaining:
            apart = common.distances(values[chosen]) @ importance
            weights = alone * np.exp(-OUTVOTED * apart)
            weights /= weights.sum()
    return common


def _evidence(looks: Floats, common: _Common) -> float:
    """As `evidence`, by what the candidates look like."""
    number = AT_FIRST + BY_NUMBER * float(np.log(common.number + 0.5))
    if len(common.examples) == 0:
        return number
    colors = looks[common.examples, :3]
    spread = np.sqrt(common.weights @ (colors - common.weights @ colors) ** 2).mean()
    return number - BY_COLOR * float(spread)


def _looks(found: Candidates, known: Sequence[Attributes]) -> Floats:
    """(N, 6) colours, size and shape of candidates."""
    values = np.zeros((len(found), 6))
    for number, own in enumerate(known):
        places = np.flatnonzero(found.trees == number)
        nodes = found.nodes[places]
        shape = [np.log(getattr(own, name)[nodes] + FLOORS[name]) for name in SHAPE]
        values[places] = np.column_stack((own.colors[nodes], np.log(own.areas[nodes]), *shape))
    return values
