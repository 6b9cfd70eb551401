"""Types that pass between the stages; no computation beyond indexing."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Instances:
    """Objects of one image; parallel fields move together through `filter`.

    Attributes:
        image_size: (height, width) of the image the masks belong to, in pixels.
        masks: (N, H, W) bool.
        scores: (N,) float32 in [0, 1], descending unless stated otherwise.
        boxes: (N, 4) float32 xyxy pixels, exclusive end, tight around the masks.
        embeddings: (N, E) float32 semantic embeddings.
        labels: (N,) int64 class of each object in [0, K); None where all are one class.
        agreements: (N, V) float32 in [0, 1]: the best overlap of each mask with those found in
            each of V other views of the image; None where none were looked at.
    """

    image_size: tuple[int, int]
    masks: Tensor
    scores: Tensor
    boxes: Tensor
    embeddings: Tensor
    labels: Tensor | None = None
    agreements: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        wanted = {
            "masks": (n, *self.image_size),
            "scores": (n,),
            "boxes": (n, 4),
            "embeddings": (n, self.embeddings.shape[-1]),
        }
        if self.labels is not None:
            wanted["labels"] = (n,)
        for name, shape in wanted.items():
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ValueError(f"Instances.{name} must be {shape}, got {got}")
        if self.agreements is not None and len(self.agreements) != n:
            raise ValueError(f"Instances.agreements must have {n} rows")

    def __len__(self) -> int:
        return len(self.scores)

    def filter(self, keep: Tensor) -> Self:
        """The instances chosen by a (N,) bool mask or by (K,) int64 indices, in that order."""
        moved: dict[str, Any] = {
            field.name: value[keep]
            for field in fields(Instances)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def top_k(self, k: int) -> Self:
        """The k instances of highest score, best first; ties keep their order."""
        return self.filter(torch.argsort(self.scores, descending=True, stable=True)[:k])

    @classmethod
    def empty(cls, image_size: tuple[int, int], embedding_size: int = 128) -> Self:
        """No objects: every field has its shape with N = 0."""
        return cls(
            image_size=image_size,
            masks=torch.zeros((0, *image_size), dtype=torch.bool),
            scores=torch.zeros(0),
            boxes=torch.zeros((0, 4)),
            embeddings=torch.zeros((0, embedding_size)),
        )


@dataclass(frozen=True)
class SOLOOutputs:
    """Raw outputs of the network, the same in training and inference.

    Attributes:
        category_logits: One (B, K, S, S) float per level, K classes (1: objectness).
        kernels: One (B, D, S, S) float per level: weights of the 1x1 dynamic convolution.
        semantic_embeddings: One (B, E, S, S) float per level, not normalised.
        mask_features: (B, D, H/4, W/4) float.
    """

    category_logits: tuple[Tensor, ...]
    kernels: tuple[Tensor, ...]
    semantic_embeddings: tuple[Tensor, ...]
    mask_features: Tensor


@dataclass(frozen=True)
class LevelTargets:
    """Targets of one image on one level of side S.

    Attributes:
        category: (S, S) int64 class of each cell; K (the number of classes) is background.
        cells: (P,) int64 positive cells, row * S + column; instances may share a cell.
        instances: (P,) int64 which instance each positive cell learns.
    """

    category: Tensor
    cells: Tensor
    instances: Tensor


GridTargets = tuple[LevelTargets, ...]
"""Targets of one image, finest level first."""
