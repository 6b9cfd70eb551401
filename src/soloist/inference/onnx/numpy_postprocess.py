"""From the raw outputs of an exported network to objects: `postprocess` in NumPy, without torch.

Each function does what the one of the same purpose in `postprocess` and `ops` does, for one image;
the tests hold them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from soloist.config import InferenceConfig
from soloist.inference.onnx.numpy_resize import Floats, linear_weights, resize
from soloist.ops.parts import largest_components_of_arrays
from soloist.ops.vectors import unit_vectors
from soloist.structures import Instances

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

_MASK_STRIDE = 4
"""Stride of the mask features."""
_CHUNK = 64
"""Candidates whose soft masks are held at a time."""
_PIXELS_PER_CHUNK = 2**22
"""Float pixels resized at a time."""


@dataclass(frozen=True)
class RawOutputs:
    """What the exported network gives for one image.

    Attributes:
        scores: (A, K) float32 in [0, 1], 0 where point NMS dropped the cell.
        kernels: (A, D) float32 weights of the 1x1 dynamic convolution.
        embeddings: (A, E) float32, not normalised.
        mask_features: (D, h, w) float32 at stride 4 of the padded input.
    """

    scores: Floats
    kernels: Floats
    embeddings: Floats
    mask_features: Floats


def cell_strides(grids: Sequence[int], strides: Sequence[int]) -> Floats:
    """(A,) stride in pixels of the level each cell belongs to."""
    cells = [grid * grid for grid in grids]
    return np.repeat(np.array(strides, dtype=np.float32), cells)


def select_objects(
    raw: RawOutputs,
    strides: Floats,
    *,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    config: InferenceConfig,
) -> Instances[NDArray[Any], Bools]:
    """Objects of one image, as `postprocess.select_instances` finds them.

    Args:
        raw: Outputs of the exported network.
        strides: (A,) stride of each cell's level, in pixels.
        input_size: (height, width) of the image in the network, before padding, in pixels.
        original_size: (height, width) of the masks to make, in pixels.
        config: Thresholds and limits; whose embeddings they are (`compat`) the network decided.

    Returns:
        At most `config.max_per_image` objects, best first; none of them is empty.
    """
    eligible = (raw.scores > config.category_threshold) & (raw.scores >= config.score_threshold)
    cells, labels = np.nonzero(eligible)
    kernels = raw.kernels[cells]
    masks, areas, confidences = _masks_of(kernels, raw.mask_features, config.mask_threshold)
    scores = raw.scores[cells, labels] * confidences
    large = areas > strides[cells]
    best = _best_first(scores, large & (scores >= config.score_threshold))
    best = best[: config.max_before_nms]
    decayed = _suppressed(masks[best], scores[best], labels[best], config)
    kept = _best_first(decayed, decayed >= config.score_threshold)[: config.max_per_image]
    best = best[kept]
    masks = _full_size_masks(
        kernels[best], raw.mask_features, input_size, original_size, config.mask_threshold
    )
    if config.largest_part:
        masks = largest_components_of_arrays(masks)
    objects = Instances(
        image_size=original_size,
        masks=masks,
        scores=decayed[kept],
        boxes=(_extent_boxes if config.compat == "released" else _tight_boxes)(masks),
        embeddings=unit_vectors(raw.embeddings[cells[best]]),
        labels=labels[best] if raw.scores.shape[1] > 1 else None,
    )
    # A thin mask can vanish when the image is smaller than the mask features.
    return objects.filter(objects.boxes[:, 2] > 0)


def _best_first(scores: Floats, keep: Bools) -> Integers:
    """Indices of the scores to keep, descending; ties keep their order."""
    indices = np.flatnonzero(keep)
    return indices[np.argsort(-scores[indices], kind="stable")]


def _soft_masks(kernels: Floats, mask_features: Floats) -> Floats:
    """Dynamic 1x1 convolution of (D, h, w) with (N, D): (N, h, w) in [0, 1]."""
    logits = kernels @ mask_features.reshape(len(mask_features), -1)
    # Far below 0 the exponential is infinite, and the quotient 0 as it should be.
    with np.errstate(over="ignore"):
        soft: Floats = 1 / (1 + np.exp(-logits))
    return soft.reshape(-1, *mask_features.shape[1:])


def _masks_of(
    kernels: Floats, mask_features: Floats, threshold: float
) -> tuple[Bools, Floats, Floats]:
    """Masks (N, h, w) of candidates with their areas (N,) and maskness (N,), in chunks."""
    n = len(kernels)
    masks = np.zeros((n, *mask_features.shape[1:]), dtype=np.bool_)
    areas, confidences = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
    for start in range(0, n, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        soft_masks = _soft_masks(kernels[chunk], mask_features)
        masks[chunk] = soft_masks > threshold
        areas[chunk] = masks[chunk].sum(axis=(1, 2))
        inside = (soft_masks * masks[chunk]).sum(axis=(1, 2))
        confidences[chunk] = inside / np.maximum(areas[chunk], 1)
    return masks, areas, confidences


def _suppressed(masks: Bools, scores: Floats, labels: Integers, config: InferenceConfig) -> Floats:
    """Scores (N,) lowered for duplicates by Matrix NMS; by mask NMS kept, or -inf if dropped.

    Masks come best first and compete within their label.
    """
    if len(masks) == 0:
        return scores
    rivals = labels[:, None] == labels
    if config.nms == "mask":
        kept = _mask_nms(masks, (_overlaps(masks) > config.nms_threshold) & rivals)
        return np.where(kept, scores, np.float32(-np.inf))
    # Of each mask with the better ones alone, which come before it.
    overlaps = np.where(np.triu(rivals, k=1), _overlaps(masks), 0)
    decay = _decay(overlaps, config.nms_kernel, config.nms_sigma).min(axis=0)
    lowered: Floats = (scores * decay).astype(np.float32)
    return lowered


def _mask_nms(masks: Bools, suppresses: Bools) -> Bools:
    """(N,) bool: masks that no better kept one suppresses; empty ones are not kept."""
    kept: Bools = np.logical_or.reduce(masks, axis=(1, 2))
    for rank in range(len(kept)):
        if kept[rank]:
            kept[rank + 1 :] &= ~suppresses[rank, rank + 1 :]
    return kept


def _decay(overlaps: Floats, kernel: Literal["gaussian", "linear"], sigma: float) -> Floats:
    """f(overlap) / f(compensation) of each mask (columns) with each better one (rows)."""
    compensation = overlaps.max(axis=0)[:, None]
    if kernel == "gaussian":
        decay: Floats = np.exp(-sigma * (overlaps**2 - compensation**2))
    else:
        remaining = 1 - compensation
        decay = np.where(remaining > 0, (1 - overlaps) / np.maximum(remaining, 1e-12), 1)
    return decay


def _overlaps(masks: Bools) -> Floats:
    """(N, N) float32 intersection over union; 0 between two empty masks."""
    rows = masks.reshape(len(masks), -1).astype(np.float32)
    intersections = rows @ rows.T
    areas = rows.sum(axis=1)
    unions = areas[:, None] + areas - intersections
    overlaps: Floats = intersections / np.maximum(unions, 1)
    return overlaps


def _full_size_masks(
    kernels: Floats,
    mask_features: Floats,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    threshold: float,
) -> Bools:
    """Masks (N, H, W) at the original size, in chunks."""
    row_weights, column_weights = (
        linear_weights(side, padded=side * _MASK_STRIDE, cropped=cropped, target=target)
        for side, cropped, target in zip(
            mask_features.shape[1:], input_size, original_size, strict=True
        )
    )
    masks = np.zeros((len(kernels), *original_size), dtype=np.bool_)
    step = max(1, _PIXELS_PER_CHUNK // (original_size[0] * original_size[1]))
    for start in range(0, len(kernels), step):
        chunk = slice(start, start + step)
        soft_masks = _soft_masks(kernels[chunk], mask_features)
        masks[chunk] = resize(soft_masks, row_weights, column_weights) > threshold
    return masks


def _tight_boxes(masks: Bools) -> Floats:
    """(N, 4) float32 xyxy pixels, exclusive end; zeros for an empty mask."""
    rows, columns = _occupied(masks)
    top, bottom = _span(rows)
    left, right = _span(columns)
    return np.stack((left, top, right, bottom), axis=1).astype(np.float32)


def _occupied(masks: Bools) -> tuple[Bools, Bools]:
    """Which rows (N, H) and which columns (N, W) hold foreground."""
    rows: Bools = np.logical_or.reduce(masks, axis=2)
    columns: Bools = np.logical_or.reduce(masks, axis=1)
    return rows, columns


def _span(flags: Bools) -> tuple[Integers, Integers]:
    """First set index and one past the last of each row of (N, L); 0 and 0 where none is."""
    some = flags.any(axis=1)
    end = flags.shape[1] - flags[:, ::-1].argmax(axis=1)
    return flags.argmax(axis=1), np.where(some, end, 0)


def _extent_boxes(masks: Bools) -> Floats:
    """(N, 4) boxes of the released code; see `ops.masks.extent_boxes`."""
    centers, sizes = [], []
    for flags in _occupied(masks)[::-1]:  # x, then y
        counts = flags.sum(axis=1)
        centers.append((flags * np.arange(flags.shape[1])).sum(axis=1) / np.maximum(counts, 1))
        sizes.append(counts)
    center, half = np.stack(centers, axis=1), np.stack(sizes, axis=1) / 2
    return np.concatenate((center - half, center + half), axis=1).astype(np.float32)
