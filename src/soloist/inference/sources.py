"""What is segmented: files that are found, and images in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.config import ReadingConfig
from soloist.data.images import is_pixels, own_pixels
from soloist.data.sources import ImageRef, find_images
from soloist.errors import DataError

Source = Any
"""What is segmented: what `find_images` takes (paths, patterns, https addresses); an image in
memory, as `own_pixels` takes it; or several of these in a list, or in one tensor or array."""


def each_source(source: Source, reading: ReadingConfig) -> Iterator[ImageRef | NDArray[np.uint8]]:
    """The images of a source one by one: files to be read, and (H, W, 3) uint8 RGB pixels.

    Raises:
        DataError: If a source does not exist, or is nothing that can be segmented.
    """
    several = is_pixels(source) and getattr(source, "ndim", 0) == 4
    if is_pixels(source) and not several:
        # A copy: a result outlives what the caller does with the array.
        yield own_pixels(source, reading)
        return
    if isinstance(source, str | Path):
        yield from find_images(source, reading)
        return
    if not isinstance(source, Iterable) and not several:
        raise DataError(
            "wanted a path, pattern, https address, array, tensor, Pillow image or a list of "
            f"these, got {type(source).__name__}"
        )
    sources = list(source)
    if any(map(is_pixels, sources)):
        for one in sources:
            yield from each_source(one, reading)
        return
    yield from find_images(sources, reading)
