"""DenseCL: contrastive learning of global and of dense features (Wang et al., CVPR 2021).

Two crops of an image go through a query encoder and a slowly following key encoder. Each encoder
gives one vector per image and one per cell of a feature map; each query vector must find its key
among the negatives of a queue. The key of a cell is the cell of the other crop whose backbone
feature is most similar.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soloist.models.backbones import Backbone


class Projections(NamedTuple):
    """What an encoder gives for a batch of crops.

    Attributes:
        image: (B, E) unit vectors, one per crop.
        cells: (B, E, M) unit vectors, one per cell of the dense level.
        features: (B, C, M) unit backbone features of the same cells.
    """

    image: Tensor
    cells: Tensor
    features: Tensor


class DenseCLEncoder(nn.Module):
    """A backbone with a global and a dense projection head."""

    def __init__(
        self, backbone: Backbone, *, dense_stride: int, hidden_size: int, projection_size: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dense_level = backbone.level(dense_stride)
        top, dense = backbone.channels[-1], backbone.channels[self.dense_level]
        self.global_head = nn.Sequential(
            nn.Linear(top, hidden_size), nn.ReLU(), nn.Linear(hidden_size, projection_size)
        )
        self.dense_head = nn.Sequential(
            nn.Conv2d(dense, hidden_size, 1), nn.ReLU(), nn.Conv2d(hidden_size, projection_size, 1)
        )

    def forward(self, images: Tensor) -> Projections:
        """Projects normalised crops (B, 3, H, W)."""
        features = self.backbone(images)
        dense = features[self.dense_level]
        return Projections(
            image=F.normalize(self.global_head(features[-1].mean(dim=(2, 3))).float(), dim=1),
            cells=F.normalize(self.dense_head(dense).flatten(2).float(), dim=1),
            features=F.normalize(dense.flatten(2).float(), dim=1),
        )


class DenseCL(nn.Module):
    """The query and key encoders and their queues.

    Args:
        encoder: The query encoder; the key encoder starts as its copy.
        queue_size: Negatives of each loss.
        temperature: Of both InfoNCE losses.
        dense_weight: Share of the dense loss in the total.
        norm_groups: The key batch is shuffled and normalised in this many groups: with one
            process, batch statistics would otherwise tell which key belongs to which query.
        gather_rows: Joins the (B, ...) rows of all processes that share a batch, without gradient.
        rank: Number of this process among them.
        processes: How many they are. Keys are shuffled and encoded across them, in `norm_groups`
            groups, but at least one on each, and all enter the queues of all.
    """

    image_queue: Tensor
    cell_queue: Tensor
    queue_position: Tensor

    def __init__(
        self,
        encoder: DenseCLEncoder,
        *,
        projection_size: int,
        queue_size: int,
        temperature: float,
        dense_weight: float,
        norm_groups: int,
        gather_rows: Callable[[Tensor], Tensor] = lambda rows: rows,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__()
        self.query_encoder = encoder
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.temperature = temperature
        self.dense_weight = dense_weight
        self.norm_groups = max(1, norm_groups // processes)
        self._gather_rows = gather_rows
        self._rank = rank
        self._processes = processes
        for name in ("image_queue", "cell_queue"):
            queue = F.normalize(torch.randn(queue_size, projection_size), dim=1)
            self.register_buffer(name, queue)
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.int64))

    def forward(self, query_images: Tensor, key_images: Tensor, order: Tensor) -> dict[str, Tensor]:
        """Losses of a batch of crop pairs; the keys then enter the queues.

        Args:
            query_images: (B, 3, H, W) normalised crops.
            key_images: (B, 3, H, W) the other crops of the same images.
            order: (processes * B,) int64 permutation the keys of all processes are shuffled with.

        Returns:
            Scalars `loss_global` and `loss_dense`, weighted, and `metric_accuracy`: the share of
            images whose own key is nearer than every negative.
        """
        query = self.query_encoder(query_images)
        with torch.no_grad():
            keys = self._encode_keys(key_images, order)
            key = Projections(*(self._own(field) for field in keys))
            match = match_cells(query.features, key.features)  # (B, M)
            positives = key.cells.gather(2, match[:, None].expand_as(key.cells))  # (B, E, M)
        image_logits = self._logits(query.image, key.image, self.image_queue)
        cells = query.cells.transpose(1, 2).flatten(0, 1)  # (B * M, E)
        matched = positives.transpose(1, 2).flatten(0, 1)  # (B * M, E)
        loss_dense = info_nce(self._logits(cells, matched, self.cell_queue))
        losses = {
            "loss_global": (1 - self.dense_weight) * info_nce(image_logits),
            "loss_dense": self.dense_weight * loss_dense,
            "metric_accuracy": (image_logits.argmax(dim=1) == 0).float().mean(),
        }
        self._enqueue(keys.image, F.normalize(keys.cells.mean(dim=2), dim=1))
        return losses

    @torch.no_grad()
    def update_key_encoder(self, momentum: float) -> None:
        """Moves the key encoder towards the query encoder."""
        pairs = zip(self.key_encoder.parameters(), self.query_encoder.parameters(), strict=True)
        for key, query in pairs:
            key.lerp_(query, 1 - momentum)

    def _encode_keys(self, images: Tensor, order: Tensor) -> Projections:
        """Projections of the keys of all processes, of which each encodes a part of the shuffle."""
        shuffled = self._gather_rows(images)[self._own(order)]
        parts = [self.key_encoder(group) for group in shuffled.chunk(self.norm_groups)]
        back = torch.argsort(order)
        fields = (torch.cat(field) for field in zip(*parts, strict=True))
        return Projections(*(self._gather_rows(field)[back] for field in fields))

    def _own(self, rows: Tensor) -> Tensor:
        """This process's (B, ...) of (processes * B, ...) rows."""
        return rows.chunk(self._processes)[self._rank]

    def _logits(self, queries: Tensor, positives: Tensor, queue: Tensor) -> Tensor:
        """(N, 1 + queue) similarities over temperature, the positive first."""
        positive = (queries * positives).sum(dim=1, keepdim=True)
        negative = queries @ queue.clone().T
        return torch.cat([positive, negative], dim=1).float() / self.temperature

    def _enqueue(self, image: Tensor, cells: Tensor) -> None:
        # The position stays a tensor so that no device is synchronised.
        size = len(self.image_queue)
        slots = (self.queue_position + torch.arange(len(image), device=image.device)) % size
        self.image_queue[slots] = image
        self.cell_queue[slots] = cells
        self.queue_position.add_(len(image)).remainder_(size)


def info_nce(logits: Tensor) -> Tensor:
    """Mean cross entropy of (N, 1 + K) logits whose positive stands first."""
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def match_cells(query_features: Tensor, key_features: Tensor) -> Tensor:
    """For each query cell, the key cell of the most similar backbone feature.

    Args:
        query_features: (B, C, M) unit vectors.
        key_features: (B, C, M) unit vectors.

    Returns:
        (B, M) int64 indices of key cells.
    """
    return (query_features.transpose(1, 2) @ key_features).argmax(dim=2)
