"""What the objects of an image have in common: a candidate is surer if it is like the surest ones.

Cells, fruits, caps: where an image shows many objects they are alike in colour, size and shape,
and what is not is mostly a part of one, several together, or background between them. Nothing is
learned; each image tells by itself. How many there are, and how alike, tells too how sure all of
them are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from soloist.proposals.hierarchy import Hierarchies
from soloist.proposals.partition import Floats, Integers
from soloist.proposals.ranking import (
    FLOORS,
    Attributes,
    Candidates,
    apart_from_better,
    attributes,
    best_nodes,
    logit,
    object_scores,
)

EXAMPLES = 40
"""Up to N of the surest candidates tell what the objects of an image are like."""
LOOKED_AT = 400
"""They are found among the N best, of which those that overlap are one."""
DISTINCT = 0.3
"""Overlap (IoU) from which on they are."""
BLUR = 0.5
"""Share of the standard deviation of the candidates looked at that is added to the examples'."""
FURTHEST = 4.0
"""Deviations are clipped to this."""
WEIGHT = 2.6
"""What a mean deviation of one takes from the log-odds of a score; chosen on `photos/dev`."""
AT_FIRST, BY_NUMBER, BY_COLOR = 1.55, 1.15, 0.154
"""Added to the log-odds of all of an image, so that a score is about the share of such masks that
are right: a constant, a logarithm of the effective number of examples, and what is taken away by
the standard deviation of their colours, in CIE-Lab. Many objects of a colour are easily told from
their ground; in an everyday scene most of what looks like an object is a part of one. Logistic
regression on the five sets of `photos/dev` (docs/photographs.md)."""
LEAST_ADDED = 2.2
"""The least that is added: among images of few objects alike the order of their masks is better
without it (on everyday scenes AP50 3.1, 2.7 without a least; on tiles 10.3 and 8.2)."""
MOST_ADDED = AT_FIRST + BY_NUMBER * float(np.log(EXAMPLES + 0.5))
"""The most that is ever added."""
EXAMPLE_SCORE = 0.05
"""Candidates of a lower rank are no examples."""
SHAPE = ("compactness", "ellipse")
"""The attributes of shape that are compared."""
POOL = 1500
"""Nodes of an image that are compared, at least."""
DISTINCT_NODES = 0.8
"""Overlap (IoU) from which on two of one tree are one for `evidence`."""


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
    chosen, weights = _examples(best)
    return _evidence(_looks(best, known)[chosen, :3], weights)


def like_others(found: Candidates, known: Sequence[Attributes]) -> Candidates:
    """Candidates with scores that count how like the surest of the image each is, best first.

    Args:
        found: Candidates of one image, with scores of `object_scores`.
        known: The attributes of the nodes of each tree.

    Returns:
        The same candidates in the order of their new scores.
    """
    looks = _looks(found, known)
    chosen, weights = _examples(found)
    apart = _distances(looks, found, chosen, weights).mean(axis=1)
    added = max(_evidence(looks[chosen, :3], weights), LEAST_ADDED)
    odds = logit(found.scores) - WEIGHT * apart + added
    scores = 1 / (1 + np.exp(-odds))
    changed = replace(found, scores=np.where(found.scores > 0, scores, 0.0))
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
    return _distances(values, found, *_examples(found))


def _examples(found: Candidates) -> tuple[Integers, Floats]:
    """Places of the surest candidates that do not overlap, up to `EXAMPLES`; weights, of sum 1."""
    order = _looked_at(found)
    kept = apart_from_better(found.filter(order), DISTINCT, within_trees=True)
    chosen = order[kept][:EXAMPLES]
    weights = found.scores[chosen] ** 2
    return chosen, weights / weights.sum()


def _looked_at(found: Candidates) -> Integers:
    """Places of the candidates that examples are chosen from, the surest first."""
    order = np.argsort(-found.scores, kind="stable")[:LOOKED_AT]
    return order[found.scores[order] >= EXAMPLE_SCORE]


def _distances(
    values: NDArray[np.floating], found: Candidates, chosen: Integers, weights: Floats
) -> Floats:
    """As `deviations`, from these examples."""
    if len(chosen) == 0:
        return np.zeros(values.shape)
    mean = weights @ values[chosen]
    blur = BLUR * values[_looked_at(found)].std(axis=0)
    variance = weights @ (values[chosen] - mean) ** 2 + blur**2
    distances: Floats = np.abs(values - mean) / np.sqrt(variance + 1e-6)
    return np.minimum(distances, FURTHEST)


def _evidence(colors: Floats, weights: Floats) -> float:
    """As `evidence`, by the (n, 3) colours of the examples and their (n,) weights."""
    if len(weights) == 0:
        return AT_FIRST + BY_NUMBER * float(np.log(0.5))
    spread = np.sqrt(weights @ (colors - weights @ colors) ** 2).mean()
    number = 1 / (weights**2).sum()
    return float(AT_FIRST + BY_NUMBER * np.log(number + 0.5) - BY_COLOR * spread)


def _looks(found: Candidates, known: Sequence[Attributes]) -> Floats:
    """(N, 6) colours, size and shape of candidates."""
    values = np.zeros((len(found), 6))
    for number, own in enumerate(known):
        places = np.flatnonzero(found.trees == number)
        nodes = found.nodes[places]
        shape = [np.log(getattr(own, name)[nodes] + FLOORS[name]) for name in SHAPE]
        values[places] = np.column_stack((own.colors[nodes], np.log(own.areas[nodes]), *shape))
    return values
