"""Decoded images kept in memory, as many as a budget allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from soloist.data.images import read_image, resized_size
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.runtime.files import shown


class ImageCache:
    """Decodes images at a bounded size and remembers them until its memory is full.

    Args:
        images: The images, addressed by their index.
        short_side: Larger images are reduced to this short side when they are decoded, in pixels.
        max_side: Upper bound of the long side, in pixels.
        budget_bytes: Memory for decoded images.
        sizes: (height, width) that each image had when it was labelled; one whose proportions
            are others now is unreadable. None takes any.
    """

    def __init__(
        self,
        images: Sequence[ImageRef],
        *,
        short_side: int,
        max_side: int,
        budget_bytes: float,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self._images = images
        self._sizes = sizes
        self._short_side = short_side
        self._max_side = max_side
        self._free = budget_bytes
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        """(3, H, W) uint8 RGB of one image.

        Raises:
            DataError: If the image cannot be read, or is another one than was labelled.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image = self._images[index]
        pixels = read_image(image.path, reading=image.reading)
        size = (pixels.shape[0], pixels.shape[1])
        if self._sizes is not None:
            _check_proportions(image, size, self._sizes[index])
        wanted = resized_size(size, self._short_side, self._max_side)
        if wanted < size:
            resized = Image.fromarray(pixels).resize(wanted[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(resized)
        decoded = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        if decoded.numel() <= self._free:
            self._free -= decoded.numel()
            self._kept[index] = decoded
        return decoded

    def readable(self, index: int) -> tuple[int, Tensor, list[tuple[str, str]]]:
        """The image at an index, or the next one that can be read.

        Returns:
            The index that was read, its (3, H, W) uint8 pixels, and (name, reason) of each image
            passed over.

        Raises:
            DataError: If no image at all can be read.
        """
        failures: list[tuple[str, str]] = []
        for offset in range(len(self)):
            candidate = (index + offset) % len(self)
            try:
                return candidate, self[candidate], failures
            except DataError as error:
                failures.append((self._images[candidate].name, str(error)))
        raise DataError(f"none of the {len(self)} images can be read; first: {failures[0][1]}")


def _check_proportions(image: ImageRef, size: tuple[int, int], labelled: tuple[int, int]) -> None:
    """Refuses masks of another image."""
    if not are_proportional(size, labelled):
        raise DataError(
            f"{shown(image.path)} is {size[0]} x {size[1]} (height x width), its masks are for "
            f"{labelled[0]} x {labelled[1]}: it was changed; make its masks again"
        )


def are_proportional(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one (height, width) may be that of a copy of the other, resized to whole pixels."""
    (height, width), (other_height, other_width) = size, other
    return abs(height * other_width - width * other_height) <= other_height + other_width
