"""Groups of vectors by direction: spherical k-means, how many groups, and how good they are.

scipy's k-means averages without putting centres back on the sphere, so that its groups are not
those of the cosine; the few lines of the spherical kind (Dhillon and Modha, 2001) stand here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_ROUNDING = 1e-5
"""Differences of unit vectors shorter than this are rounding."""
_FAR_ENOUGH = 1e-6
"""Rows nearer to their centre than this lie on it; an empty group takes none of them."""


@dataclass(frozen=True)
class Groups:
    """N unit vectors in K groups, the largest group first.

    Attributes:
        labels: (N,) int64 in 0..K-1.
        centers: (K, E) float32 unit vectors.
        similarities: (N,) float32 cosine of each vector with the centre of its group.
    """

    labels: Integers
    centers: Floats
    similarities: Floats


def unit_vectors(vectors: NDArray[np.floating]) -> Floats:
    """Vectors scaled to length 1; one that is zero or not finite becomes zero.

    Args:
        vectors: (N, E) float.

    Returns:
        (N, E) float32.
    """
    finite = np.isfinite(vectors).all(axis=1, keepdims=True)
    rows = np.where(finite, vectors, 0).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def centered(vectors: Floats, reference: Floats) -> Floats:
    """Unit vectors without the direction that all share, once more of length 1.

    Learned embeddings often fill a narrow cone: their cosines are all near 1, and differ by what
    little is not the cone's axis. Without the axis, the cosine is about the differences.

    Args:
        vectors: (N, E) float32 unit vectors.
        reference: (M, E) float32 unit vectors whose mean is the axis.

    Returns:
        (N, E) float32; a vector on the axis becomes zero. Without any other, all stay as they are.
    """
    offsets = vectors - reference.mean(axis=0)
    offsets[np.linalg.norm(offsets, axis=1) < _ROUNDING] = 0
    return unit_vectors(offsets) if offsets.any() else vectors


def spherical_kmeans(
    vectors: Floats, count: int, *, seed: int = 0, restarts: int = 8, iterations: int = 100
) -> Groups:
    """Groups unit vectors so that each lies near the centre of its group, by cosine.

    Starts are drawn as k-means++ does; of several starts the one of the highest mean similarity
    wins. A group that loses its last vector takes the one farthest from its own centre.

    Args:
        vectors: (N, E) float32 unit vectors, as of `unit_vectors`.
        count: K, how many groups.
        seed: Of the starts; the same seed gives the same groups.
        restarts: How many starts.
        iterations: Most rounds of assigning and averaging for each start.

    Returns:
        `count` groups, or fewer if there are fewer different vectors.

    Raises:
        ValueError: If count is not in 1..N.
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"count must be from 1 to the {len(vectors)} vectors, got {count}")
    rng = np.random.default_rng(seed)
    runs = [_kmeans(vectors, _first_centers(vectors, count, rng), iterations)]
    for _ in range(restarts - 1):
        runs.append(_kmeans(vectors, _first_centers(vectors, count, rng), iterations))
    labels, centers = max(runs, key=lambda run: _mean_similarity(vectors, *run))
    sizes = np.bincount(labels, minlength=count)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    rank = np.zeros(count, dtype=np.int64)
    rank[order] = np.arange(len(order))
    labels, centers = rank[labels], centers[order]
    return Groups(labels, centers, _own_similarities(vectors, labels, centers))


def nearest_groups(vectors: Floats, centers: Floats) -> Groups:
    """The group of each vector among given centres.

    Args:
        vectors: (N, E) float32 unit vectors.
        centers: (K, E) float32 unit vectors, K at least 1.
    """
    labels: Integers = (vectors @ centers.T).argmax(axis=1)
    return Groups(labels, centers, _own_similarities(vectors, labels, centers))


def silhouette(vectors: Floats, labels: Integers) -> float:
    """Mean silhouette by cosine distance (Rousseeuw, 1987): how much groups keep to themselves.

    The mean cosine distance to a group follows from the sum of its vectors, so that all pairs
    count at the cost of one matrix product.

    Args:
        vectors: (N, E) float32 unit vectors.
        labels: (N,) int64 in 0..K-1, no group empty.

    Returns:
        In [-1, 1]; a vector alone in its group counts 0, and so does a single group.
    """
    sizes = np.bincount(labels)
    if len(sizes) < 2:
        return 0.0
    to_sums = vectors @ _sums(vectors, labels, len(sizes)).T  # (N, K)
    rows = np.arange(len(vectors))
    own_size = sizes[labels]
    within = 1 - (to_sums[rows, labels] - (vectors**2).sum(axis=1)) / np.maximum(own_size - 1, 1)
    to_groups = 1 - to_sums / sizes
    to_groups[rows, labels] = np.inf
    between = to_groups.min(axis=1)
    largest = np.maximum(np.maximum(within, between), np.finfo(np.float32).tiny)
    values = np.where(own_size > 1, (between - within) / largest, 0)
    return float(values.mean())


def choose_count(
    vectors: Floats, candidates: Iterable[int], *, seed: int = 0
) -> tuple[int, dict[int, float]]:
    """The number of groups of the highest mean silhouette; of equals the smaller.

    Args:
        vectors: (N, E) float32 unit vectors.
        candidates: Numbers to try, at least one.
        seed: As in `spherical_kmeans`.

    Returns:
        The number, and the silhouette of every candidate.
    """
    scores = {
        count: silhouette(vectors, spherical_kmeans(vectors, count, seed=seed).labels)
        for count in sorted(candidates)
    }
    return max(scores, key=scores.__getitem__), scores


def normalized_mutual_information(labels: Integers, classes: Integers) -> float:
    """Mutual information of groups and classes over the mean of their entropies.

    Args:
        labels: (N,) int64 group of each object, from 0.
        classes: (N,) int64 true class of each object, from 0.

    Returns:
        In [0, 1]; 1 if each tells the other, also where there is one group of one class.
    """
    joint = _contingency(labels, classes) / max(len(labels), 1)
    of_labels, of_classes = joint.sum(axis=1), joint.sum(axis=0)
    mean_entropy = (_entropy(of_labels) + _entropy(of_classes)) / 2
    if mean_entropy == 0:
        return 1.0
    information = _entropy(of_labels) + _entropy(of_classes) - _entropy(joint.ravel())
    return float(min(max(information / mean_entropy, 0.0), 1.0))


def purity(labels: Integers, classes: Integers) -> float:
    """Share of objects that are of the most frequent class of their group.

    It grows with the number of groups, up to 1 for groups of one: compare at equal numbers.

    Args:
        labels: (N,) int64 group of each object, from 0.
        classes: (N,) int64 true class of each object, from 0.

    Returns:
        In [0, 1]; 0 without objects.
    """
    return float(_contingency(labels, classes).max(axis=1, initial=0).sum() / max(len(labels), 1))


def chance_level(
    labels: Integers, classes: Integers, *, seed: int = 0, shuffles: int = 100
) -> tuple[float, float]:
    """What groups of the same sizes give whose members are drawn at random.

    Args:
        labels: (N,) int64 group of each object, from 0.
        classes: (N,) int64 true class of each object, from 0.
        seed: Of the draws.
        shuffles: How many draws are averaged.

    Returns:
        Mean normalised mutual information and mean purity.
    """
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(labels) for _ in range(shuffles)]
    information = [normalized_mutual_information(one, classes) for one in shuffled]
    purities = [purity(one, classes) for one in shuffled]
    return float(np.mean(information)), float(np.mean(purities))


def _first_centers(vectors: Floats, count: int, rng: np.random.Generator) -> Floats:
    """(K, E) vectors far from each other: each drawn by its distance from those before it."""
    chosen = [int(rng.integers(len(vectors)))]
    distances = 1 - vectors @ vectors[chosen[0]]
    for _ in range(count - 1):
        weights = np.maximum(distances, 0).astype(np.float64)
        total = weights.sum()
        # All on a centre: groups stay empty, whichever is drawn.
        chances = weights / total if total > 0 else None
        chosen.append(int(rng.choice(len(vectors), p=chances)))
        distances = np.minimum(distances, 1 - vectors @ vectors[chosen[-1]])
    return vectors[chosen]


def _kmeans(vectors: Floats, centers: Floats, iterations: int) -> tuple[Integers, Floats]:
    labels: Integers | None = None
    for _ in range(iterations):
        similarities = vectors @ centers.T  # (N, K)
        assigned: Integers = similarities.argmax(axis=1)
        _fill_empty(assigned, similarities)
        if labels is not None and np.array_equal(assigned, labels):
            break
        labels = assigned
        sums = _sums(vectors, labels, len(centers))
        # A group without vectors, or whose vectors cancel out, keeps its centre.
        centers = np.where(np.linalg.norm(sums, axis=1)[:, None] > 0, unit_vectors(sums), centers)
    assert labels is not None
    return labels, centers


def _fill_empty(labels: Integers, similarities: Floats) -> None:
    """Moves, in place, the vectors farthest from their centres to the groups that have none."""
    sizes = np.bincount(labels, minlength=similarities.shape[1])
    empty = np.flatnonzero(sizes == 0)
    if len(empty) == 0:
        return
    distances = 1 - similarities[np.arange(len(labels)), labels]
    for row in np.argsort(-distances, kind="stable"):
        if len(empty) == 0 or distances[row] <= _FAR_ENOUGH:
            return
        if sizes[labels[row]] > 1:
            sizes[labels[row]] -= 1
            labels[row], empty = empty[0], empty[1:]


def _sums(vectors: Floats, labels: Integers, count: int) -> Floats:
    """(K, E) sum of the vectors of each group."""
    members = np.zeros((count, len(vectors)), dtype=np.float32)
    members[labels, np.arange(len(vectors))] = 1
    return members @ vectors


def _own_similarities(vectors: Floats, labels: Integers, centers: Floats) -> Floats:
    similarities: Floats = np.einsum("ne,ne->n", vectors, centers[labels])
    return similarities


def _mean_similarity(vectors: Floats, labels: Integers, centers: Floats) -> float:
    return float(_own_similarities(vectors, labels, centers).mean())


def _contingency(labels: Integers, classes: Integers) -> NDArray[np.int64]:
    """(K, C) number of objects of each group and class."""
    counts = np.zeros((labels.max(initial=-1) + 1, classes.max(initial=-1) + 1), dtype=np.int64)
    np.add.at(counts, (labels, classes), 1)
    return counts


def _entropy(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())
