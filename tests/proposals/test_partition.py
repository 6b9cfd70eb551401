"""Regions of an image against loops over its pixels."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from numpy.typing import NDArray

from soloist.proposals.partition import Partition, basins, partition, touching

Floats = NDArray[np.float32]
SHAPES = [(1, 1), (1, 9), (9, 1), (2, 2), (7, 11), (24, 17)]


def heights_of(shape: tuple[int, int], levels: int = 0) -> Floats:
    rng = np.random.default_rng(sum(shape))
    heights = rng.random(shape) if not levels else rng.integers(0, levels, shape)
    return heights.astype(np.float32)


def followed(heights: Floats) -> NDArray[np.int64]:
    """The minimum of each pixel, by following water step by step."""
    height, width = heights.shape

    def below(row: int, column: int) -> tuple[int, int]:
        best = (row, column)
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            near = (row + down, column + right)
            inside = 0 <= near[0] < height and 0 <= near[1] < width
            if inside and heights[near] < heights[best]:
                best = near
        return best

    ends = np.zeros((height, width), dtype=np.int64)
    for row in range(height):
        for column in range(width):
            at = (row, column)
            while (lower := below(*at)) != at:
                at = lower
            ends[row, column] = at[0] * width + at[1]
    return np.unique(ends, return_inverse=True)[1].reshape(heights.shape)


@pytest.mark.parametrize(
    ("heights", "labels"),
    [
        pytest.param([[3, 1, 2, 0, 5]], [[0, 0, 1, 1, 1]], id="two valleys, a slope to the lower"),
        pytest.param([[1, 1], [1, 1]], [[0, 1], [2, 3]], id="each pixel of a plateau by itself"),
        pytest.param([[0, 9, 0], [9, 9, 9]], [[0, 0, 1], [0, 2, 1]], id="the first of equals"),
        pytest.param([[5]], [[0]], id="one pixel"),
    ],
)
def test_basins_of_a_few_pixels(heights: list[list[float]], labels: list[list[int]]) -> None:
    assert basins(np.array(heights, dtype=np.float32)).tolist() == labels


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [0, 3], ids=["all differ", "plateaus"])
def test_basins_are_where_water_goes(shape: tuple[int, int], levels: int) -> None:
    heights = heights_of(shape, levels)
    labels = basins(heights)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, followed(heights))


def slow_pairs(
    labels: NDArray[np.int32], fine: Floats, coarse: Floats
) -> dict[tuple[int, int], list[tuple[float, float]]]:
    pairs: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            for near in ((row + 1, column), (row, column + 1)):
                if near[0] < labels.shape[0] and near[1] < labels.shape[1]:
                    own, other = int(labels[row, column]), int(labels[near])
                    if own != other:
                        at = (row, column)
                        steep = (max(fine[at], fine[near]), max(coarse[at], coarse[near]))
                        pairs[min(own, other), max(own, other)].append(steep)
    return pairs


def check_graph(parted: Partition, fine: Floats, coarse: Floats) -> None:
    pairs = slow_pairs(parted.labels, fine, coarse)
    graph = parted.graph
    assert list(zip(graph.first.tolist(), graph.second.tolist(), strict=True)) == sorted(pairs)
    assert graph.lengths.tolist() == [len(pairs[key]) for key in sorted(pairs)]
    means = np.array([np.mean(pairs[key], axis=0) for key in sorted(pairs)]).reshape(-1, 2)
    np.testing.assert_allclose(np.stack((graph.fine, graph.coarse), axis=1), means, rtol=1e-6)


def check_regions(parted: Partition, lab: Floats) -> None:
    height, width = parted.labels.shape
    assert sorted(set(parted.labels.ravel().tolist())) == list(range(parted.count))
    for region in range(parted.count):
        rows, columns = np.nonzero(parted.labels == region)
        assert parted.sizes[region] == len(rows)
        np.testing.assert_allclose(
            parted.colors[region], lab[:, rows, columns].mean(axis=1), rtol=1e-5
        )
        np.testing.assert_allclose(parted.centers[region], [rows.mean(), columns.mean()])
        on_border = sum(
            int(side.sum())
            for side in (rows == 0, rows == height - 1, columns == 0, columns == width - 1)
        )
        assert parted.border[region] == on_border
        assert parted.margins[region].tolist() == [
            columns.min(),
            rows.min(),
            width - 1 - columns.max(),
            height - 1 - rows.max(),
        ]
    differ = parted.colors[parted.graph.first] - parted.colors[parted.graph.second]
    np.testing.assert_allclose(parted.steps, np.sqrt((differ**2).sum(axis=1)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_partition_is_what_loops_over_pixels_find(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    fine, coarse = (rng.random(shape).astype(np.float32) for _ in range(2))
    lab = (100 * rng.random((3, *shape))).astype(np.float32)
    parted = partition(basins(fine), lab, fine, coarse)
    check_graph(parted, fine, coarse)
    check_regions(parted, lab)


@pytest.mark.parametrize("groups", [1, 2, 9])
def test_unions_are_what_they_would_be_from_their_pixels(groups: int) -> None:
    shape = (24, 17)
    rng = np.random.default_rng(2)
    fine, coarse = (rng.random(shape).astype(np.float32) for _ in range(2))
    lab = (100 * rng.random((3, *shape))).astype(np.float32)
    finest = partition(basins(fine), lab, fine, coarse)
    chosen = np.arange(finest.count) % groups
    merged = finest.merged(rng.permutation(chosen))
    assert merged.count == groups
    check_graph(merged, fine, coarse)
    check_regions(merged, lab)


def test_an_edge_is_as_steep_as_the_steeper_of_its_pixels() -> None:
    fine = np.array([[1, 2, 5, 3]], dtype=np.float32)
    graph = touching(np.array([[0, 0, 1, 0]], dtype=np.int32), fine, 10 * fine)
    assert (graph.first.tolist(), graph.second.tolist()) == ([0], [1])
    assert (graph.lengths.tolist(), graph.fine.tolist()) == ([2], [5])
    assert graph.coarse.tolist() == [50]
