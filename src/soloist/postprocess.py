"""From the raw outputs of the network to instances (paper section 3.3, SOLOv2 section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from soloist.config import InferenceConfig
from soloist.config.checks import Compat
from soloist.ops.masks import extent_boxes, mask_areas, masks_to_boxes, mean_inside
from soloist.ops.nms import mask_nms, matrix_nms, point_nms
from soloist.ops.parts import largest_component
from soloist.ops.resize import linear_weights, resized_masks
from soloist.structures import Instances, SOLOOutputs

_MASK_STRIDE = 4
"""Stride of the mask features."""
_FINER = 2
"""Side of a cell over that of a pixel of the masks in it."""
_CHUNK = 128
"""Candidates whose soft masks are held at a time: a product reads all mask features, so that a
few masks cost almost as much as many."""


@dataclass(frozen=True)
class Candidates:
    """The cells of all levels of one image.

    Attributes:
        scores: (A, K) float in [0, 1], 0 where point NMS dropped the cell.
        kernels: (A, D) float weights of the 1x1 dynamic convolution.
        embeddings: (A, E) float, not normalised.
        strides: (A,) float stride of the cell's level, in pixels.
    """

    scores: Tensor
    kernels: Tensor
    embeddings: Tensor
    strides: Tensor


def postprocess(
    outputs: SOLOOutputs,
    *,
    input_sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    config: InferenceConfig,
    strides: Sequence[int],
) -> list[Instances]:
    """Instances of each image of a batch.

    Args:
        outputs: Raw outputs of the network for B images.
        input_sizes: (height, width) of each image in the batch, before padding, in pixels.
        original_sizes: (height, width) of each image's masks to make, in pixels.
        config: Thresholds and limits.
        strides: Stride of each level, in pixels.

    Returns:
        One `Instances` per image, best first: scores are objectness times maskness after the
        suppression of duplicates, embeddings are unit vectors. With several classes (K > 1) each
        is scored by itself, masks compete within their class only, and labels say which it is.

    Raises:
        ValueError: If there is not one size per image and one stride per level.
    """
    batch, levels = len(outputs.mask_features), len(outputs.category_logits)
    if not len(input_sizes) == len(original_sizes) == batch or len(strides) != levels:
        raise ValueError(
            f"wanted {batch} input sizes, {batch} original sizes and {levels} strides, got "
            f"{len(input_sizes)}, {len(original_sizes)} and {len(strides)}"
        )
    scores, kernels, embeddings = flat_candidates(outputs, config.compat)
    cell_strides = torch.cat(
        [
            scores.new_full((level.shape[2] * level.shape[3],), stride)
            for level, stride in zip(outputs.category_logits, strides, strict=True)
        ]
    )
    return [
        select_instances(
            Candidates(scores[i], kernels[i], embeddings[i], cell_strides),
            outputs.mask_features[i],
            input_size=input_sizes[i],
            original_size=original_sizes[i],
            config=config,
        )
        for i in range(batch)
    ]


@dataclass(frozen=True)
class CellMasks:
    """What a network sees in the cells of a feature map: coarse masks with duplicates.

    Attributes:
        shares: (M, h * w) float32 share of each cell that a mask covers.
        scores: (M,) float32 in [0, 1], objectness times maskness.
        labels: (M,) int64 class of each mask; None where all are one class.
    """

    shares: Tensor
    scores: Tensor
    labels: Tensor | None


def cell_masks(
    outputs: SOLOOutputs,
    *,
    input_size: tuple[int, int],
    cells: tuple[int, int],
    config: InferenceConfig,
) -> CellMasks:
    """Coarse masks of one image, with duplicates, for a small part of what good ones cost.

    Args:
        outputs: Raw outputs of the network for one image.
        input_size: (height, width) of the image in the network, before padding, in pixels.
        cells: (h, w) of the feature map.
        config: Thresholds; those of NMS and of sizes have no part in it.
    """
    scores, kernels, _ = flat_candidates(outputs, config.compat)
    which, labels = (scores[0] > config.category_threshold).nonzero(as_tuple=True)
    height, width = (max(1, round(side / _MASK_STRIDE)) for side in input_size)
    features = outputs.mask_features[0, :, :height, :width].float()
    fine = (_FINER * cells[0], _FINER * cells[1])
    features = functional.adaptive_avg_pool2d(features, fine)
    soft = _SoftMasks(kernels[0, which].float(), features)
    masks, _, confidences = _masks_of(soft, config.mask_threshold)
    return CellMasks(
        functional.adaptive_avg_pool2d(masks.float(), cells).flatten(1),
        scores[0, which, labels].float() * confidences,
        labels if scores.shape[2] > 1 else None,
    )


def flat_candidates(outputs: SOLOOutputs, compat: Compat) -> tuple[Tensor, Tensor, Tensor]:
    """The cells of all levels one after another, row by row; an exported network ends here.

    Args:
        outputs: Raw outputs of the network for B images.
        compat: `released` scrambles the embeddings.

    Returns:
        Scores (B, A, K) float32 in [0, 1], 0 where point NMS dropped the cell, kernels (B, A, D)
        and embeddings (B, A, E).
    """
    scores = [point_nms(logits.float().sigmoid()) for logits in outputs.category_logits]
    flatten = _scrambled_cells if compat == "released" else _flat_cells
    return (
        _flat_cells(scores),
        _flat_cells(outputs.kernels),
        flatten(outputs.semantic_embeddings),
    )


def select_instances(
    candidates: Candidates,
    mask_features: Tensor,
    *,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    config: InferenceConfig,
) -> Instances:
    """Instances of one image: dynamic convolution, maskness, NMS, masks at full size.

    Args:
        candidates: The A cells of the image.
        mask_features: (D, h, w) float at stride 4 of the padded input.
        input_size: (height, width) of the image in the network, before padding, in pixels.
        original_size: (height, width) of the masks to make, in pixels.
        config: Thresholds and limits.

    Returns:
        At most `config.max_per_image` instances, best first; none of them is empty.
    """
    # Half precision would reorder masks, whatever the caller runs its network in.
    with torch.no_grad(), torch.autocast(mask_features.device.type, enabled=False):
        mask_features = mask_features.float()
        # Later steps only lower a score, and a mask decays none above it: what lies under the final
        # threshold already can be left out.
        eligible = (candidates.scores > config.category_threshold) & (
            candidates.scores >= config.score_threshold
        )
        cells, labels = eligible.nonzero(as_tuple=True)
        kernels = candidates.kernels[cells].float()
        soft_masks = _SoftMasks(kernels, mask_features)
        masks, areas, confidences = _masks_of(soft_masks, config.mask_threshold)
        scores = candidates.scores[cells, labels].float() * confidences
        large = areas > candidates.strides[cells]
        best = _best_first(scores, large & (scores >= config.score_threshold))
        best = best[: config.max_before_nms]
        decayed = _suppressed(masks[best], scores[best], labels[best], config)
        kept = _best_first(decayed, decayed >= config.score_threshold)[: config.max_per_image]
        best, scores = best[kept], decayed[kept]
        masks = _full_size_masks(soft_masks, best, input_size, original_size, config.mask_threshold)
        if config.largest_part:
            masks = largest_component(masks)
        instances = Instances(
            image_size=original_size,
            masks=masks,
            scores=scores,
            boxes=(extent_boxes if config.compat == "released" else masks_to_boxes)(masks),
            embeddings=functional.normalize(candidates.embeddings[cells[best]].float(), dim=1),
            labels=labels[best] if candidates.scores.shape[1] > 1 else None,
        )
        # A thin mask can vanish when the image is smaller than the mask features.
        return instances.filter(instances.boxes[:, 2] > 0)


def _flat_cells(levels: Sequence[Tensor]) -> Tensor:
    """(B, A, C) of one (B, C, S, S) per level; cells row-major, levels one after another."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


def _scrambled_cells(levels: Sequence[Tensor]) -> Tensor:
    """`_flat_cells` as the released code has it: the axes are not moved before they are joined.

    Each row holds C neighbouring values of the level, channels first, so of other cells.
    """
    return torch.cat(
        [
            level.reshape(level.shape[0], level.shape[2] * level.shape[3], level.shape[1])
            for level in levels
        ],
        dim=1,
    )


def _suppressed(masks: Tensor, scores: Tensor, labels: Tensor, config: InferenceConfig) -> Tensor:
    """Scores (N,) lowered for duplicates by Matrix NMS; by mask NMS kept, or -inf if dropped."""
    if config.nms == "mask":
        kept = mask_nms(masks, scores, labels, config.nms_threshold)
        return torch.where(kept, scores, -torch.inf)
    return matrix_nms(masks, scores, labels, config.nms_kernel, config.nms_sigma)


def _best_first(scores: Tensor, keep: Tensor) -> Tensor:
    """Indices of the scores to keep, descending; ties keep their order."""
    indices = keep.nonzero()[:, 0]
    return indices[torch.argsort(scores[indices], descending=True, stable=True)]


class _SoftMasks:
    """Soft masks of candidates, made when they are read; few are kept.

    Args:
        kernels: (N, D) float32.
        mask_features: (D, h, w) float32.
    """

    def __init__(self, kernels: Tensor, mask_features: Tensor) -> None:
        self.count = len(kernels)
        self.size = (mask_features.shape[1], mask_features.shape[2])
        self._kernels, self._features = kernels, mask_features.flatten(1)
        self._kept = self._made(kernels) if self.count <= _CHUNK else None

    def __getitem__(self, which: Tensor | slice) -> Tensor:
        """(n, h, w) in [0, 1] of some candidates."""
        if self._kept is not None:
            return self._kept[which]
        return self._made(self._kernels[which])

    def _made(self, kernels: Tensor) -> Tensor:
        """Dynamic 1x1 convolution."""
        return (kernels @ self._features).sigmoid_().view(-1, *self.size)


def _masks_of(soft_masks: _SoftMasks, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (N, h, w) bool of candidates with their areas (N,) and maskness (N,), in chunks."""
    chunks = []
    for start in range(0, max(1, soft_masks.count), _CHUNK):
        soft = soft_masks[start : start + _CHUNK]
        masks = soft > threshold
        chunks.append((masks, mask_areas(masks), mean_inside(soft, masks)))
    masks, areas, confidences = map(torch.cat, zip(*chunks, strict=True))
    return masks, areas, confidences


def _full_size_masks(
    soft_masks: _SoftMasks,
    which: Tensor,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    threshold: float,
) -> Tensor:
    """Masks (n, H, W) bool of some candidates at the original size, in chunks."""
    row_weights, column_weights = (
        linear_weights(side, padded=side * _MASK_STRIDE, cropped=cropped, target=target)
        for side, cropped, target in zip(soft_masks.size, input_size, original_size, strict=True)
    )
    masks = torch.zeros((len(which), *original_size), dtype=torch.bool, device=which.device)
    for start in range(0, len(which), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        soft = soft_masks[which[chunk]]
        masks[chunk] = resized_masks(soft, row_weights, column_weights, threshold)
    return masks
