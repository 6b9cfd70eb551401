"""PNG and TIFF files whose pixels are numbers of objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from soloist.data.coco.rle import encode_masks
from soloist.errors import DataError
from soloist.runtime.files import one_line, shown

# Modes whose pixels are one integer: grey of 8, 16 and 32 bits, palettes, bits.
_INDEX_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"}


def read_index_map(path: Path) -> NDArray[np.int64]:
    """The numbers in a file; a palette's colours are ignored.

    Returns:
        (H, W) int64.

    Raises:
        DataError: If the file cannot be read or has colours.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in _INDEX_MODES:
                raise DataError(
                    f"wanted numbers of objects as grey of 8 or 16 bits, got {shown(path)} with "
                    f"colours ({image.mode}); save one number a pixel"
                )
            return np.asarray(image).astype(np.int64)
    except FileNotFoundError as error:
        raise DataError(f"wanted a map of objects at {shown(path)}, got no such file") from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise DataError(
            f"wanted a map of objects, got {shown(path)}: {reason}; export it again"
        ) from error


def masks_of(numbers: NDArray[np.int64]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each number of a map, except 0, in rising order, with its mask as run lengths.

    Args:
        numbers: (H, W) int.

    Yields:
        number: It.
        rle: Its pixels.
    """
    for number in np.unique(numbers).tolist():
        if number != 0:
            yield number, encode_masks((numbers == number)[None])[0]
