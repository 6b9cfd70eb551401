"""Types that pass between the stages; no computation beyond indexing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic, Self

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeVar

    Rows = TypeVar("Rows", default=Tensor)
    Masks = TypeVar("Masks", default=Tensor)
else:
    from typing import TypeVar

    Rows = TypeVar("Rows")
    Masks = TypeVar("Masks")


@dataclass(frozen=True)
class Stored:
    """How an output of an object is kept in files.

    Attributes:
        key: Its key in an entry of COCO's `annotations`, and its column in shards.
        digits: Decimals that are written of a list of numbers; None for one integer.
    """

    key: str
    digits: int | None = None

    @property
    def is_integer(self) -> bool:
        """Each object has one integer instead of a list of numbers."""
        return self.digits is None


@dataclass(frozen=True)
class Instances(Generic[Rows, Masks]):
    """Objects of one image; parallel fields move together through `filter`.

    Masks and rows are tensors, unless its parameters say otherwise: of a large image the masks
    are run lengths (`data.coco.encoded.EncodedMasks`), without torch all is arrays.

    A field with a row an object is an output of it. What `metadata` says of one is enough for it to
    be written, read, drawn, chosen and pickled with the others; see `STORED`.

    Attributes:
        image_size: (height, width) of the image the masks belong to, in pixels.
        masks: (N, H, W) bool.
        scores: (N,) float32 in [0, 1], descending unless stated otherwise.
        boxes: (N, 4) float32 xyxy pixels, exclusive end, tight around the masks.
        embeddings: (N, E) float32 semantic embeddings.
        labels: (N,) int64 class of each object in [0, K); None where all are one class.
        agreements: (N, V) float32 in [0, 1]: the best overlap of each mask with those found in
            each of V other views of the image; None where none were looked at.
        track_ids: (N,) int64 identities in a video; None elsewhere.
    """

    image_size: tuple[int, int]
    masks: Masks
    scores: Rows
    boxes: Rows
    embeddings: Rows
    labels: Rows | None = None
    agreements: Rows | None = field(
        default=None, metadata={"stored": Stored("agreements", digits=4)}
    )
    track_ids: Rows | None = field(default=None, metadata={"stored": Stored("track_id")})

    def __post_init__(self) -> None:
        n = len(self)
        wanted: dict[str, tuple[int, ...]] = {"masks": (n, *self.image_size), "boxes": (n, 4)}
        wanted |= dict.fromkeys(("scores", "labels", "track_ids"), (n,))
        for name in self.present():
            got = tuple(getattr(self, name).shape)
            shape = wanted.get(name, (n, *got[-1:]))
            if got != shape:
                raise ValueError(f"Instances.{name} must be {shape}, got {got}")

    def __len__(self) -> int:
        scores: Any = self.scores
        return len(scores)

    def filter(self, keep: Any) -> Self:
        """The instances chosen by a (N,) bool mask or by (K,) int64 indices, in that order."""
        moved = {name: getattr(self, name)[keep] for name in self.present()}
        return replace(self, **moved)

    def present(self) -> list[str]:
        """The names of the outputs that there are."""
        return [name for name in OUTPUTS if getattr(self, name) is not None]

    def top_k(self, k: int) -> Self:
        """The k instances of highest score, best first; ties keep their order."""
        scores: Any = self.scores
        return self.filter(scores.argsort(descending=True, stable=True)[:k])

    def cpu(self) -> Self:
        """The same on the processor."""
        values = {name: getattr(self, name) for name in self.present()}
        moved = {name: value.cpu() for name, value in values.items() if hasattr(value, "cpu")}
        return replace(self, **moved)

    @classmethod
    def empty(cls, image_size: tuple[int, int], embedding_size: int = 128) -> Instances:
        """No objects: every field has its shape with N = 0."""
        # Files and exported networks are read without torch.
        import torch

        return Instances(
            image_size=image_size,
            masks=torch.zeros((0, *image_size), dtype=torch.bool),
            scores=torch.zeros(0),
            boxes=torch.zeros((0, 4)),
            embeddings=torch.zeros((0, embedding_size)),
        )


OUTPUTS = tuple(one.name for one in fields(Instances) if one.name != "image_size")
"""Fields of `Instances` with a row an object."""
STORED: Mapping[str, Stored] = {
    one.name: one.metadata["stored"] for one in fields(Instances) if "stored" in one.metadata
}
"""Outputs that files keep in entries of their own, beside those that every object has."""


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
