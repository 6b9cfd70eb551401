"""Masks of large pictures, kept as run lengths.

A bool a pixel for each mask is what small pictures can afford: of 6000 x 6000 pixels a hundred
masks would take 3.6 GB. Run lengths grow with the outline of an object alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.rle import decode_mask, encode_masks, mask_area

if TYPE_CHECKING:
    from torch import Tensor

    from soloist.structures import Instances


@dataclass(frozen=True)
class EncodedMasks:
    """Masks of one picture; `masks[k]` decodes the k-th of them.

    Attributes:
        rles: N checked, compressed masks.
        size: (height, width) of each, in pixels.
    """

    rles: tuple[dict[str, Any], ...]
    size: tuple[int, int]

    @classmethod
    def of(cls, masks: Tensor | NDArray[np.bool_]) -> Self:
        """Encodes (N, H, W) bool."""
        return cls(tuple(encode_masks(masks)), (masks.shape[1], masks.shape[2]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W), as of the array that would hold them."""
        return (len(self.rles), *self.size)

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        """(H, W) bool of one mask."""
        return decode_mask(self.rles[index])

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (decode_mask(rle) for rle in self.rles)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """(N, H, W) bool: all of them decoded at once."""
        decoded = np.zeros(self.shape, dtype=np.bool_)
        for row, mask in zip(decoded, self, strict=True):
            row[:] = mask
        return decoded if dtype is None else decoded.astype(dtype)

    def filter(self, indices: Sequence[int]) -> Self:
        """The masks at some places, in that order."""
        return replace(self, rles=tuple(self.rles[index] for index in indices))

    def largest_first(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Place and (H, W) bool of each mask, one decoded at a time."""
        areas = [mask_area(rle) for rle in self.rles]
        for index in sorted(range(len(areas)), key=lambda place: -areas[place]):
            yield index, self[index]


@dataclass(frozen=True)
class EncodedInstances:
    """Objects of one large picture: `Instances` whose masks stay compressed.

    Attributes:
        image_size: (height, width) in pixels.
        masks: N masks.
        scores: (N,) float32 in [0, 1], descending unless stated otherwise.
        boxes: (N, 4) float32 xyxy pixels, exclusive end, tight around the masks.
        embeddings: (N, E) float32 semantic embeddings.
        labels: (N,) int64 class of each object in [0, K); None where all are one class.
        agreements: As in `Instances`.
    """

    image_size: tuple[int, int]
    masks: EncodedMasks
    scores: Tensor
    boxes: Tensor
    embeddings: Tensor
    labels: Tensor | None = None
    agreements: Tensor | None = None

    @classmethod
    def of(cls, instances: Instances) -> Self:
        """The same objects, their masks encoded."""
        values = {field.name: getattr(instances, field.name) for field in fields(instances)}
        moved = {
            name: value.cpu() if hasattr(value, "cpu") else value for name, value in values.items()
        }
        return cls(**{**moved, "masks": EncodedMasks.of(instances.masks)})

    def __len__(self) -> int:
        return len(self.scores)

    def filter(self, keep: Tensor) -> Self:
        """The objects chosen by a (N,) bool mask or by (K,) int64 indices, in that order."""
        places = np.arange(len(self))[np.asarray(keep)].tolist()
        tensors = ("scores", "boxes", "embeddings", "labels", "agreements")
        moved: dict[str, Any] = {
            name: value[keep] for name in tensors if (value := getattr(self, name)) is not None
        }
        return replace(self, masks=self.masks.filter(places), **moved)
