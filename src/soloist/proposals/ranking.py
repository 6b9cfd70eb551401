"""Which nodes of a tree look like objects: attributes, a first rank without learning, and NMS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.proposals.hierarchy import Hierarchies, Tree
from soloist.proposals.partition import Floats, Integers

MIN_PIXELS = 6
"""A smaller node is no candidate, in pixels of the image the trees live on."""
LARGEST_SHARE = 0.8
"""Nor is one that covers more of the image."""
MAX_SIDES = 3
"""Nor one that touches more sides of the image."""

POWERS = {
    "clear": 0.8,
    "step": 0.55,
    "compactness": 1.05,
    "unlike": 0.65,
    "share": 0.5,
    "growth": 0.2,
    "extent": 0.25,
    "ellipse": 2.5,
}
"""Powers of the attributes whose product is the rank; chosen on the sets of `photos/dev`."""
BORDER_POWER = -1.2
"""Power of e for the part of an outline that is the image's border."""
MIDDLE, SLOPE = 4.15, 1.6
"""Of the logistic curve from the logarithm of that product to a score."""
HELD, DOUBT = 0.85, 0.7
"""A candidate that holds more than the first of the box of a smaller and surer one is taken for
several objects together: it loses up to the second of its score; chosen on `photos/dev`."""
SAME_AREA, SAME_SIDE = 0.25, 0.25
"""Nodes of two trees are one if neither their area (natural logarithm) nor the sides of their
boxes (over the square root of the area) differ by about this."""


@dataclass(frozen=True)
class Candidates:
    """Nodes of the trees of one image, best first once ranked.

    Attributes:
        trees: (N,) which tree of `Hierarchies.trees` each is a node of.
        nodes: (N,) its number there.
        areas: (N,) pixels.
        boxes: (N, 4) xyxy, exclusive end, in pixels of the image the trees live on.
        scores: (N,) in [0, 1].
        evidence: How much speaks for objects in the image, as `likeness.evidence`; infinite where
            nobody looked.
    """

    trees: Integers
    nodes: Integers
    areas: Floats
    boxes: Floats
    scores: Floats
    evidence: float = math.inf

    def __len__(self) -> int:
        return len(self.nodes)

    def filter(self, keep: NDArray[np.bool_] | Integers | slice) -> Candidates:
        """Those that a (N,) bool mask, (K,) indices or a slice choose, in that order."""
        return replace(self, **{name: getattr(self, name)[keep] for name in _BY_CANDIDATE})

    @classmethod
    def join(cls, parts: list[Candidates]) -> Candidates:
        """All of several, one after the other."""
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _BY_CANDIDATE
        }
        return cls(**arrays)

    @classmethod
    def none(cls) -> Candidates:
        """No candidates."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls(nothing, nothing, np.zeros(0), np.zeros((0, 4)), np.zeros(0))


_BY_CANDIDATE = ("trees", "nodes", "areas", "boxes", "scores")


@dataclass(frozen=True)
class Attributes:
    """What can be said of the N nodes of a tree, computed from sums over their leaves.

    Attributes:
        areas: (N,) pixels.
        boxes: (N, 4) xyxy, exclusive end.
        sides: (N,) how many sides of the image each touches.
        border: (N,) share of its outline that is the border of the image.
        clear: (N,) harmonic mean of the coarse gradient there: weak stretches count most.
        step: (N,) mean distance in CIE-Lab of the leaves on both sides of it.
        compactness: (N,) its area over that of a disc of its outline, at most 1.
        unlike: (N,) distance of its mean colour from that of the rest of its parent.
        share: (N,) of the image.
        growth: (N,) by what share its parent is larger.
        extent: (N,) share of its box.
        ellipse: (N,) its area over that of the ellipse of its second moments, at most about 1: a
            measure of shape that does not depend on how ragged an outline is.
        colors: (N, 3) mean CIE-Lab colours.
    """

    areas: Floats
    boxes: Floats
    sides: Integers
    border: Floats
    clear: Floats
    step: Floats
    compactness: Floats
    unlike: Floats
    share: Floats
    growth: Floats
    extent: Floats
    ellipse: Floats
    colors: Floats


FLOORS = {
    "clear": 0.1,
    "step": 0.5,
    "compactness": 0.01,
    "unlike": 0.3,
    "share": 0.0,
    "growth": 0.02,
    "extent": 0.01,
    "ellipse": 0.02,
}
"""Added to the attributes before logarithms are taken."""
# Steps between pixels overstate the length of slanted outlines.
OUTLINE_LENGTH = 0.8
CLEAR_FLOOR = 0.5


def attributes(tree: Tree) -> Attributes:
    """The attributes of all nodes of a tree."""
    leaves, parents = tree.partition, tree.parents
    height, width = leaves.labels.shape
    areas = tree.areas
    described = np.concatenate((leaves.colors, leaves.centers, leaves.products), axis=1)
    described = tree.sums(described * leaves.sizes[:, None]) / areas[:, None]
    means, (row, column, rows, columns, both) = described[:, :3], described[:, 3:].T
    # A pixel has the second moments of a square, not of a point.
    rows, columns = rows - row**2 + 1 / 12, columns - column**2 + 1 / 12
    spread = np.maximum(rows * columns - (both - row * column) ** 2, 1 / 144)
    graph = leaves.graph
    lengths = tree.lengths
    inner = np.maximum(lengths, 1)
    resistance = tree.along_contours(graph.lengths / (graph.coarse + CLEAR_FLOOR))
    border = tree.sums(leaves.border)
    boxes = tree.least(leaves.margins)
    sides = (boxes <= 0).sum(axis=1)
    boxes[:, 2:] = (width, height) - boxes[:, 2:]
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    parent_areas = areas[parents]
    apart = np.linalg.norm(means - means[parents], axis=1)
    outline = np.maximum(OUTLINE_LENGTH * lengths + border, 1)
    return Attributes(
        areas=areas,
        boxes=boxes,
        sides=sides,
        border=border / np.maximum(lengths + border, 1),
        clear=inner / np.maximum(resistance, 1e-9),
        step=tree.along_contours(graph.lengths * leaves.steps) / inner,
        compactness=np.minimum(4 * np.pi * areas / outline**2, 1),
        unlike=apart * parent_areas / np.maximum(parent_areas - areas, 1),
        share=areas / (height * width),
        growth=parent_areas / areas - 1,
        extent=areas / np.maximum(box_areas, 1),
        ellipse=areas / (4 * np.pi * np.sqrt(spread)),
        colors=means,
    )


def best_nodes(
    found: Hierarchies,
    known: Sequence[Attributes],
    scores: Sequence[Floats],
    most: int,
    nms_threshold: float,
) -> Candidates:
    """The nodes of highest scores, best first, near duplicates left out.

    Args:
        found: The trees.
        known: The attributes of the nodes of each.
        scores: Their (N,) scores in [0, 1]; those of 0 are left out.
        most: How many.
        nms_threshold: A node that overlaps a better one of its tree (IoU) by more is left out.
    """
    parts = []
    for number, (tree, own, values) in enumerate(zip(found.trees, known, scores, strict=True)):
        kept = np.flatnonzero(tree_nms(tree.parents, own.areas, values, nms_threshold))
        parts.append(
            Candidates(
                np.full(len(kept), number), kept, own.areas[kept], own.boxes[kept], values[kept]
            )
        )
    if not parts:
        return Candidates.none()
    joined = Candidates.join(parts)
    joined = joined.filter(np.argsort(-joined.scores, kind="stable"))
    return joined.filter(_first_of_each(joined)[:most])


def candidates_at(found: Hierarchies, candidates: Candidates, row: int, column: int) -> Integers:
    """Places of the candidates that hold a pixel of the image the trees live on, small to large."""
    held = [
        (candidates.trees == number) & np.isin(candidates.nodes, tree.nodes_at(row, column))
        for number, tree in enumerate(found.trees)
    ]
    places = np.flatnonzero(np.any(held, axis=0)) if held else np.zeros(0, dtype=np.int64)
    return places[np.argsort(candidates.areas[places], kind="stable")]


def object_scores(known: Attributes) -> Floats:
    """(N,) in [0, 1]; 0 for what cannot be an object."""
    logs = sum(
        power * np.log(getattr(known, name) + FLOORS[name] + 1e-12)
        for name, power in POWERS.items()
    )
    scores = 1 / (1 + np.exp(-SLOPE * (logs + BORDER_POWER * known.border - MIDDLE)))
    possible = (
        (known.areas >= MIN_PIXELS)
        & (known.share <= LARGEST_SHARE)
        & (known.sides <= MAX_SIDES)
        & (known.growth > 0)
    )
    return np.where(possible, scores, 0.0)


def logit(scores: Floats) -> Floats:
    """Log-odds of (N,) scores in [0, 1], bounded at both ends."""
    inside = np.clip(scores, 1e-6, 1 - 1e-6)
    odds: Floats = np.log(inside / (1 - inside))
    return odds


def tree_nms(
    parents: Integers, areas: Floats, scores: Floats, threshold: float
) -> NDArray[np.bool_]:
    """Greedy non-maximum suppression among the nodes of one tree.

    Two nodes overlap only if one is an ancestor of the other, by the ratio of their areas. At a
    threshold of 0.5 or more a node's descendants that overlap it are a chain, each the largest
    child of the one before; so are its ancestors. Rounds of what is best within its reach give
    what one pass from the best to the worst gives.

    Args:
        parents: (N,) parent of each node, after it; the root its own.
        areas: (N,) above 0.
        scores: (N,) those of 0 or less are never kept.
        threshold: In [0.5, 1).

    Returns:
        (N,) bool, which are kept.

    Raises:
        ValueError: If the threshold is out of its range.
    """
    if not 0.5 <= threshold < 1:
        raise ValueError(f"threshold must be in [0.5, 1), got {threshold}")
    count = len(parents)
    largest_child = np.full(count, -1)
    by_area = np.argsort(areas[:-1], kind="stable")
    largest_child[parents[by_area]] = by_area  # The largest is written last.
    up, down = parents.copy(), largest_child
    up[-1] = -1
    places = np.empty(count, dtype=np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(count)
    open_places = np.where(scores > 0, places, count)
    kept = np.zeros(count, dtype=bool)
    alive = np.flatnonzero(scores > 0)
    while len(alive):
        best = open_places[alive].copy()
        for walker, node in _within_reach((up, down), areas, alive, threshold):
            np.minimum.at(best, walker, open_places[node])
        winners = alive[best == open_places[alive]]
        kept[winners] = True
        open_places[winners] = count
        for _, node in _within_reach((up, down), areas, winners, threshold):
            open_places[node] = count
        alive = alive[open_places[alive] < count]
    return kept


def _within_reach(
    links: tuple[Integers, Integers], areas: Floats, starts: Integers, threshold: float
) -> list[tuple[Integers, Integers]]:
    """Pairs of index arrays: a start's place, and a node that overlaps it by the threshold."""
    found = []
    for step in links:
        walkers, nodes = np.arange(len(starts)), starts
        while len(walkers):
            nodes = step[nodes]
            walkers, nodes = walkers[nodes >= 0], nodes[nodes >= 0]
            own, others = areas[starts[walkers]], areas[nodes]
            near = np.minimum(own, others) > threshold * np.maximum(own, others)
            walkers, nodes = walkers[near], nodes[near]
            found.append((walkers, nodes))
    return found


def _first_of_each(found: Candidates) -> Integers:
    """Indices of the first of all candidates that hardly differ in area and box, in order.

    Trees share many regions. Two nodes of different trees whose areas and box sides, in units of
    their size, round to the same whole numbers are taken for one.
    """
    unit = np.sqrt(found.areas)[:, None] * SAME_SIDE
    keys = np.column_stack(
        (np.round(np.log(found.areas) / SAME_AREA), np.round(found.boxes / unit))
    ).astype(np.int64)
    mixed = np.zeros(len(keys), dtype=np.uint64)
    for column in keys.T.astype(np.uint64):
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    _, firsts = np.unique(mixed, return_index=True)
    return np.sort(firsts)


def without_overlaps(
    found: Candidates, threshold: float, *, within_trees: bool = False
) -> Candidates:
    """Candidates, best first, without those that overlap a better one; see `apart_from_better`."""
    return found.filter(apart_from_better(found, threshold, within_trees=within_trees))


def apart_from_better(
    found: Candidates, threshold: float, *, within_trees: bool = False
) -> NDArray[np.bool_]:
    """Which candidates, best first, overlap no better one that is kept.

    By their boxes and areas: the overlap is taken to be the lesser of that of the boxes (IoU) and
    of the ratio of the areas.

    Args:
        found: N candidates.
        threshold: The overlap from which on they are left out, in (0, 1).
        within_trees: Compare those of one tree too, which `tree_nms` did exactly.

    Returns:
        (N,) bool.
    """
    shared, box_areas = shared_areas(found.boxes)
    shared *= (1 + threshold) / threshold
    alike = shared > np.add.outer(box_areas, box_areas)
    areas = found.areas.astype(np.float32)
    alike &= np.minimum.outer(areas, areas) > threshold * np.maximum.outer(areas, areas)
    if not within_trees:
        alike &= found.trees[:, None] != found.trees
    kept = np.ones(len(found), dtype=bool)
    # Each is alike to itself; where it is to no other, there is nothing to leave out.
    for place in np.flatnonzero(alike.sum(axis=1) > int(within_trees)):
        if kept[place]:
            kept[place + 1 :] &= ~alike[place, place + 1 :]
    return kept


def doubting_groups(found: Candidates) -> Candidates:
    """Candidates, best first, of which those that hold a surer one are less sure.

    What holds an object is mostly several of them, or one and its surroundings. The surer the one
    that is held, the more is lost.

    Args:
        found: Candidates, best first.

    Returns:
        The same candidates in the order of their new scores.
    """
    shared, box_areas = shared_areas(found.boxes)
    holds = shared > HELD * box_areas
    holds &= np.tri(len(found), k=-1, dtype=bool) & (found.areas[:, None] > found.areas)
    surest = np.where(holds, found.scores, 0.0).max(axis=1, initial=0.0)
    changed = replace(found, scores=found.scores * (1 - DOUBT * surest))
    return changed.filter(np.argsort(-changed.scores, kind="stable"))


def shared_areas(boxes: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, N) areas that the (N, 4) boxes share, and (N,) their own, exact up to 2**24 pixels."""
    left, top, right, bottom = boxes.T.astype(np.float32)
    # In place: new arrays of this size take longer than what is computed.
    shared = np.minimum.outer(right, right)
    shared -= np.maximum.outer(left, left)
    np.maximum(shared, 0, out=shared)
    heights = np.minimum.outer(bottom, bottom)
    heights -= np.maximum.outer(top, top)
    np.maximum(heights, 0, out=heights)
    shared *= heights
    return shared, (right - left) * (bottom - top)


def overlaps_with(found: Hierarchies, candidates: Candidates, masks: NDArray[np.bool_]) -> Floats:
    """(N, n) overlaps (IoU) of candidates with masks.

    Args:
        found: The trees they are nodes of.
        candidates: N of them.
        masks: (n, H, W) bool, of the size the trees live on.
    """
    overlaps = np.zeros((len(candidates), len(masks)))
    whole = masks.sum(axis=(1, 2))
    for number, tree in enumerate(found.trees):
        own = np.flatnonzero(candidates.trees == number)
        leaves = tree.partition
        counts = [np.bincount(leaves.labels[mask], minlength=leaves.count) for mask in masks]
        if len(own) == 0 or not counts:
            continue
        shared = tree.sums(np.stack(counts, axis=1).astype(np.float64))[candidates.nodes[own]]
        overlaps[own] = shared / (candidates.areas[own, None] + whole - shared)
    return overlaps
