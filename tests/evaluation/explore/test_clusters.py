from __future__ import annotations

import numpy as np
import pytest

from soloist.evaluation.explore.clusters import (
    Floats,
    Integers,
    centered,
    choose_count,
    kmeans,
    mutual_information,
    nearest_groups,
    purity,
    silhouette,
)
from soloist.ops.vectors import unit_vectors


def bundles(count: int, each: int, *, size: int = 8, spread: float = 0.05, seed: int = 0) -> Floats:
    """`each` unit vectors around each of the first `count` axes, one bundle after the other."""
    rng = np.random.default_rng(seed)
    axes = np.repeat(np.eye(size, dtype=np.float32)[:count], each, axis=0)
    return unit_vectors(axes + rng.normal(0, spread, axes.shape).astype(np.float32))


def labels(*values: int) -> Integers:
    return np.array(values, dtype=np.int64)


def test_unit_vectors_keep_the_direction_and_survive_what_has_none() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 0.0]])
    expected = [[0.6, 0.8], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(unit_vectors(rows), expected, atol=1e-6)


def test_centring_takes_a_narrow_cone_apart() -> None:
    narrow = unit_vectors(bundles(2, 5, spread=0.0) + 20)
    assert (narrow @ narrow.T).min() > 0.99
    apart = centered(narrow, narrow)
    np.testing.assert_allclose(apart[0] @ apart[-1], -1, atol=1e-3)
    np.testing.assert_allclose(apart[0] @ apart[1], 1, atol=1e-3)


def test_centring_what_is_all_one_changes_nothing() -> None:
    same = unit_vectors(np.full((4, 3), 0.3))
    np.testing.assert_array_equal(centered(same, same), same)
    np.testing.assert_array_equal(centered(same[:1], same[:1]), same[:1])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_bundles_are_found_whatever_the_order_of_the_rows(count: int) -> None:
    vectors = bundles(count, 20)
    order = np.random.default_rng(1).permutation(len(vectors))
    groups = kmeans(vectors[order], count)
    true = (np.arange(len(vectors)) // 20)[order]
    assert mutual_information(groups.labels, true) == pytest.approx((1, 1))
    np.testing.assert_allclose(np.linalg.norm(groups.centers, axis=1), 1, rtol=1e-5)
    assert groups.similarities.min() > 0.9


def test_it_is_the_direction_that_counts_not_the_length() -> None:
    vectors = bundles(3, 10)
    lengths = np.random.default_rng(0).uniform(0.1, 50, (30, 1)).astype(np.float32)
    longer = kmeans(unit_vectors(vectors * lengths), 3)
    np.testing.assert_array_equal(longer.labels, kmeans(vectors, 3).labels)


def test_the_same_seed_gives_the_same_groups() -> None:
    vectors = unit_vectors(np.random.default_rng(0).normal(size=(60, 6)))
    one, two = (kmeans(vectors, 7, seed=4, restarts=2) for _ in range(2))
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.centers, two.centers)


def test_the_largest_group_comes_first() -> None:
    vectors = np.concatenate([bundles(1, 3), bundles(2, 9)[9:], bundles(3, 6)[12:]])
    groups = kmeans(vectors, 3)
    assert np.bincount(groups.labels).tolist() == [9, 6, 3]


def test_as_many_groups_as_vectors_leave_each_alone() -> None:
    vectors = unit_vectors(np.random.default_rng(0).normal(size=(6, 4)))
    assert sorted(kmeans(vectors, 6).labels) == list(range(6))


def test_copies_of_two_vectors_are_two_groups_however_many_are_asked_for() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32)[:2], [4, 2], axis=0)
    groups = kmeans(vectors, 5)
    assert groups.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert len(groups.centers) == 2


@pytest.mark.parametrize("count", [0, 4])
def test_the_number_of_groups_must_be_possible(count: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to the 3 vectors, got {count}"):
        kmeans(bundles(3, 1), count)


def test_others_get_the_nearest_group() -> None:
    centers = np.eye(3, dtype=np.float32)
    found = nearest_groups(unit_vectors(np.array([[0.1, 0.9, 0], [0.6, 0, 0.8]])), centers)
    assert found.labels.tolist() == [1, 2]
    np.testing.assert_allclose(found.similarities, [0.9 / np.hypot(0.1, 0.9), 0.8], rtol=1e-5)


def slow_silhouette(vectors: Floats, groups: Integers) -> float:
    """Rousseeuw's definition, pair by pair."""
    values = []
    for i in range(len(vectors)):
        means = {}
        for group in set(groups.tolist()):
            others = [j for j in range(len(vectors)) if groups[j] == group and j != i]
            if others:
                means[group] = np.mean([1 - vectors[i] @ vectors[j] for j in others])
        own = means.pop(int(groups[i]), None)
        if own is None:
            values.append(0.0)
        else:
            nearest = min(means.values())
            values.append((nearest - own) / max(nearest, own))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(3))
def test_silhouettes_are_those_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(rng.normal(size=(25, 4)))
    groups = np.append(rng.integers(0, 4, 24), 4)  # The last is alone.
    assert silhouette(vectors, groups) == pytest.approx(slow_silhouette(vectors, groups), abs=1e-5)


def test_one_group_has_no_silhouette() -> None:
    assert silhouette(bundles(1, 4), labels(0, 0, 0, 0)) == 0


@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_bundles_is_chosen(count: int) -> None:
    chosen, scores = choose_count(bundles(count, 12), (6, 4, 3, 2))
    assert chosen == count
    assert list(scores) == [2, 3, 4, 6]
    assert scores[count] > 0.9


A, B = labels(0, 0, 1, 1), labels(0, 1, 0, 1)


@pytest.mark.parametrize(
    ("groups", "classes", "pure"),
    [
        pytest.param(A, A, 1, id="equal"),
        pytest.param(A, 1 - A, 1, id="names-do-not-matter"),
        pytest.param(A, B, 0.5, id="independent"),
        pytest.param(A, labels(0, 0, 0, 0), 1, id="one-class"),
        pytest.param(labels(0, 1, 2, 3), A, 1, id="everyone-alone"),
        pytest.param(labels(0, 0, 0, 1), A, 0.75, id="by-hand"),
        pytest.param(labels(), labels(), 0, id="nothing"),
    ],
)
def test_purity(groups: Integers, classes: Integers, pure: float) -> None:
    assert purity(groups, classes) == pytest.approx(pure)


def test_mutual_information_of_random_groups_is_adjusted_away() -> None:
    rng = np.random.default_rng(0)
    groups, classes = rng.integers(0, 20, 300), rng.integers(0, 5, 300)
    normalized, adjusted = mutual_information(groups, classes)
    assert normalized > 0.05
    assert abs(adjusted) < 0.03
