"""Groups of vectors by direction: k-means, how many groups, and how good they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.errors import require
from soloist.ops.vectors import unit_vectors

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_ROUNDING = 1e-5
"""Differences of unit vectors shorter than this are rounding."""


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


def kmeans(vectors: Floats, count: int, *, seed: int = 0, restarts: int = 8) -> Groups:
    """Groups unit vectors by k-means; the centres are put back on the sphere.

    Args:
        vectors: (N, E) float32 unit vectors, as of `unit_vectors`.
        count: K, how many groups.
        seed: Of the starts; the same seed gives the same groups.
        restarts: How many starts; the best result wins.

    Returns:
        `count` groups, or fewer if there are fewer different vectors.

    Raises:
        ConfigError: If scikit-learn is absent.
        ValueError: If count is not in 1..N.
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"count must be from 1 to the {len(vectors)} vectors, got {count}")
    require("sklearn", extra="explore", wanted="grouping")
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer different vectors than groups: the caller sees that from what comes back.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(count, n_init=restarts, random_state=seed).fit(vectors).labels_
    sizes = np.bincount(found, minlength=count)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    rank = np.zeros(count, dtype=np.int64)
    rank[order] = np.arange(len(order))
    labels: Integers = rank[found]
    centers = unit_vectors(_sums(vectors, labels, len(order)))
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
        seed: As in `kmeans`.

    Returns:
        The number, and the silhouette of every candidate.
    """
    scores = {
        count: silhouette(vectors, kmeans(vectors, count, seed=seed).labels)
        for count in sorted(candidates)
    }
    return max(scores, key=scores.__getitem__), scores


def mutual_information(labels: Integers, classes: Integers) -> tuple[float, float]:
    """How much groups and classes tell about each other (Vinh et al., 2010).

    Args:
        labels: (N,) group of each object.
        classes: (N,) true class of each object.

    Returns:
        normalized: Over the mean of both entropies, in [0, 1]; it grows with the number of groups.
        adjusted: For chance: 0 on average for groups of random members, 1 if each tells the other.

    Raises:
        ConfigError: If scikit-learn is absent.
    """
    require("sklearn", extra="explore", wanted="comparing groups with classes")
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    return (
        float(normalized_mutual_info_score(classes, labels)),
        float(adjusted_mutual_info_score(classes, labels)),
    )


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


def _sums(vectors: Floats, labels: Integers, count: int) -> Floats:
    """(K, E) sum of the vectors of each group."""
    members = np.zeros((count, len(vectors)), dtype=np.float32)
    members[labels, np.arange(len(vectors))] = 1
    return members @ vectors


def _own_similarities(vectors: Floats, labels: Integers, centers: Floats) -> Floats:
    similarities: Floats = np.einsum("ne,ne->n", vectors, centers[labels])
    return similarities


def _contingency(labels: Integers, classes: Integers) -> NDArray[np.int64]:
    """(K, C) number of objects of each group and class."""
    counts = np.zeros((labels.max(initial=-1) + 1, classes.max(initial=-1) + 1), dtype=np.int64)
    np.add.at(counts, (labels, classes), 1)
    return counts
