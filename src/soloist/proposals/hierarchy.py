"""Hierarchies of regions of an image: every candidate for an object is a node of a tree.

A watershed of the colour gradient cuts the image into thousands of small basins that follow its
edges. Three trees merge them until one region is left, each by another idea of what belongs
together, since objects differ: by the weakest edge on the way, small basins first (a watershed
hierarchy by area, Najman, Cousty and Perret, ISMM 2013, "Playing with Kruskal"), once of fine and
once of coarse edges; and by the colours of whole regions (Ward, JASA 1963). Trees and sums over
their nodes are computed by Higra (Perret et al., SoftwareX 2019) in O(n log n).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import higra
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from soloist.ops.affinity import rgb_to_lab

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FINE, COARSE = 0.8, 2.0
"""Standard deviations of the filters before gradients are taken, in pixels."""
COARSE_AREA = 8.0
"""Basins of less extinction area are merged before the second and the third tree, in pixels."""
POSITION_WEIGHT = 30.0
"""What the whole height of an image counts beside CIE-Lab colours in the third tree."""
DARK = 0.35
"""An image whose mean is below this is brightened by a gamma curve."""
LEAST_GAMMA = 0.4
"""The strongest such curve."""
LEAST_RANGE = 16.0
"""Range of values, of 255, below which an image is not stretched any further."""


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


@dataclass(frozen=True)
class Partition:
    """An image cut into n regions, the leaves of trees.

    Attributes:
        labels: (H, W) int32, the region each pixel is in.
        count: n.
        graph: Which of them touch.
        lab: (3, H, W) float32 colours.
    """

    labels: NDArray[np.int32]
    count: int
    graph: Graph
    lab: NDArray[np.float32]

    @cached_property
    def sizes(self) -> Floats:
        """(n,) pixels of each."""
        return np.bincount(self.labels.ravel(), minlength=self.count).astype(np.float64)

    @cached_property
    def colors(self) -> Floats:
        """(n, 3) mean CIE-Lab colours."""
        return self.means(self.lab)

    def means(self, planes: NDArray[np.float32]) -> Floats:
        """(n, C) means of (C, H, W) planes."""
        flat = self.labels.ravel()
        sums = [np.bincount(flat, weights=plane.ravel(), minlength=self.count) for plane in planes]
        return np.stack(sums, axis=1) / self.sizes[:, None]

    @cached_property
    def border(self) -> Floats:
        """(n,) pixels on the image's border, those at corners twice."""
        sides = (self.labels[0], self.labels[-1], self.labels[:, 0], self.labels[:, -1])
        return np.bincount(np.concatenate(sides), minlength=self.count).astype(np.float64)

    @cached_property
    def margins(self) -> Floats:
        """(n, 4) distances of each region's box from the left, top, right and bottom, in pixels."""
        height, width = self.labels.shape
        order = np.argsort(self.labels.ravel())
        starts = np.r_[0, np.cumsum(self.sizes[:-1])].astype(np.int64)
        rows, columns = np.divmod(order, width)
        sides = (columns, rows, width - 1 - columns, height - 1 - rows)
        return np.stack([np.minimum.reduceat(side, starts) for side in sides], axis=1) * 1.0

    @property
    def edges(self) -> higra.UndirectedGraph:
        """The graph as Higra takes it."""
        edges = higra.UndirectedGraph(self.count)
        edges.add_edges(self.graph.first, self.graph.second)
        return edges


@dataclass(frozen=True)
class Tree:
    """One hierarchy: n leaves, then the regions they are merged to, the root last.

    Attributes:
        partition: The leaves.
        hierarchy: Higra's tree of N nodes.
    """

    partition: Partition
    hierarchy: higra.Tree

    def __len__(self) -> int:
        return int(self.hierarchy.num_vertices())

    @property
    def count(self) -> int:
        """How many leaves there are."""
        return int(self.hierarchy.num_leaves())

    @property
    def parents(self) -> Integers:
        """(N,) parent of each node; the root is its own."""
        return np.asarray(self.hierarchy.parents())

    def sums(self, values: Floats) -> Floats:
        """(N, ...) sums over the leaves below each node of (n, ...) values."""
        return np.asarray(
            higra.accumulate_sequential(self.hierarchy, values, higra.Accumulators.sum)
        )

    def least(self, values: Floats) -> Floats:
        """(N, ...) minima over the leaves below each node of (n, ...) values."""
        return np.asarray(
            higra.accumulate_sequential(self.hierarchy, values, higra.Accumulators.min)
        )

    def along_contours(self, values: Floats) -> Floats:
        """(N,) sums over the outline of each node of (E,) values of touching leaves.

        Each pair of leaves adds to the outlines of both, and takes itself out of those of all
        nodes that hold both: the lowest of these and its ancestors.
        """
        nodes = np.bincount(self._meeting, weights=-2 * values, minlength=len(self))
        nodes += np.bincount(self.partition.graph.first, weights=values, minlength=len(self))
        nodes += np.bincount(self.partition.graph.second, weights=values, minlength=len(self))
        total: Floats = higra.accumulate_and_add_sequential(
            self.hierarchy,
            nodes,
            np.ascontiguousarray(nodes[: self.count]),
            higra.Accumulators.sum,
        )
        return np.maximum(total, 0)

    @cached_property
    def _meeting(self) -> Integers:
        """(E,) the lowest node that holds both leaves of each pair."""
        self.hierarchy.lowest_common_ancestor_preprocess()
        found = self.hierarchy.lowest_common_ancestor(
            self.partition.graph.first, self.partition.graph.second
        )
        return np.asarray(found).astype(np.int64)

    def pixels_of(self, node: int) -> Integers:
        """Flat indices of the pixels of a node, in no order."""
        first, last = self._spans[:, node]
        pixels: Integers = self._pixels[first:last]
        return pixels

    @cached_property
    def _spans(self) -> Integers:
        """(2, N): where in `_pixels` the pixels of each node begin and end."""
        counts = self.sums(self.partition.sizes).astype(np.int64)
        parents = self.parents
        # Siblings lie one after the other within their parent.
        order = np.argsort(parents[:-1], kind="stable")
        before = np.cumsum(counts[order]) - counts[order]
        own = parents[order]
        starts = np.zeros(len(self))
        firsts = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
        sizes = np.diff(np.r_[firsts, len(order)])
        starts[order] = before - np.repeat(before[firsts], sizes)
        starts = higra.propagate_sequential_and_accumulate(
            self.hierarchy, starts, higra.Accumulators.sum
        )
        first = np.asarray(starts).astype(np.int64)
        return np.stack((first, first + counts))

    @cached_property
    def _pixels(self) -> Integers:
        """(H * W,) flat indices of all pixels, those of each node together."""
        return np.argsort(
            self._spans[0][: self.count].astype(np.int32)[self.partition.labels.ravel()]
        )


@dataclass(frozen=True)
class Hierarchies:
    """All trees of one image.

    Attributes:
        lab: (3, H, W) float32, its CIE-Lab colours after its contrast was normalised.
        trees: One to three trees; none if the image has one colour.
    """

    lab: NDArray[np.float32]
    trees: tuple[Tree, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) on which the trees live, in pixels."""
        return (self.lab.shape[1], self.lab.shape[2])


def hierarchies(pixels: NDArray[np.uint8]) -> Hierarchies:
    """The trees of an image.

    Args:
        pixels: (H, W, 3) uint8 RGB; the time grows with their number.

    Raises:
        ValueError: If the shape or type is wrong.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    lab = normalised_lab(pixels)
    fine, coarse = gradient(lab, FINE), gradient(lab, COARSE)
    labels, count = basins(fine)
    if count < 2:
        return Hierarchies(lab, ())
    finest = Partition(labels, count, touching(labels, count, fine, coarse), lab)
    by_fine_edges, altitudes = higra.watershed_hierarchy_by_area(
        finest.edges, finest.graph.fine, finest.sizes
    )
    trees = [Tree(finest, by_fine_edges)]
    cut = higra.labelisation_horizontal_cut_from_threshold(by_fine_edges, altitudes, COARSE_AREA)
    groups, merged = np.unique(cut, return_inverse=True)
    count = len(groups)
    if count < 2:
        return Hierarchies(lab, tuple(trees))
    labels = merged.astype(np.int32)[labels]
    merged_basins = Partition(labels, count, touching(labels, count, fine, coarse), lab)
    edges, sizes = merged_basins.edges, merged_basins.sizes
    by_coarse_edges, _ = higra.watershed_hierarchy_by_area(edges, merged_basins.graph.coarse, sizes)
    described = merged_basins.means(_colors_and_places(lab))
    by_colors, _ = higra.binary_partition_tree_ward_linkage(edges, described, sizes)
    trees += [Tree(merged_basins, by_coarse_edges), Tree(merged_basins, by_colors)]
    return Hierarchies(lab, tuple(trees))


def normalised_lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(3, H, W) CIE-Lab of an image whose values were stretched and, if it is dark, brightened.

    By content, not by habit: fluorescence in a tenth of the range has edges as strong as a
    photograph's. A photograph of usual contrast hardly changes.
    """
    counts = np.bincount(pixels.ravel(), minlength=256)
    low, high = np.searchsorted(np.cumsum(counts), np.array([0.005, 0.995]) * pixels.size)
    values = np.clip((np.arange(256) - low) / max(float(high - low), LEAST_RANGE), 0, 1)
    mean = float(values @ counts) / max(pixels.size, 1)
    gamma = np.clip(np.log(DARK) / np.log(np.clip(mean, 1e-3, 0.999)), LEAST_GAMMA, 1)
    curve = torch.from_numpy((values**gamma).astype(np.float32))
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).int()
    lab: NDArray[np.float32] = rgb_to_lab(curve[planes]).numpy()
    return lab


def gradient(lab: NDArray[np.float32], deviation: float) -> NDArray[np.float32]:
    """(H, W) length of the colour gradient of (3, H, W) colours after a Gaussian filter."""
    squares = np.zeros(lab.shape[1:], dtype=np.float32)
    for plane in lab:
        smooth = ndimage.gaussian_filter(plane, deviation, truncate=3)
        for axis in (0, 1):
            slope = ndimage.correlate1d(smooth, (-0.5, 0.0, 0.5), axis=axis)
            squares += np.square(slope, out=slope)
    return np.sqrt(squares, out=squares)


def basins(heights: NDArray[np.float32]) -> tuple[NDArray[np.int32], int]:
    """Watershed by steepest descent: every pixel belongs to the minimum that water from it reaches.

    A pixel flows to the lowest of its four neighbours that lies lower; one without is a minimum.
    So each pixel of a plateau is a minimum of its own, which the trees then merge first.

    Args:
        heights: (H, W) float.

    Returns:
        (H, W) int32 numbers of minima from 0 on, and how many there are.
    """
    height, width = heights.shape
    around = np.pad(heights, 1, constant_values=np.inf)
    lowest = heights.copy()
    steps = np.zeros(heights.shape, dtype=np.int32)
    for step, rows, columns in ((-width, 0, 1), (width, 2, 1), (-1, 1, 0), (1, 1, 2)):
        neighbor = around[rows : rows + height, columns : columns + width]
        lower = neighbor < lowest
        np.copyto(lowest, neighbor, where=lower)
        np.copyto(steps, np.int32(step), where=lower)
    own = np.arange(heights.size, dtype=np.int32)
    reached = own + steps.ravel()
    while True:
        further = reached[reached]
        if np.array_equal(further, reached):
            break
        reached = further
    minima = reached == own
    numbers = np.cumsum(minima, dtype=np.int32) - 1
    return numbers[reached].reshape(heights.shape), int(minima.sum())


def touching(
    labels: NDArray[np.int32],
    count: int,
    fine: NDArray[np.float32],
    coarse: NDArray[np.float32],
) -> Graph:
    """The pairs of (H, W) regions that touch, with the mean (H, W) gradients between them."""
    keys, strengths = [], []
    for one, other in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        across = np.nonzero(labels[one] != labels[other])
        left, right = labels[one][across], labels[other][across]
        keys.append(np.minimum(left, right).astype(np.int64) * count + np.maximum(left, right))
        # An edge lies between two pixels; the steeper of them is nearer to it.
        strengths.append([np.maximum(g[one][across], g[other][across]) for g in (fine, coarse)])
    key = np.concatenate(keys)
    order = np.argsort(key)
    key = key[order]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    lengths = np.diff(np.r_[starts, len(key)]).astype(np.float64)
    means = [
        np.add.reduceat(np.concatenate(both)[order].astype(np.float64), starts) / lengths
        for both in zip(*strengths, strict=True)
    ]
    first, second = np.divmod(key[starts], count)
    return Graph(first, second, lengths, *means)


def _colors_and_places(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = lab.shape[1:]
    unit = POSITION_WEIGHT / height
    rows = np.broadcast_to(np.arange(height, dtype=np.float32)[:, None] * unit, (height, width))
    columns = np.broadcast_to(np.arange(width, dtype=np.float32) * unit, (height, width))
    return np.concatenate((lab, np.stack((rows, columns))))
