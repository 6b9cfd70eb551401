"""What the objects of an image have in common."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.proposals.references import noise

from soloist.proposals.hierarchy import Hierarchies, hierarchies
from soloist.proposals.likeness import (
    ALONE,
    BLUR,
    CERTAINTY,
    EXAMPLE_SCORE,
    FURTHEST,
    LEAST_HELD,
    OF_A_KIND,
    OUTVOTED,
    PAIR_DOUBT,
    ROUNDS,
    deviations,
    doubting_pairs,
    evidence,
    like_others,
    ranked,
)
from soloist.proposals.ranking import Candidates, attributes, best_nodes, object_scores
from soloist.proposals.regions import region_candidates


def apart(count: int, scores: list[float]) -> Candidates:
    """Candidates of one tree side by side."""
    left = 10.0 * np.arange(count)
    boxes = np.stack((left, 0 * left, left + 8, 0 * left + 8), axis=1)
    return Candidates(
        np.zeros(count, int), np.arange(count), np.full(count, 64.0), boxes, np.array(scores)
    )


def dots() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Twelve light discs of one size on dark ground, one of another size and colour."""
    rows, columns = np.mgrid[:160, :200]
    pixels = np.full((160, 200, 3), 60, dtype=np.int64)
    for row in (24, 64, 104):
        for column in (24, 64, 104, 144):
            pixels[(rows - row) ** 2 + (columns - column) ** 2 < 90] = (180, 180, 120)
    pixels[(rows - 138) ** 2 + (columns - 170) ** 2 < 320] = (110, 60, 160)
    pixels += np.random.default_rng(0).integers(-4, 5, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def test_deviations_are_those_from_the_surest() -> None:
    certain = [0.9, 0.6, 0.3]
    found = apart(4, [*certain, EXAMPLE_SCORE / 2])
    values = np.array([[1.0, 5.0], [2.0, 4.0], [4.0, 4.5], [9.0, 9.0]])
    # Slowly, from the description: only the first three are examples.
    weights = [score**CERTAINTY for score in certain]
    for round_ in range(ROUNDS + 1):
        total = sum(weights)
        mean, spread = [], []
        for column in range(2):
            own = [values[row, column] for row in range(3)]
            middle = sum(w * v for w, v in zip(weights, own, strict=True)) / total
            variance = sum(w * (v - middle) ** 2 for w, v in zip(weights, own, strict=True)) / total
            mean.append(middle)
            spread.append(math.sqrt(variance + (BLUR * float(np.std(own))) ** 2 + 1e-6))
        wanted = [
            [min(abs(values[row, i] - mean[i]) / spread[i], FURTHEST) for i in range(2)]
            for row in range(4)
        ]
        if round_ < ROUNDS:
            weights = [
                score**CERTAINTY * math.exp(-OUTVOTED * sum(row) / 2)
                for score, row in zip(certain, wanted, strict=False)
            ]
    assert deviations(values, found) == pytest.approx(np.array(wanted))


def test_a_few_that_are_unlike_the_others_have_no_say() -> None:
    values = np.append(np.random.default_rng(0).normal(0, 0.1, 10), [8.0, 8.0])[:, None]
    found = apart(12, [0.5] * 10 + [0.9] * 2)
    alone = values[:10].mean()
    measured = deviations(
        np.append(values, [[alone + 1], [alone - 1]], axis=0), with_two_more(found)
    )
    assert (measured[10:12] == FURTHEST).all()
    # Both sides of what the ten have in common are equally far from it.
    assert measured[12] == pytest.approx(measured[13], rel=0.1)
    assert measured[:10].max() < measured[12]


def with_two_more(found: Candidates) -> Candidates:
    """These, and two that are too doubtful to be examples."""
    more = apart(len(found) + 2, [0.0] * (len(found) + 2))
    return replace(more, scores=np.append(found.scores, [EXAMPLE_SCORE / 2] * 2))


def test_examples_that_are_one_object_count_once() -> None:
    found = apart(3, [0.9, 0.9, 0.9])
    doubled = replace(found, boxes=found.boxes[[0, 1, 1]])
    values = np.array([[1.0], [3.0], [100.0]])
    assert deviations(values, doubled)[0] == pytest.approx(deviations(values, doubled)[1])


def test_without_an_example_nothing_is_apart() -> None:
    found = apart(3, [EXAMPLE_SCORE / 2] * 3)
    assert not deviations(np.array([[1.0], [2.0], [3.0]]), found).any()


def test_the_order_of_candidates_is_of_no_consequence() -> None:
    values = np.random.default_rng(0).normal(size=(6, 2))
    found = apart(6, [0.9, 0.4, 0.7, 0.35, 0.5, 0.8])
    turned = np.array([3, 1, 5, 0, 4, 2])
    there = deviations(values[turned], found.filter(turned))
    assert there == pytest.approx(deviations(values, found)[turned])


def test_what_is_like_the_others_loses_less() -> None:
    found = hierarchies(dots())
    known = [attributes(tree) for tree in found.trees]
    before = best_nodes(found, known, [object_scores(one) for one in known], 400, 0.7)
    after = like_others(before, known)
    assert (np.diff(after.scores) <= 0).all()
    assert after.scores.sum() < before.scores.sum()
    odd = after.boxes[:, 2] - after.boxes[:, 0] > 30
    assert not odd[:12].any()


def discs(colors: list[tuple[int, int, int]]) -> Hierarchies:
    """An image with a disc of each colour on grey."""
    rows, columns = np.mgrid[:160, :200]
    pixels = np.full((160, 200, 3), 90, dtype=np.int64)
    for place, color in enumerate(colors):
        row, column = 24 + 40 * (place // 4), 24 + 40 * (place % 4)
        pixels[(rows - row) ** 2 + (columns - column) ** 2 < 90] = color
    pixels += np.random.default_rng(0).integers(-4, 5, pixels.shape)
    return hierarchies(pixels.clip(0, 255).astype(np.uint8))


def test_many_objects_of_one_colour_are_surer_than_few_and_than_motley_ones() -> None:
    motley = [(230, 40, 40), (40, 200, 60), (40, 60, 230), (230, 220, 60)]
    images = [discs([motley[0]] * count) for count in (1, 4, 12)] + [discs(motley)]
    one, few, many, mixed = (ranked(image, 50, 0.7).scores[0] for image in images)
    assert max(one, mixed) <= few < many
    one, few, many, mixed = (evidence(image) for image in images)
    assert one < few < many
    assert mixed < few


def test_scores_do_not_depend_on_the_threshold() -> None:
    found = hierarchies(noise(40, 60, seed=1))
    whole, part = (ranked(found, 50, 0.7, least) for least in (0.0, 0.1))
    kept = whole.filter(whole.scores >= 0.1)
    assert np.array_equal(kept.nodes, part.nodes)
    assert np.array_equal(kept.scores, part.scores)


def test_an_image_of_one_colour_has_no_candidate() -> None:
    _, candidates = region_candidates(np.full((40, 50, 3), 90, dtype=np.uint8), most=10)
    assert len(candidates) == 0


def nested(*boxes: tuple[float, float, float, float], scores: list[float]) -> Candidates:
    """Candidates that fill their boxes."""
    sides = np.array(boxes)
    areas = (sides[:, 2] - sides[:, 0]) * (sides[:, 3] - sides[:, 1])
    count = len(boxes)
    return Candidates(
        np.zeros(count, int), np.arange(count), areas, sides, np.array(scores), OF_A_KIND
    )


def test_what_holds_two_apart_from_each_other_is_less_sure() -> None:
    pair, left, right = (0, 0, 21, 10), (0, 0, 10, 10), (11, 0, 21, 10)
    inner, whole = (1, 1, 9, 9), (40, 0, 50, 10)
    found = nested(pair, left, right, inner, whole, scores=[0.8, 0.6, 0.3, 0.2, 0.1])
    doubted = doubting_pairs(found)
    # An object within an object is no second one, and the surest of those that are held count.
    assert doubted.scores == pytest.approx([0.6, 0.8 * (1 - PAIR_DOUBT * 0.9), 0.3, 0.2, 0.1])
    assert doubted.nodes.tolist() == [1, 0, 2, 3, 4]
    # Two count as one for certain at most.
    sure = doubting_pairs(replace(found, scores=np.array([0.95, 0.9, 0.8, 0.2, 0.1])))
    assert sure.scores[sure.nodes == 0] == pytest.approx(0.95 * (1 - PAIR_DOUBT))


def test_small_parts_are_no_objects_that_are_held() -> None:
    whole, left, right = (0, 0, 30, 30), (2, 2, 10, 10), (20, 20, 28, 28)
    found = nested(whole, left, right, scores=[0.9, 0.8, 0.7])
    assert doubting_pairs(found).scores.tolist() == [0.9, 0.8, 0.7]


def test_what_a_floor_may_leave_out_does_not_count() -> None:
    boxes = (0, 0, 20, 10), (0, 0, 9, 10), (11, 0, 20, 10)
    least = LEAST_HELD * 0.99
    assert doubting_pairs(nested(*boxes, scores=[0.9, 0.5, least])).scores[0] == 0.9
    assert doubting_pairs(nested(*boxes, scores=[0.9, 0.5, LEAST_HELD])).scores[0] < 0.9


@pytest.mark.parametrize(
    ("seen", "share"),
    [(ALONE - 1, 0), (ALONE, 0), ((ALONE + OF_A_KIND) / 2, 0.5), (OF_A_KIND + 3, 1)],
)
def test_the_less_alike_objects_are_the_less_is_lost(seen: float, share: float) -> None:
    found = nested((0, 0, 20, 10), (0, 0, 9, 10), (11, 0, 20, 10), scores=[0.9, 0.5, 0.5])
    doubted = doubting_pairs(replace(found, evidence=seen))
    assert doubted.scores[doubted.nodes == 0] == pytest.approx(0.9 * (1 - PAIR_DOUBT * share))


def test_without_candidates_nothing_is_doubted() -> None:
    assert len(doubting_pairs(Candidates.none())) == 0
