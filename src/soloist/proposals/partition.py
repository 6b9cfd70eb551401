"""An image cut into small regions: which pixels each has, what it is like and which it touches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import higra
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Graph:
    """Which regions of a partition touch.

    Attributes:
        first: (E,) the one region of a pair, the smaller number.
        second: (E,) the other.
        lengths: (E,) pixels along which they touch.
        fine: (E,) mean fine gradient there.
        coarse: (E,) mean coarse gradient there.
    """

    first: Integers
    second: Integers
    lengths: Floats
    fine: Floats
    coarse: Floats

    def merged(self, groups: Integers) -> Graph:
        """The graph of unions of its regions: (n,) numbers of groups by region."""
        one, other = groups[self.first], groups[self.second]
        apart = one != other
        one, other, lengths = one[apart], other[apart], self.lengths[apart]
        sums = (lengths, lengths * self.fine[apart], lengths * self.coarse[apart])
        return _graph_of(np.minimum(one, other), np.maximum(one, other), *sums)


@dataclass(frozen=True)
class Partition:
    """An image cut into n regions, the leaves of trees.

    Attributes:
        labels: (H, W) int32, the region each pixel is in.
        graph: Which of them touch.
        sizes: (n,) pixels of each.
        colors: (n, 3) mean CIE-Lab colours.
        centers: (n, 2) mean rows and columns, in pixels.
        products: (n, 3) means of their squares, and of their product.
        border: (n,) pixels on the image's border, those at corners twice.
        margins: (n, 4) distances of each region's box from the left, top, right and bottom, in
            pixels.
    """

    labels: NDArray[np.int32]
    graph: Graph
    sizes: Floats
    colors: Floats
    centers: Floats
    products: Floats
    border: Floats
    margins: Floats

    @property
    def count(self) -> int:
        """How many regions."""
        return len(self.sizes)

    @cached_property
    def steps(self) -> Floats:
        """(E,) distances of the colours of regions that touch."""
        apart = self.colors[self.graph.first] - self.colors[self.graph.second]
        distances: Floats = np.sqrt(np.einsum("ec,ec->e", apart, apart))
        return distances

    @property
    def edges(self) -> higra.UndirectedGraph:
        """The graph as Higra takes it."""
        edges = higra.UndirectedGraph(self.count)
        edges.add_edges(self.graph.first, self.graph.second)
        return edges

    def merged(self, groups: Integers) -> Partition:
        """The partition of unions of its regions: (n,) numbers of groups from 0 on, by region."""
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0])
        sizes, border = (
            np.add.reduceat(values[order], starts) for values in (self.sizes, self.border)
        )
        colors, centers, products = (
            np.add.reduceat((values * self.sizes[:, None])[order], starts) / sizes[:, None]
            for values in (self.colors, self.centers, self.products)
        )
        return Partition(
            labels=groups.astype(np.int32).take(self.labels),
            graph=self.graph.merged(groups),
            sizes=sizes,
            colors=colors,
            centers=centers,
            products=products,
            border=border,
            margins=np.minimum.reduceat(self.margins[order], starts),
        )


def partition(
    labels: NDArray[np.int32],
    lab: NDArray[np.float32],
    fine: NDArray[np.float32],
    coarse: NDArray[np.float32],
) -> Partition:
    """What the regions of an image are like.

    Args:
        labels: (H, W) numbers of regions, each from 0 on.
        lab: (3, H, W) CIE-Lab colours.
        fine: (H, W) fine gradient.
        coarse: (H, W) coarse gradient.
    """
    flat = labels.ravel()
    sizes = np.bincount(flat).astype(np.float64)
    count = len(sizes)
    rows = np.broadcast_to(np.arange(labels.shape[0], dtype=np.float64)[:, None], labels.shape)
    columns = np.broadcast_to(np.arange(labels.shape[1], dtype=np.float64), labels.shape)
    planes = [*lab, rows, columns, rows * rows, columns * columns, rows * columns]
    sums = [np.bincount(flat, weights=plane.ravel(), minlength=count) for plane in planes]
    means = np.stack(sums, axis=1) / sizes[:, None]
    sides = np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1]))
    return Partition(
        labels=labels,
        graph=touching(labels, fine, coarse),
        sizes=sizes,
        colors=means[:, :3],
        centers=means[:, 3:5],
        products=means[:, 5:],
        border=np.bincount(sides, minlength=count).astype(np.float64),
        margins=_margins(labels, count),
    )


def _margins(labels: NDArray[np.int32], count: int) -> Floats:
    """(n, 4) distances of each region's box from the left, top, right and bottom."""
    height, width = labels.shape
    place = np.arange(labels.size)
    by_rows, by_columns = labels.ravel(), labels.T.ravel()
    # Of several values for one region the last is kept.
    ends = []
    for flat, numbers in (
        (by_columns[::-1], place[::-1]),
        (by_rows[::-1], place[::-1]),
        (by_columns, place),
        (by_rows, place),
    ):
        last = np.empty(count, dtype=np.int64)
        last[flat] = numbers
        ends.append(last)
    left, top, right, bottom = (
        end // across for end, across in zip(ends, (height, width) * 2, strict=True)
    )
    return np.stack((left, top, width - 1 - right, height - 1 - bottom), axis=1) * 1.0


def basins(heights: NDArray[np.float32]) -> NDArray[np.int32]:
    """Watershed by steepest descent: every pixel belongs to the minimum that water from it reaches.

    A pixel flows to the lowest of its four neighbours that lies lower; one without is a minimum.
    So each pixel of a plateau is a minimum of its own, which the trees then merge first.

    Args:
        heights: (H, W) float.

    Returns:
        (H, W) int32 numbers of minima, from 0 on.
    """
    height, width = heights.shape
    around = np.pad(heights, 1, constant_values=np.inf)
    lowest = heights.copy()
    steps = np.zeros(heights.shape, dtype=np.int64)
    for step, rows, columns in ((-width, 0, 1), (width, 2, 1), (-1, 1, 0), (1, 1, 2)):
        neighbor = around[rows : rows + height, columns : columns + width]
        steps[neighbor < lowest] = step
        np.minimum(lowest, neighbor, out=lowest)
    own = np.arange(heights.size)
    reached = own + steps.ravel()
    minima = reached == own
    while True:
        further = reached.take(reached)
        if np.array_equal(further, reached):
            break
        reached = further
    numbers = np.cumsum(minima, dtype=np.int32) - np.int32(1)
    return numbers.take(reached).reshape(heights.shape)


def touching(
    labels: NDArray[np.int32], fine: NDArray[np.float32], coarse: NDArray[np.float32]
) -> Graph:
    """The pairs of (H, W) regions that touch, with the mean (H, W) gradients between them."""
    width = labels.shape[1]
    places, others = [], []
    for step, across in ((width, labels[1:] != labels[:-1]), (1, labels[:, 1:] != labels[:, :-1])):
        rows, columns = np.divmod(np.flatnonzero(across), across.shape[1] or 1)
        places.append(rows * width + columns)
        others.append(places[-1] + step)
    place, other = np.concatenate(places), np.concatenate(others)
    left, right = labels.ravel().take(place), labels.ravel().take(other)
    # An edge lies between two pixels; the steeper of them is nearer to it.
    sums = [
        np.maximum(steep.ravel().take(place), steep.ravel().take(other)).astype(np.float64)
        for steep in (fine, coarse)
    ]
    return _graph_of(np.minimum(left, right), np.maximum(left, right), np.ones(len(place)), *sums)


def _graph_of(
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    lengths: Floats,
    fine: Floats,
    coarse: Floats,
) -> Graph:
    """A graph from (P,) pairs that may come several times, with sums of gradients."""
    count = int(second.max(initial=0)) + 1
    key = first.astype(np.int64) * count + second
    order = np.argsort(key)
    key = key[order]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else order
    lengths, fine, coarse = (
        np.add.reduceat(sums[order], starts) if len(starts) else np.zeros(0)
        for sums in (lengths, fine, coarse)
    )
    own, other = np.divmod(key[starts], count)
    return Graph(own, other, lengths, fine / lengths, coarse / lengths)
