"""Mask proposals from hierarchies of regions: the nodes that look most like objects.

Not the paper's: Free Mask's maps are a sixteenth of the image or coarser, so its outlines are
blunt and small objects are missed. Regions of a hierarchy follow the edges of the image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soloist.config import RegionConfig
from soloist.data.coco.encoded import EncodedMasks
from soloist.data.coco.rle import encode_part
from soloist.ops.features import unit_embeddings, unit_features
from soloist.ops.resize import Resizing, Window, linear_weights
from soloist.proposals.hierarchy import Hierarchies
from soloist.proposals.judge import Judge
from soloist.proposals.likeness import LEAST_HELD, doubting_pairs, ranked
from soloist.proposals.partition import Floats, Integers
from soloist.proposals.ranking import Candidates, doubting_groups, without_overlaps
from soloist.proposals.scale import image_hierarchies
from soloist.structures import Instances

logger = logging.getLogger(__name__)


POOL_THRESHOLD = 0.8
"""Nodes of one tree that overlap (IoU) by more are one candidate; chosen on `photos/dev`."""
MAX_BYTES = 2**29
"""What the masks of one image may take; more of them than fit are left out, the worst first."""


def region_masks(
    pixels: NDArray[np.uint8],
    features: Tensor,
    image_size: tuple[int, int],
    config: RegionConfig | None = None,
    judge: Judge | None = None,
) -> Instances:
    """Objects of one image as nodes of its hierarchies.

    Args:
        pixels: (H', W', 3) uint8 RGB of any size.
        features: (C, h, w) float feature map of the whole image.
        image_size: (height, width) of the masks to make, in pixels.
        config: Options; None is the default.
        judge: What finds and orders the nodes, if it was learned from labels.

    Returns:
        At most `config.max_masks` instances, best first: scores in [0, 1] are those of
        `likeness.ranked` or the judge's, embeddings the (E,) unit mean features interpolated
        over channels, labels those of a judge of several classes.

    Raises:
        ValueError: If a shape is wrong or a feature is not finite.
    """
    config = config or RegionConfig()
    regions = undrawn_regions(pixels, _cells(features), image_size, config, judge)
    return drawn(regions).described(features, config.embedding_size)


def encoded_regions(
    pixels: NDArray[np.uint8],
    cells: tuple[int, int],
    image_size: tuple[int, int],
    config: RegionConfig | None = None,
    judge: Judge | None = None,
) -> Regions[EncodedMasks]:
    """What of `region_masks` needs no features; its masks are run lengths, so that all fit.

    Args:
        pixels: As for `region_masks`.
        cells: (h, w) of the feature map that is to describe them.
        image_size: As for `region_masks`.
        config: As for `region_masks`.
        judge: As for `region_masks`.

    Raises:
        ValueError: If a shape is wrong.
    """
    return drawn_as_run_lengths(undrawn_regions(pixels, cells, image_size, config, judge))


def undrawn_regions(
    pixels: NDArray[np.uint8],
    cells: tuple[int, int],
    image_size: tuple[int, int],
    config: RegionConfig | None = None,
    judge: Judge | None = None,
) -> Regions[NodeMasks]:
    """The same before their masks are drawn, so that none is drawn of those that are left out.

    Args:
        pixels: As for `region_masks`.
        cells: (h, w) of the feature map that is to describe them.
        image_size: As for `region_masks`.
        config: As for `region_masks`.
        judge: As for `region_masks`.
    """
    found, candidates = chosen_nodes(pixels, image_size, config or RegionConfig(), judge)
    counts, whole = cell_counts(found, candidates, cells)
    return Regions(
        NodeMasks(found, candidates, image_size),
        candidates.scores,
        candidates.boxes.astype(np.float32),
        None if judge is None else judge.classes(found, candidates, image_size),
        counts,
        whole.reshape(cells),
        candidates.evidence,
    )


def drawn(regions: Regions[NodeMasks]) -> Regions[Tensor]:
    """Regions with their masks, (N, H, W) bool, as many as `MAX_BYTES` hold."""
    height, width = regions.masks.size
    fitting = max(1, MAX_BYTES // (height * width))
    if len(regions.scores) > fitting:
        logger.warning(
            "%d regions found, the best %d kept: masks of %d x %d pixels would take too much "
            "memory; use --tile for images of this size",
            len(regions.scores),
            fitting,
            height,
            width,
        )
        regions = regions.filter(np.arange(fitting))
    masks, boxes = candidate_masks(regions.masks.found, regions.masks.candidates, (height, width))
    return _with_masks(regions, masks, boxes.numpy())


def drawn_as_run_lengths(regions: Regions[NodeMasks]) -> Regions[EncodedMasks]:
    """Regions with their masks as run lengths."""
    size = regions.masks.size
    parts = list(_parts(regions.masks.found, regions.masks.candidates, size))
    masks = EncodedMasks(tuple(encode_part(*part, size) for part in parts), size)
    return _with_masks(
        regions, masks, np.array([_box(*part) for part in parts], dtype=np.float32).reshape(-1, 4)
    )


def _with_masks(
    regions: Regions[NodeMasks], masks: Any, boxes: NDArray[np.float32]
) -> Regions[Any]:
    """Regions whose masks have a pixel: small nodes may vanish where masks are reduced."""
    undrawn: Regions[Any] = regions
    made = replace(undrawn, masks=masks, boxes=boxes)
    filled = np.flatnonzero(boxes[:, 2] > boxes[:, 0])
    return made if len(filled) == len(boxes) else made.filter(filled)


@dataclass(frozen=True)
class NodeMasks:
    """Masks of an image that are not drawn yet; `masks[keep]` are some of them.

    Attributes:
        found: The trees of the image.
        candidates: N of their nodes.
        size: (height, width) of the masks, in pixels.
    """

    found: Hierarchies
    candidates: Candidates
    size: tuple[int, int]

    def __getitem__(self, keep: Integers) -> NodeMasks:
        return replace(self, candidates=self.candidates.filter(keep))


Masks = TypeVar("Masks", Tensor, EncodedMasks, NodeMasks)


@dataclass(frozen=True)
class Regions(Generic[Masks]):
    """Regions of an image before features describe them, best first.

    Attributes:
        masks: N of the size of the image; drawn ones have a pixel at least.
        scores: (N,) in [0, 1].
        boxes: (N, 4) float32 xyxy, tight; until masks are drawn, of the size the trees live on.
        labels: (N,) classes; None where all are one.
        counts: (N, h * w) float32 pixels of each region, of the size the trees live on, in each
            cell of the feature map.
        pixels: (h, w) float32 pixels of the image, of that size, in each of these cells.
        evidence: As of `Candidates`.
        agreements: (N, V) float32, as of `Instances`; None where they were not asked for.
    """

    masks: Masks
    scores: Floats
    boxes: NDArray[np.float32]
    labels: Integers | None
    counts: NDArray[np.float32]
    pixels: NDArray[np.float32]
    evidence: float
    agreements: NDArray[np.float32] | None = None

    def filter(self, keep: Integers) -> Regions[Masks]:
        """Those of (K,) indices, in that order."""
        some: dict[str, Any] = {
            name: None if (own := getattr(self, name)) is None else own[keep]
            for name in ("masks", "scores", "boxes", "labels", "counts", "agreements")
        }
        return replace(self, **some)

    def described(self, features: Tensor, embedding_size: int) -> Instances[Tensor, Masks]:
        """Regions with drawn masks as objects, with unit mean features as embeddings.

        Args:
            features: (C, h, w) float feature map of the whole image.
            embedding_size: Features are interpolated over channels to this many values.

        Raises:
            ValueError: If a feature is not finite or the shape is wrong.
        """
        cells = unit_features(features).flatten(1).T
        sums = torch.from_numpy(self.counts).to(features.device) @ cells
        masks: Any = self.masks
        labels = None if self.labels is None else torch.from_numpy(self.labels)
        agreements = None if self.agreements is None else torch.from_numpy(self.agreements)
        return Instances(
            image_size=(masks.shape[1], masks.shape[2]),
            masks=masks.to(features.device) if hasattr(masks, "to") else masks,
            scores=torch.from_numpy(self.scores).float().to(features.device),
            boxes=torch.from_numpy(self.boxes).to(features.device),
            embeddings=unit_embeddings(sums, embedding_size),
            labels=None if labels is None else labels.to(features.device),
            agreements=agreements,
        )


def _cells(features: Tensor) -> tuple[int, int]:
    """(h, w) of a (C, h, w) feature map.

    Raises:
        ValueError: If it is none.
    """
    height, width = unit_features(features).shape[1:]
    return (height, width)


def chosen_nodes(
    pixels: NDArray[np.uint8],
    image_size: tuple[int, int],
    config: RegionConfig,
    judge: Judge | None,
) -> tuple[Hierarchies, Candidates]:
    """The trees of an image, and the nodes that are its masks, best first."""
    most = 2 * config.max_masks
    if judge is None:
        least = min(config.score_threshold, LEAST_HELD)
        found, candidates = region_candidates(pixels, most=most, score_threshold=least)
        candidates = doubting_pairs(candidates)
        candidates = without_overlaps(candidates, config.nms_threshold, within_trees=True)
    else:
        found, candidates = judge.candidates(image_hierarchies(pixels), image_size, most)
    candidates = doubting_groups(candidates)
    candidates = candidates.filter(candidates.scores >= config.score_threshold)
    return found, candidates.filter(np.arange(min(len(candidates), config.max_masks)))


def region_candidates(
    pixels: NDArray[np.uint8],
    *,
    most: int,
    nms_threshold: float = POOL_THRESHOLD,
    score_threshold: float = 0.0,
) -> tuple[Hierarchies, Candidates]:
    """The hierarchies of an image, and the nodes that look most like objects.

    Args:
        pixels: (H', W', 3) uint8 RGB of any size.
        most: How many nodes.
        nms_threshold: A node that overlaps a better one of its tree (IoU) by more is left out.
        score_threshold: So is one of a lower score.

    Returns:
        The trees, and at most `most` of their nodes, best first.

    Raises:
        ValueError: If the shape or type is wrong.
    """
    found = image_hierarchies(pixels)
    return found, ranked(found, most, nms_threshold, score_threshold)


def candidate_masks(
    found: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Masks of candidates at the size of an image; outlines are interpolated.

    Returns:
        (N, H, W) bool, and their tight (N, 4) float32 xyxy boxes.
    """
    masks = np.zeros((len(candidates), *image_size), dtype=np.bool_)
    boxes = np.zeros((len(candidates), 4), dtype=np.float32)
    for place, (part, corner) in enumerate(_parts(found, candidates, image_size)):
        left, top, right, bottom = boxes[place] = _box(part, corner)
        masks[place, top:bottom, left:right] = part
    return torch.from_numpy(masks), torch.from_numpy(boxes)


def _parts(
    found: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
) -> Iterator[tuple[NDArray[np.bool_], tuple[int, int]]]:
    """The tight part of each of the masks of candidates, and its (top, left) corner."""
    rows, columns = (
        linear_weights(own, padded=own, cropped=own, target=target).numpy()
        for own, target in zip(found.size, image_size, strict=True)
    )
    resizing = Resizing(rows, columns)
    for place, box in enumerate(candidates.boxes.astype(np.int64).tolist()):
        inputs, outputs = resizing.reach(box)
        part = _inside(found, candidates, place, inputs)
        if found.size != image_size:
            part = resizing(part.astype(np.float32), inputs, outputs) >= 0.5
        across, down = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
        if len(across) == 0:
            yield part[:0, :0], (0, 0)
            continue
        tight = part[across[0] : across[-1] + 1, down[0] : down[-1] + 1]
        yield tight, (outputs[0].start + int(across[0]), outputs[1].start + int(down[0]))


def _box(part: NDArray[np.bool_], corner: tuple[int, int]) -> tuple[int, int, int, int]:
    """The xyxy box of a part of an image."""
    return (corner[1], corner[0], corner[1] + part.shape[1], corner[0] + part.shape[0])


def _inside(
    found: Hierarchies, candidates: Candidates, place: int, window: Window
) -> NDArray[np.bool_]:
    """(h, w) bool: where one candidate is in a window of the size the trees live on."""
    tree = found.trees[int(candidates.trees[place])]
    return tree.inside(int(candidates.nodes[place]), window)


def cell_counts(
    found: Hierarchies, candidates: Candidates, cells: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pixels, of the size the trees live on, in each cell of an (h, w) feature map of the image.

    Returns:
        (N, h * w) of the candidates, and (h * w,) of the whole image.
    """
    rows, columns = (
        np.arange(pixels) * count // pixels for pixels, count in zip(found.size, cells, strict=True)
    )
    cell_of = rows[:, None] * cells[1] + columns
    whole = np.bincount(cell_of.ravel(), minlength=cells[0] * cells[1]).astype(np.float32)
    counts = np.zeros((len(candidates), len(whole)), dtype=np.float32)
    for place, box in enumerate(candidates.boxes.astype(np.int64).tolist()):
        window = slice(box[1], box[3]), slice(box[0], box[2])
        inside = _inside(found, candidates, place, window)
        counts[place] = np.bincount(cell_of[window][inside], minlength=len(whole))
    return counts, whole
