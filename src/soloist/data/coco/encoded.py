"""Masks of large images, kept as run lengths.

A bool a pixel for each mask is what small images can afford: of 6000 x 6000 pixels a hundred
masks would take 3.6 GB. Run lengths grow with the outline of an object alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.rle import decode_mask, encode_masks, mask_area
from soloist.structures import Instances

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EncodedMasks:
    """Masks of one image; `masks[k]` decodes the k-th of them.

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

    @overload
    def __getitem__(self, chosen: int) -> NDArray[np.bool_]: ...

    @overload
    def __getitem__(self, chosen: Tensor | NDArray[Any] | Sequence[int]) -> Self: ...

    def __getitem__(
        self, chosen: int | Tensor | NDArray[Any] | Sequence[int]
    ) -> NDArray[np.bool_] | Self:
        """(H, W) bool of one mask; or some of the masks, by (N,) bools or (K,) indices."""
        if isinstance(chosen, int | np.integer):
            return decode_mask(self.rles[chosen])
        places = np.arange(len(self))[np.asarray(chosen)].tolist()
        return replace(self, rles=tuple(self.rles[place] for place in places))

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (decode_mask(rle) for rle in self.rles)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """(N, H, W) bool: all of them decoded at once."""
        decoded = np.zeros(self.shape, dtype=np.bool_)
        for row, mask in zip(decoded, self, strict=True):
            row[:] = mask
        return decoded if dtype is None else decoded.astype(dtype)

    def largest_first(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Place and (H, W) bool of each mask, one decoded at a time."""
        areas = [mask_area(rle) for rle in self.rles]
        for index in sorted(range(len(areas)), key=lambda place: -areas[place]):
            yield index, self[index]


def encoded(found: Instances[Tensor, Any]) -> Instances[Tensor, EncodedMasks]:
    """The same objects on the processor, their masks encoded."""
    found = found.cpu()
    if isinstance(found.masks, EncodedMasks):
        return found
    return replace(found, masks=EncodedMasks.of(found.masks))
