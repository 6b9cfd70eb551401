"""Hierarchies of regions of an image: every candidate for an object is a node of a tree.

A watershed of the colour gradient cuts the image into thousands of small basins that follow its
edges. Three trees merge them until one region is left, each by another idea of what belongs
together, since objects differ: by the weakest edge on the way, small basins first (a watershed
hierarchy by area, Najman, Cousty and Perret, ISMM 2013, "Playing with Kruskal"), once of fine and
once of coarse edges; and by the colours of whole regions (Ward, JASA 1963). Trees and sums over
their nodes are computed by Higra (Perret et al., SoftwareX 2019) in O(n log n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import higra
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from soloist.ops.affinity import linear_to_lab, srgb_to_linear
from soloist.ops.resize import Window
from soloist.proposals.partition import Floats, Integers, Partition, basins, partition

FINE, COARSE = 0.8, 2.0
"""Standard deviations of the filters before gradients are taken, in pixels."""
TRUNCATE = 3.0
"""Where those filters end, in standard deviations."""
COARSE_AREA = 8.0
"""Basins of less extinction area are merged before the second and the third tree, in pixels."""
POSITION_WEIGHT = 30.0
"""What the whole height of an image counts beside CIE-Lab colours in the third tree."""
DARK = 0.35
"""An image whose mean is below this is brightened by a gamma curve."""
MIN_GAMMA = 0.4
"""The strongest such curve."""
MIN_RANGE = 16.0
"""Range of values, of 255, below which an image is not stretched any further."""


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

    @cached_property
    def parents(self) -> Integers:
        """(N,) parent of each node; the root is its own."""
        return np.asarray(self.hierarchy.parents()).astype(np.int64)

    @cached_property
    def areas(self) -> Floats:
        """(N,) pixels of each node."""
        return self.sums(self.partition.sizes)

    @cached_property
    def lengths(self) -> Floats:
        """(N,) length of the outline of each node within the image, in pixels."""
        return self.along_contours(self.partition.graph.lengths)

    @cached_property
    def strengths(self) -> Floats:
        """(N,) mean coarse gradient along that outline; 0 for the root, which has none."""
        graph = self.partition.graph
        return self.along_contours(graph.lengths * graph.coarse) / np.maximum(self.lengths, 1)

    def children(self, node: int) -> Integers:
        """What was merged to a node; nothing for a leaf."""
        return np.asarray(self.hierarchy.children(node)).astype(np.int64)

    def nodes_at(self, row: int, column: int) -> list[int]:
        """The nodes that hold a pixel, from the leaf to the root."""
        node = int(self.partition.labels[row, column])
        nodes = [node]
        while (parent := self._parent_list[node]) != node:
            nodes.append(node := parent)
        return nodes

    @cached_property
    def _parent_list(self) -> list[int]:
        """The parents; single elements of arrays are slow to read."""
        parents: list[int] = self.parents.tolist()
        return parents

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
        first, last = self.spans[:, node]
        pixels: Integers = self._pixels[first:last]
        return pixels

    def inside(self, node: int, window: Window) -> NDArray[np.bool_]:
        """(h, w) bool: which pixels of a window of the image a node has."""
        first, last = self.spans[:, node].astype(np.uint32)
        # What lies before the first wraps around to more than any node has.
        held: NDArray[np.bool_] = self._begins[window] - first < last - first
        return held

    @cached_property
    def _begins(self) -> NDArray[np.uint32]:
        """(H, W) begin of the leaf of each pixel in the order of `spans`."""
        begins: NDArray[np.uint32] = self.spans[0][: self.count].astype(np.uint32)
        return begins.take(self.partition.labels)

    @cached_property
    def spans(self) -> Integers:
        """(2, N): where the pixels of each node begin and end in an order that keeps them together.

        So a node holds a leaf if the leaf's begin lies in the node's span.
        """
        counts = self.areas.astype(np.int64)
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
            self.spans[0][: self.count].astype(np.int32)[self.partition.labels.ravel()]
        )


@dataclass(frozen=True)
class PixelMaps:
    """What was learned from labels of each pixel, as probabilities.

    Attributes:
        inside: (K, H, W) float32: inside an object of each class.
        outline: (H, W) float32: on the outline of an object.
    """

    inside: NDArray[np.float32]
    outline: NDArray[np.float32]

    @cached_property
    def any_inside(self) -> NDArray[np.float32]:
        """(H, W) inside an object of any class."""
        largest: NDArray[np.float32] = self.inside.max(axis=0)
        return largest


@dataclass(frozen=True)
class Hierarchies:
    """All trees of one image.

    Attributes:
        lab: (3, H, W) float32, its CIE-Lab colours after its contrast was normalised.
        trees: Up to three trees, and further ones of the maps; none if the image has one colour.
        maps: What was learned of its pixels, if anything was.
        trees_of_maps: How many of the trees, the last ones, are cut from those.
    """

    lab: NDArray[np.float32]
    trees: tuple[Tree, ...]
    maps: PixelMaps | None = None
    trees_of_maps: int = 0

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
    fine, coarse = gradients(lab)
    labels = basins(fine)
    if not labels.any():
        return Hierarchies(lab, ())
    finest = partition(labels, lab, fine, coarse)
    by_fine_edges, altitudes = higra.watershed_hierarchy_by_area(
        finest.edges, finest.graph.fine, finest.sizes
    )
    trees = [Tree(finest, by_fine_edges)]
    cut = higra.labelisation_horizontal_cut_from_threshold(by_fine_edges, altitudes, COARSE_AREA)
    groups, merged = np.unique(cut, return_inverse=True)
    if len(groups) < 2:
        return Hierarchies(lab, tuple(trees))
    leaves = finest.merged(merged)
    edges = leaves.edges
    by_coarse_edges, _ = higra.watershed_hierarchy_by_area(edges, leaves.graph.coarse, leaves.sizes)
    places = leaves.centers * (POSITION_WEIGHT / labels.shape[0])
    described = np.concatenate((leaves.colors, places), axis=1)
    by_colors, _ = higra.binary_partition_tree_ward_linkage(edges, described, leaves.sizes)
    trees += [Tree(leaves, by_coarse_edges), Tree(leaves, by_colors)]
    return Hierarchies(lab, tuple(trees))


def normalised_lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(3, H, W) CIE-Lab of an image whose values were stretched and, if it is dark, brightened.

    By content, not by habit: fluorescence in a tenth of the range has edges as strong as a
    photograph's. A photograph of usual contrast hardly changes.
    """
    counts = np.bincount(pixels.ravel(), minlength=256)
    low, high = np.searchsorted(np.cumsum(counts), np.array([0.005, 0.995]) * pixels.size)
    # A lesser range lies in the middle, where the gamma curve has no steep start.
    spare = max(0.0, (MIN_RANGE - float(high - low)) / 2)
    values = np.clip((np.arange(256) - low + spare) / (high - low + 2 * spare), 0, 1)
    mean = float(values @ counts) / max(pixels.size, 1)
    gamma = np.clip(np.log(DARK) / np.log(np.clip(mean, 1e-3, 0.999)), MIN_GAMMA, 1)
    linear = srgb_to_linear(torch.from_numpy((values**gamma).astype(np.float32))).numpy()
    planes = linear.take(pixels.transpose(2, 0, 1))
    lab: NDArray[np.float32] = linear_to_lab(torch.from_numpy(planes)).numpy()
    return lab


def gradients(lab: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(H, W) fine and coarse lengths of the colour gradient of (3, H, W) colours.

    The coarse one is of an image of half the size, each of its values for four pixels.
    """
    smooth = np.stack([ndimage.gaussian_filter(plane, FINE, truncate=TRUNCATE) for plane in lab])
    height, width = lab.shape[1:]
    even = np.pad(smooth, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    half = (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4
    # What the first filter and the mean of two pixels each way did is done.
    left = math.sqrt(COARSE**2 - FINE**2 - 0.25) / 2
    half = np.stack([ndimage.gaussian_filter(plane, left, truncate=TRUNCATE) for plane in half])
    coarse = (_slopes(half) / 2).repeat(2, axis=0).repeat(2, axis=1)
    return _slopes(smooth), np.ascontiguousarray(coarse[:height, :width])


def _slopes(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W) length of the gradient of (C, H, W) planes by central differences."""
    edged = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    squares = np.zeros(planes.shape[1:], dtype=np.float32)
    for slope in (
        edged[:, 2:, 1:-1] - edged[:, :-2, 1:-1],
        edged[:, 1:-1, 2:] - edged[:, 1:-1, :-2],
    ):
        squares += np.einsum("chw,chw->hw", slope, slope)
    lengths: NDArray[np.float32] = np.sqrt(squares, out=squares)
    return np.divide(lengths, 2, out=lengths)
