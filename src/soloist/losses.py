"""Losses of self-supervised SOLO (paper section 3.3): pure functions, and the sum of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from soloist.config import LossConfig
from soloist.ops.pairwise import PairWeights, pair_disagreement, pair_weights
from soloist.structures import GridTargets, SOLOOutputs

DICE_EPSILON = 1e-5
"""Keeps the dice of two empty masks finite (released)."""


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Binary cross-entropy that easy examples hardly count in (RetinaNet, equation 5).

    Args:
        logits: float of any shape.
        targets: 0 or 1, same shape.
        alpha: Weight of positives; negatives get 1 - alpha.
        gamma: Focusing exponent.

    Returns:
        float32 >= 0, same shape.
    """
    logits, targets = logits.float(), targets.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    mistake = torch.sigmoid(logits * (1 - 2 * targets))  # 1 - p_t, exact near 0
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * mistake**gamma * cross_entropy


def dice_coefficient(values: Tensor, targets: Tensor) -> Tensor:
    """Overlap 2 * sum(x y) / (sum(x^2) + sum(y^2)) of each row.

    Args:
        values: (N, M) float in [0, 1].
        targets: (N, M) float or bool in [0, 1].

    Returns:
        (N,) float32 in [0, 1]; 0 where both are all zero.
    """
    values, targets = values.float(), targets.float()
    products = (values * targets).sum(dim=1)
    return 2 * products / (values.square().sum(1) + targets.square().sum(1) + DICE_EPSILON)


def dice_loss(values: Tensor, targets: Tensor) -> Tensor:
    """One minus `dice_coefficient`: (N, M) and (N, M) to (N,) float32 in [0, 1]."""
    return 1 - dice_coefficient(values, targets)


class Projections(NamedTuple):
    """A mask seen along each axis.

    Attributes:
        columns: (N, W) float, one value per column (reduced over the rows).
        rows: (N, H) float, one value per row (reduced over the columns).
    """

    columns: Tensor
    rows: Tensor


def max_projections(masks: Tensor) -> Projections:
    """Maxima of (N, H, W) float or bool masks along each axis."""
    return Projections(masks.amax(dim=1), masks.amax(dim=2))


def mean_projections(masks: Tensor) -> Projections:
    """Means of (N, H, W) float or bool masks along each axis, float32."""
    masks = masks.float()
    return Projections(masks.mean(dim=1), masks.mean(dim=2))


def projection_loss(predicted: Projections, target: Projections) -> Tensor:
    """Dice loss of the column values plus that of the row values (paper section 3.3).

    Args:
        predicted: Projections of N soft masks, values in [0, 1].
        target: Projections of their N targets by the same function.

    Returns:
        (N,) float32 in [0, 2].
    """
    return dice_loss(predicted.columns, target.columns) + dice_loss(predicted.rows, target.rows)


def full_mask_dice(soft_masks: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of whole masks: the ablation that imitates coarse masks pixel by pixel.

    Args:
        soft_masks: (N, H, W) float in [0, 1].
        targets: (N, H, W) bool.

    Returns:
        (N,) float32 in [0, 1].
    """
    return dice_loss(soft_masks.flatten(1), targets.flatten(1))


def semantic_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """One minus the cosine of each predicted embedding and that of its free mask (section 3.3).

    Args:
        embeddings: (P, E) float, not normalised.
        targets: (P, E) float, not normalised.

    Returns:
        (P,) float32 in [0, 2].
    """
    return 1 - F.cosine_similarity(embeddings.float(), targets.float(), dim=1)


def pairwise_affinity_loss(logits: Tensor, instances: Tensor, weights: PairWeights) -> Tensor:
    """Asks neighbours of alike colour for equal labels (paper section 3.3; BoxInst).

    Args:
        logits: (P, H, W) float mask logits.
        instances: (P,) int64 instance each mask learns.
        weights: Of the N instances of the image.

    Returns:
        (P,) float32 >= 0: -log(probability of equal labels), summed over the weighted pairs of
        each mask; divide by the sum of the weights.
    """
    return pair_disagreement(logits, weights).gather(1, instances[:, None])[:, 0]


class _Positives(NamedTuple):
    """The positive cells of a batch, ordered by image, then level, then as in the targets.

    Attributes:
        counts: Positive cells of each image.
        levels: (P,) int64 level of each cell.
        instances: (P,) int64 instance, numbered within its image.
        by_level: For each level, the (P_l,) int64 numbers image * S * S + cell.
        order: (P,) int64 that brings values concatenated over by_level into this order.
    """

    counts: list[int]
    levels: Tensor
    instances: Tensor
    by_level: list[Tensor]
    order: Tensor

    @classmethod
    def collect(cls, targets: Sequence[GridTargets]) -> _Positives:
        by_level, images = [], []
        for level in zip(*targets, strict=True):
            area = level[0].category.numel()
            by_level.append(torch.cat([t.cells + i * area for i, t in enumerate(level)]))
            images.append(by_level[-1] // area)
        levels = torch.cat([torch.full_like(cells, i) for i, cells in enumerate(by_level)])
        order = torch.argsort(torch.cat(images), stable=True)
        return cls(
            counts=[sum(len(level.cells) for level in image) for image in targets],
            levels=levels[order],
            instances=torch.cat([level.instances for image in targets for level in image]),
            by_level=by_level,
            order=order,
        )

    def per_image(self) -> tuple[Tensor, ...]:
        """Instances learned by the positive cells of each image, (P_b,) int64 each."""
        return _split(self.instances, self.counts)

    def gather(self, maps: Sequence[Tensor]) -> Tensor:
        """(P, C) values at the positive cells of one (B, C, S, S) map per level."""
        rows = [
            # (B, C, S, S) -> (B * S * S, C): a view where the map is channels last.
            level.permute(0, 2, 3, 1).reshape(-1, level.shape[1]).index_select(0, cells)
            for level, cells in zip(maps, self.by_level, strict=True)
        ]
        return torch.cat(rows)[self.order]

    def level_mean(
        self,
        terms: Tensor,
        weights: Tensor,
        *,
        num_levels: int,
        sum_over_ranks: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Sum of (P,) terms over sum of (P,) weights in each level, averaged over used levels."""
        zeros = weights.new_zeros(num_levels)
        sums = torch.zeros_like(zeros).index_add(0, self.levels, terms)
        totals = zeros.index_add(0, self.levels, weights)
        # `bincount` would wait for the device.
        counts = zeros.index_add(0, self.levels, torch.ones_like(weights))
        totals, counts = sum_over_ranks(torch.stack([totals, counts])).unbind()
        return (sums / totals.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


class FreeSOLOCriterion:
    """The weighted losses of a batch.

    Args:
        config: Weights and constants of the terms.
        sum_over_ranks: Sums counts over the processes that share a batch, without gradient.
        processes: How many share it. Each gives the losses of its images over the counts of all,
            times this number, so that their mean is the loss of the whole batch.
    """

    def __init__(
        self,
        config: LossConfig | None = None,
        *,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda counts: counts,
        processes: int = 1,
    ) -> None:
        self.config = config or LossConfig()
        self._sum_over_ranks = sum_over_ranks
        self._processes = processes

    def __call__(
        self,
        outputs: SOLOOutputs,
        targets: Sequence[GridTargets],
        masks: Sequence[Tensor],
        embeddings: Sequence[Tensor],
        color_similarity: Tensor,
        step: int,
    ) -> dict[str, Tensor]:
        """Compares the network's outputs with the targets of B images.

        The terms of a mask are averaged over the positive cells of a level in all images, then
        over the levels that have any; the affinity term is a mean over the pixel pairs of a
        level instead. Without a positive cell they are zeros tied to the graph.

        Args:
            outputs: Of the network, in the dtype it ran in.
            targets: One GridTargets per image.
            masks: One (N_b, h, w) bool per image at the size of the mask features.
            embeddings: One (N_b, E) float per image: what each instance's cells should say.
            color_similarity: (B, 8, h, w) float in [0, 1], see `ops.affinity.color_similarity`.
            step: Optimiser steps taken before this one; drives the warm-up of the affinity term.

        Returns:
            Weighted float32 scalars `loss_category`, `loss_semantic`, and those of
            `loss_max_projection`, `loss_avg_projection`, `loss_pairwise_affinity` and
            `loss_full_mask_dice` whose weight is above 0. Their sum is the objective.
        """
        config = self.config
        positives = _Positives.collect(targets)
        # Autocast would round the sums below.
        with torch.autocast(outputs.mask_features.device.type, enabled=False):
            losses = {
                "loss_category": config.category * self._category_loss(outputs, targets),
                "loss_semantic": config.semantic
                * self._semantic_loss(outputs, positives, embeddings),
            }
            warmup = min((step + 1) / max(config.pairwise_warmup_steps, 1), 1.0)
            scales = {
                "max_projection": config.max_projection,
                "avg_projection": config.avg_projection,
                "pairwise_affinity": config.pairwise_affinity * warmup,
                "full_mask_dice": config.full_mask_dice,
            }
            terms = self._mask_terms(outputs, positives, masks, color_similarity)
            for name, (sums, counts) in terms.items():
                mean = positives.level_mean(
                    sums,
                    counts,
                    num_levels=len(outputs.kernels),
                    sum_over_ranks=self._sum_over_ranks,
                )
                losses[f"loss_{name}"] = scales[name] * mean
        return {name: self._processes * loss for name, loss in losses.items()}

    def _category_loss(self, outputs: SOLOOutputs, targets: Sequence[GridTargets]) -> Tensor:
        """Focal loss summed over all cells, over one more than the number of positive cells."""
        total = outputs.mask_features.new_zeros((), dtype=torch.float32)
        num_positives = torch.zeros_like(total)
        for level, logits in enumerate(outputs.category_logits):
            category = torch.stack([image[level].category for image in targets])  # (B, S, S)
            classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
            wanted = category[:, None] == classes  # (B, K, S, S)
            total = total + sigmoid_focal_loss(logits, wanted).sum()
            num_positives += wanted.sum()
        return total / (self._sum_over_ranks(num_positives) + 1)

    def _semantic_loss(
        self, outputs: SOLOOutputs, positives: _Positives, embeddings: Sequence[Tensor]
    ) -> Tensor:
        """Mean over all positive cells; zero without any."""
        predicted = positives.gather(outputs.semantic_embeddings)  # (P, E)
        wanted = [e[i] for e, i in zip(embeddings, positives.per_image(), strict=True)]
        terms = semantic_loss(predicted, torch.cat(wanted))
        return terms.sum() / self._sum_over_ranks(torch.ones_like(terms).sum()).clamp(min=1)

    def _mask_terms(
        self,
        outputs: SOLOOutputs,
        positives: _Positives,
        masks: Sequence[Tensor],
        color_similarity: Tensor,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums and weights, both (P,), of each mask term: image by image, which fits the cache."""
        kernels = _split(positives.gather(outputs.kernels), positives.counts)
        images = []
        for rows, features, targets, instances, similarity in zip(
            kernels,
            outputs.mask_features,
            masks,
            positives.per_image(),
            color_similarity,
            strict=True,
        ):
            # The dynamic convolution, in the dtype of the kernels: (P, D) x (D, h * w).
            product = rows @ features.to(rows.dtype).flatten(1)
            logits = product.float().unflatten(1, features.shape[1:])  # (P, h, w)
            images.append(self._terms_of_image(logits, targets, instances, similarity))
        return {
            name: (
                torch.cat([image[name][0] for image in images]),
                torch.cat([image[name][1] for image in images]),
            )
            for name in images[0]
        }

    def _terms_of_image(
        self,
        logits: Tensor,
        targets: Tensor,
        instances: Tensor,
        color_similarity: Tensor,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums and weights of the mask terms of P masks, given the N instances of one image.

        A term of weight 0 is left out.
        """
        soft_masks = logits.sigmoid()
        ones = torch.ones_like(logits[:, 0, 0])
        terms: dict[str, tuple[Tensor, Tensor]] = {}
        if self.config.max_projection > 0:
            # The sigmoid grows with the logit, so it may follow the maximum.
            highest = Projections(*(values.sigmoid() for values in max_projections(logits)))
            wanted = Projections(*(values[instances] for values in max_projections(targets)))
            terms["max_projection"] = (projection_loss(highest, wanted), ones)
        if self.config.avg_projection > 0:
            wanted = Projections(*(values[instances] for values in mean_projections(targets)))
            terms["avg_projection"] = (
                projection_loss(mean_projections(soft_masks), wanted),
                ones,
            )
        if self.config.pairwise_affinity > 0:
            pairs = pair_weights(targets, color_similarity, threshold=self.config.color_threshold)
            terms["pairwise_affinity"] = (
                pairwise_affinity_loss(logits, instances, pairs),
                pairs.totals[instances],
            )
        if self.config.full_mask_dice > 0:
            terms["full_mask_dice"] = (full_mask_dice(soft_masks, targets[instances]), ones)
        return terms


def _split(values: Tensor, counts: list[int]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.split(values, counts)
    return parts
