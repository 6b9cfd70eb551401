"""An image that is open in the studio: what can lie under the pointer, and its masks.

The trees are computed once. The page gets them as arrays and finds what is under the pointer by
itself, so that a move of the pointer asks nobody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soloist.data.coco.rle import decode_mask, encode_masks
from soloist.data.drawing.rendering import jpeg_bytes, resize_masks, thumbnail
from soloist.data.images import read_image
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.inference.segmenter import Segmenter
from soloist.ops.resize import linear_weights, resized_masks
from soloist.proposals.hierarchy import Hierarchies, gradients
from soloist.proposals.partition import Floats, Integers
from soloist.proposals.ranking import Candidates
from soloist.proposals.regions import region_candidates

MAX_CANDIDATES = 20_000
"""Nodes of an image that can be lit; the worst of more are left out."""
MAX_OFFERED, MIN_OFFERED = 500, 0.05
"""Masks that are offered before anyone points at them, and the least score of one."""
MAX_TRIED = 2_000
"""The N best are searched for these."""
COVERED = 0.3
"""What better ones cover by more of its pixels is not offered."""
SHOWN_SIDE = 4096
"""Most pixels of a side of the image that the page shows; masks have the size of the file."""
JPEG_QUALITY = 92


@dataclass(frozen=True)
class OwnMasks:
    """Masks that a network made by itself, where it does not choose among nodes.

    Attributes:
        rles: M of the size of the image.
        small: (M, h, w) bool on the size the trees live on.
        scores: (M,) in [0, 1].
        labels: (M,) places of their classes.
    """

    rles: Sequence[Mapping[str, Any]]
    small: NDArray[np.bool_]
    scores: Floats
    labels: Integers


@dataclass(frozen=True)
class OpenImage:
    """What can be clicked on an image: items, N nodes of trees and then M masks of a network.

    Attributes:
        size: (height, width) of the image in pixels.
        found: Its trees, on a smaller or larger size.
        candidates: N nodes; their scores are the model's.
        own: M masks; none where the model chooses among the nodes.
        jpeg: The image, for the page.
    """

    size: tuple[int, int]
    found: Hierarchies
    candidates: Candidates
    own: OwnMasks
    jpeg: bytes

    def __len__(self) -> int:
        return len(self.candidates) + len(self.own.rles)

    @cached_property
    def scores(self) -> Floats:
        """(N + M,) scores of the items in [0, 1]."""
        return np.concatenate((self.candidates.scores, self.own.scores))

    def pixels(self, item: int) -> Integers:
        """Flat indices of an item's pixels, on the size the trees live on."""
        if item >= len(self.candidates):
            return np.flatnonzero(self.own.small[item - len(self.candidates)])
        tree = self.found.trees[int(self.candidates.trees[item])]
        return tree.pixels_of(int(self.candidates.nodes[item]))

    def mask(self, items: Sequence[int]) -> NDArray[np.bool_]:
        """(H, W) bool: what items cover together, on the size of the image.

        Raises:
            DataError: If there is no such item.
        """
        for item in items:
            if not 0 <= item < len(self):
                raise DataError(f"wanted an item from 0 to {len(self) - 1}, got {item}")
        small = np.zeros(self.found.size, dtype=np.float32)
        for item in items:
            if item < len(self.candidates):
                small.ravel()[self.pixels(item)] = 1
        whole = self.enlarged(small)
        for item in items:
            if item >= len(self.candidates):
                whole |= decode_mask(self.own.rles[item - len(self.candidates)])
        return whole

    def enlarged(self, soft: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(H, W) bool of a (h, w) soft mask in [0, 1]; its outline is interpolated."""
        rows, columns = self._weights
        whole = resized_masks(torch.from_numpy(soft)[None], rows, columns, 0.5, inclusive=True)
        mask: NDArray[np.bool_] = whole[0].numpy()
        return mask

    def reduced(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(h, w) bool on the size the trees live on, of a mask of the image."""
        small: NDArray[np.bool_] = resize_masks(mask[None], self.found.size)[0]
        return small

    @cached_property
    def steepness(self) -> NDArray[np.float32]:
        """(h, w) gradient that cuts follow."""
        return gradients(self.found.lab)[0]

    @cached_property
    def _weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = (
            linear_weights(own, padded=own, cropped=own, target=target)
            for own, target in zip(self.found.size, self.size, strict=True)
        )
        return rows, columns

    @cached_property
    def offered(self) -> Integers:
        """Items that hardly overlap, best first."""
        taken = np.zeros(self.found.size[0] * self.found.size[1], dtype=np.bool_)
        chosen: list[int] = []
        for item in np.argsort(-self.scores, kind="stable")[:MAX_TRIED].tolist():
            if len(chosen) == MAX_OFFERED or self.scores[item] < MIN_OFFERED:
                break
            pixels = self.pixels(item)
            if len(pixels) and taken[pixels].mean() <= COVERED:
                taken[pixels] = True
                chosen.append(item)
        return np.array(chosen, dtype=np.int64)

    def packed(self) -> bytes:
        """What the page finds items with: a header of JSON, and arrays of 32-bit numbers."""
        trees = self.found.trees
        leaves = trees[0].partition.labels if trees else np.zeros(self.found.size, dtype=np.int32)
        count = trees[0].count if trees else 1
        ranks = np.zeros((len(trees), count), dtype=np.uint32)
        for tree, rank in zip(trees, ranks, strict=True):
            # The leaves of the other trees are unions of the first one's.
            rank[leaves.ravel()] = tree.spans[0][tree.partition.labels.ravel()]
        spans = np.zeros((2, len(self.candidates)), dtype=np.uint32)
        for number, tree in enumerate(trees):
            own = np.flatnonzero(self.candidates.trees == number)
            spans[:, own] = tree.spans[:, self.candidates.nodes[own]]
        runs = [_runs(mask) for mask in self.own.small]
        arrays = {
            "leaves": leaves.astype("<u4"),
            "ranks": ranks.astype("<u4"),
            "trees": self.candidates.trees.astype("<u4"),
            "firsts": spans[0].astype("<u4"),
            "lasts": spans[1].astype("<u4"),
            "areas": self.candidates.areas.astype("<u4"),
            "boxes": self.candidates.boxes.astype("<u4"),
            "scores": self.scores.astype("<f4"),
            "offered": self.offered.astype("<u4"),
            "ends": np.cumsum([0, *map(len, runs)]).astype("<u4"),
            "runs": np.concatenate([np.zeros((0, 2)), *runs]).astype("<u4"),
            "labels": self.own.labels.astype("<u4"),
        }
        lengths = {name: int(array.size) for name, array in arrays.items()}
        sizes = {"size": self.found.size, "imageSize": self.size, "treeCount": len(trees)}
        head = {**sizes, "lengths": lengths}
        text = json.dumps(head).encode("ascii")
        text += b" " * (-len(text) % 4)
        start = np.array([len(text)], dtype="<u4").tobytes()
        return b"".join([start, text, *(array.tobytes() for array in arrays.values())])


def _runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(R, 2) first and one past the last flat index of the runs of a mask, row by row."""
    edges = np.flatnonzero(np.diff(mask.ravel().astype(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2)


def open_image(image: ImageRef, segmenter: Segmenter) -> OpenImage:
    """Reads an image and finds what can be clicked on it.

    Args:
        image: The file.
        segmenter: The model; one that chooses among regions scores the nodes; others, and one that
            learned from labels add their own masks.

    Raises:
        DataError: If it cannot be read.
    """
    pixels = read_image(image.path, reading=image.reading)
    size = (pixels.shape[0], pixels.shape[1])
    found, candidates = region_candidates(pixels, most=MAX_CANDIDATES)
    if len(candidates) > 0:
        candidates = segmenter.rescored(pixels, size, found, candidates)
    own = OwnMasks([], np.zeros((0, *found.size), dtype=np.bool_), np.zeros(0), np.zeros(0, int))
    # A judge finds regions on trees of its own too.
    if segmenter.config.inference.masks == "network" or segmenter.judge is not None:
        made = segmenter(pixels, size)
        masks = made.masks.cpu().numpy()
        own = OwnMasks(
            rles=encode_masks(masks),
            small=resize_masks(masks, found.size),
            scores=made.scores.cpu().numpy().astype(np.float64),
            labels=np.zeros(len(made), int) if made.labels is None else made.labels.cpu().numpy(),
        )
    jpeg = jpeg_bytes(thumbnail(pixels, SHOWN_SIDE), JPEG_QUALITY)
    return OpenImage(size, found, candidates, own, jpeg)
