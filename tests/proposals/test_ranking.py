"""Attributes by masks, suppression by the plain greedy loop."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.proposals.references import iou, mask_of, noise

from soloist.proposals.hierarchy import Hierarchies, Tree, hierarchies
from soloist.proposals.likeness import ranked
from soloist.proposals.ranking import (
    CLEAR_FLOOR,
    DOUBT,
    LARGEST_SHARE,
    MAX_SIDES,
    MIN_PIXELS,
    OUTLINE_LENGTH,
    Attributes,
    Candidates,
    attributes,
    candidates_at,
    doubting_groups,
    object_scores,
    tree_nms,
    without_overlaps,
)

SCENE = noise(18, 26, seed=4)
FOUND = hierarchies(SCENE)
TREES = pytest.mark.parametrize("tree", FOUND.trees, ids=["fine", "coarse", "colors"])


@TREES
def test_attributes_are_those_of_masks(tree: Tree) -> None:
    known = attributes(tree)
    leaves, graph = tree.partition, tree.partition.graph
    height, width = leaves.labels.shape
    masks = [mask_of(tree, node) for node in range(len(tree))]
    for node, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        area = len(rows)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        sides = [mask[:, 0], mask[0], mask[:, -1], mask[-1]]
        border = sum(int(side.sum()) for side in sides)
        inner = int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
        inside = np.array([mask[leaves.labels == leaf].all() for leaf in range(tree.count)])
        own = inside[graph.first] != inside[graph.second]
        lengths = graph.lengths[own]
        outline = max(OUTLINE_LENGTH * inner + border, 1)
        parent = masks[tree.parents[node]]
        assert known.areas[node] == area
        assert known.boxes[node].tolist() == list(box)
        assert known.sides[node] == sum(bool(side.any()) for side in sides)
        assert known.border[node] == pytest.approx(border / max(inner + border, 1))
        assert known.compactness[node] == pytest.approx(min(4 * np.pi * area / outline**2, 1))
        assert known.share[node] == pytest.approx(area / (height * width))
        assert known.growth[node] == pytest.approx(parent.sum() / area - 1)
        box_area = (box[2] - box[0]) * (box[3] - box[1])
        assert known.extent[node] == pytest.approx(area / box_area)
        points = np.stack(np.nonzero(mask)) * 1.0
        moments = np.cov(points, bias=True) + np.eye(2) / 12 if area > 1 else np.eye(2) / 12
        fit = area / (4 * np.pi * np.sqrt(np.linalg.det(moments)))
        assert known.ellipse[node] == pytest.approx(fit, rel=1e-5)
        means = FOUND.lab[:, mask].mean(axis=1, dtype=float)
        assert known.colors[node] == pytest.approx(means, rel=1e-4, abs=1e-4)
        if inner:
            resistance = (lengths / (graph.coarse[own] + CLEAR_FLOOR)).sum()
            assert known.clear[node] == pytest.approx(inner / resistance, rel=1e-4)
            steps = (lengths * leaves.steps[own]).sum() / inner
            assert known.step[node] == pytest.approx(steps, rel=1e-4, abs=1e-6)
        rest = parent & ~mask
        if rest.any():
            color, other = (FOUND.lab[:, of].mean(axis=1, dtype=float) for of in (mask, rest))
            assert known.unlike[node] == pytest.approx(np.linalg.norm(color - other), rel=1e-3)
        else:
            assert known.unlike[node] == pytest.approx(0, abs=1e-5)
    for field in fields(known):
        assert np.isfinite(getattr(known, field.name)).all()


@TREES
def test_scores_are_in_range_and_0_for_what_is_no_object(tree: Tree) -> None:
    known = attributes(tree)
    scores = object_scores(known)
    assert ((scores >= 0) & (scores <= 1)).all()
    no_object = (
        (known.areas < MIN_PIXELS)
        | (known.share > LARGEST_SHARE)
        | (known.sides > MAX_SIDES)
        | (known.growth <= 0)
    )
    assert np.array_equal(scores == 0, no_object)


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("clear", 9.0, 1.0),
        ("step", 20.0, 2.0),
        ("compactness", 0.8, 0.2),
        ("unlike", 20.0, 2.0),
        ("share", 0.1, 0.01),
        ("growth", 1.0, 0.1),
        ("extent", 0.8, 0.3),
        ("ellipse", 0.9, 0.5),
        ("border", 0.0, 0.5),
    ],
)
def test_each_attribute_counts(name: str, better: float, worse: float) -> None:
    plain = {field.name: np.full(2, 0.5) for field in fields(Attributes)}
    plain |= {"areas": np.full(2, 50.0), "sides": np.zeros(2), name: np.array([better, worse])}
    plain |= {"boxes": np.zeros((2, 4)), "colors": np.zeros((2, 3))}
    scores = object_scores(Attributes(**plain))
    assert scores[0] > scores[1] > 0


def random_tree(leaves: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Parents and areas of a tree that merges two or three random nodes at a time."""
    rng = np.random.default_rng(seed)
    parents = np.zeros(2 * leaves, dtype=np.int64)
    areas = np.r_[rng.integers(1, 9, leaves), np.zeros(leaves)].astype(float)
    roots, count = list(range(leaves)), leaves
    while len(roots) > 1:
        joined = rng.choice(roots, min(len(roots), int(rng.integers(2, 4))), replace=False)
        parents[joined] = count
        areas[count] = areas[joined].sum()
        roots = [root for root in roots if root not in joined] + [count]
        count += 1
    parents[count - 1] = count - 1
    return parents[:count], areas[:count]


def greedy(
    parents: NDArray[np.int64],
    areas: NDArray[np.float64],
    scores: NDArray[np.float64],
    threshold: float,
) -> list[int]:
    """From the best to the worst, each if it overlaps none that was kept."""

    def ancestors(node: int) -> set[int]:
        return {node} if parents[node] == node else {node} | ancestors(int(parents[node]))

    kept: list[int] = []
    for node in sorted(range(len(parents)), key=lambda node: (-scores[node], node)):
        related = [other for other in kept if other in ancestors(node) or node in ancestors(other)]
        near = [
            min(areas[node], areas[other]) > threshold * max(areas[node], areas[other])
            for other in related
        ]
        if scores[node] > 0 and not any(near):
            kept.append(node)
    return sorted(kept)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.9])
def test_suppression_in_a_tree_is_greedy(seed: int, threshold: float) -> None:
    parents, areas = random_tree(40, seed)
    rng = np.random.default_rng(seed)
    for scores in (rng.random(len(parents)) - 0.1, rng.integers(0, 4, len(parents)) / 4):
        kept = np.flatnonzero(tree_nms(parents, areas, scores, threshold))
        assert kept.tolist() == greedy(parents, areas, scores, threshold)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        pytest.param([0.1, 0.3, 0.9, 0.2, 0.5], [0, 1, 2, 4], id="a node that both others overlap"),
        pytest.param([0.1, 0.3, 0.9, 0.6, 0.5], [0, 2, 3], id="the best is between two others"),
        pytest.param([0.1, 0.7, 0.9, 0.6, 0.5], [0, 1, 2, 4], id="what was dropped drops nothing"),
        pytest.param([0, 0, 0, 0, 0], [], id="none is possible"),
    ],
)
def test_suppression_by_hand(scores: list[float], kept: list[int]) -> None:
    # Leaves of 1, 3 and 1 pixels; the second and the third are 4, all are 5.
    parents, areas = np.array([4, 3, 3, 4, 4]), np.array([1.0, 3, 1, 4, 5])
    found = np.flatnonzero(tree_nms(parents, areas, np.array(scores), 0.7))
    assert found.tolist() == kept


@pytest.mark.parametrize("threshold", [0.4, 1.0])
def test_a_threshold_out_of_range_is_told(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        tree_nms(np.zeros(1, dtype=np.int64), np.ones(1), np.ones(1), threshold)


def candidates_of(*rows: tuple[int, float, tuple[int, int, int, int]]) -> Candidates:
    """Candidates of (tree, share of its box, box), best first."""
    boxes = np.array([box for _, _, box in rows], dtype=float).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = areas * np.array([share for _, share, _ in rows])
    return Candidates(
        np.array([tree for tree, _, _ in rows], dtype=np.int64),
        np.arange(len(rows)),
        areas,
        boxes,
        np.linspace(0.9, 0.1, len(rows)),
    )


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        pytest.param([], [], id="none"),
        pytest.param([(0, 1, (0, 0, 10, 10)), (1, 1, (0, 0, 10, 9))], [0], id="alike"),
        pytest.param([(0, 1, (0, 0, 10, 10)), (0, 1, (0, 0, 10, 9))], [0, 1], id="of one tree"),
        pytest.param([(0, 1, (0, 0, 10, 10)), (1, 0.4, (0, 0, 10, 10))], [0, 1], id="thinner"),
        pytest.param([(0, 1, (0, 0, 10, 10)), (1, 1, (5, 0, 15, 10))], [0, 1], id="beside"),
        pytest.param(
            [(0, 1, (0, 0, 10, 10)), (1, 1, (0, 0, 10, 7)), (2, 1, (0, 0, 10, 5))],
            [0, 2],
            id="what was dropped drops nothing",
        ),
    ],
)
def test_overlaps_of_trees(
    rows: list[tuple[int, float, tuple[int, int, int, int]]], kept: list[int]
) -> None:
    assert without_overlaps(candidates_of(*rows), 0.6).nodes.tolist() == kept


def test_overlaps_are_those_of_a_plain_loop() -> None:
    found = ranked(FOUND, 300, 0.8)
    slow: list[int] = []
    for place in range(len(found)):
        for other in slow:
            a, b = found.boxes[place], found.boxes[other]
            low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
            shared = np.prod(np.maximum(high - low, 0))
            union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
            pair = found.areas[[place, other]]
            alike = min(shared / union, pair.min() / pair.max()) > 0.6
            if alike and found.trees[place] != found.trees[other]:
                break
        else:
            slow.append(place)
    fast = without_overlaps(found, 0.6)
    assert len(slow) < len(found)
    assert np.array_equal(fast.scores, found.scores[slow])


def test_what_holds_a_surer_object_is_less_sure() -> None:
    object_, group, part = (0, 0, 10, 10), (0, 0, 30, 12), (2, 2, 6, 6)
    apart = (50, 50, 60, 60)
    found = candidates_of((0, 1, object_), (0, 1, group), (1, 1, part), (1, 1, apart))
    found = replace(found, scores=np.array([0.9, 0.8, 0.7, 0.6]))
    doubted = doubting_groups(found)
    # The group loses by its surest object; the object keeps its score for all its part's.
    assert doubted.boxes[:, 2].tolist() == [10, 6, 60, 30]
    assert doubted.scores == pytest.approx([0.9, 0.7, 0.6, 0.8 * (1 - DOUBT * 0.9)])
    assert len(doubting_groups(Candidates.none())) == 0


def test_ranked_candidates_are_the_best_first_and_no_duplicates_of_a_tree() -> None:
    found = ranked(FOUND, 100, 0.7)
    assert 0 < len(found) <= 100
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores > 0).all()
    masks = [
        mask_of(FOUND.trees[tree], node)
        for tree, node in zip(found.trees, found.nodes, strict=True)
    ]
    for place, mask in enumerate(masks):
        assert found.areas[place] == mask.sum()
        for other in range(place):
            if found.trees[other] == found.trees[place]:
                assert iou(mask, masks[other]) <= 0.7
    fewer = ranked(FOUND, 7, 0.7)
    assert np.array_equal(fewer.scores, found.scores[:7])
    again = ranked(hierarchies(SCENE), 100, 0.7)
    assert np.array_equal(again.nodes, found.nodes)
    assert np.array_equal(again.scores, found.scores)


def test_candidates_at_a_pixel_are_those_whose_masks_hold_it() -> None:
    found = ranked(FOUND, 100, 0.7)
    for row, column in ((0, 0), (9, 13)):
        holding = {
            place
            for place in range(len(found))
            if mask_of(FOUND.trees[found.trees[place]], int(found.nodes[place]))[row, column]
        }
        places = candidates_at(FOUND, found, row, column)
        assert set(places.tolist()) == holding
        assert (np.diff(found.areas[places]) >= 0).all()


def test_without_trees_there_are_no_candidates() -> None:
    nothing = Hierarchies(np.zeros((3, 4, 4), dtype=np.float32), ())
    found = ranked(nothing, 10, 0.7)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert len(candidates_at(nothing, found, 0, 0)) == 0
    assert len(without_overlaps(found, 0.7)) == 0


def test_filter_keeps_what_belongs_together() -> None:
    found = candidates_of((0, 1, (0, 0, 2, 2)), (1, 1, (0, 0, 3, 3)))
    kept = found.filter(np.array([1]))
    assert (kept.trees.tolist(), kept.areas.tolist(), len(kept)) == ([1], [9], 1)
    joined = Candidates.join([kept, found, Candidates.none()])
    assert joined.areas.tolist() == [9, 4, 9]
