"""What is segmented: files that are found, and images in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.config import ReadingConfig
from soloist.data.images import is_pixels, own_pixels
from soloist.data.sources import ImageRef, find_images, told_apart
from soloist.errors import DataError

Source = Any
"""What is segmented: what `find_images` takes (paths, patterns, https addresses); an image in
memory, as `own_pixels` takes it; or several of these in a list, or in one tensor or array."""


@dataclass(frozen=True)
class ImageInMemory:
    """An image that is no file.

    Attributes:
        name: `image`; of several in one source `image-1`, `image-2` and so on, in their order.
        pixels: (H, W, 3) uint8 RGB.
    """

    name: str
    pixels: NDArray[np.uint8]


def each_source(source: Source, reading: ReadingConfig) -> Iterator[ImageRef | ImageInMemory]:
    """The images of a source one by one: files to be read, and images in memory.

    Names differ from each other, unless the source has one file twice.

    Raises:
        DataError: If a source does not exist, or is nothing that can be segmented.
    """
    found = _found(source, reading)
    in_memory = sum(not isinstance(one, ImageRef) for one in found)
    number = 0
    for one in found:
        if isinstance(one, ImageRef):
            yield one
            continue
        number += 1
        name = "image" if in_memory == 1 else f"image-{number}"
        # A copy: a result outlives what the caller does with the array.
        yield ImageInMemory(name, own_pixels(one, reading))


def _found(source: Source, reading: ReadingConfig) -> list[Any]:
    """Files as `ImageRef`, and images in memory as they were given."""
    several = is_pixels(source) and getattr(source, "ndim", 0) == 4
    if is_pixels(source) and not several:
        return [source]
    if isinstance(source, str | Path):
        return list(find_images(source, reading))
    if not isinstance(source, Iterable) and not several:
        raise DataError(
            "wanted a path, pattern, https address, array, tensor, Pillow image or a list of "
            f"these, got {type(source).__name__}"
        )
    sources = list(source)
    if not any(map(is_pixels, sources)):
        return list(find_images(sources, reading))
    found = [one for part in sources for one in _found(part, reading)]
    files = iter(told_apart([one for one in found if isinstance(one, ImageRef)]))
    return [next(files) if isinstance(one, ImageRef) else one for one in found]
