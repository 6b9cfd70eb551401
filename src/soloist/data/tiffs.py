"""TIFFs with more than Pillow reads: many channels, colour of 16 bits, stacks of microscopes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from soloist.errors import DataError
from soloist.runtime.files import shown

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BYTES_PER_PIXEL = 64
"""Largest file read: N bytes for each pixel that an image may have."""
_ORIENTATION = 274


def is_tiff(path: str | Path) -> bool:
    """Whether a file begins like a TIFF of any size."""
    with Path(path).open("rb") as file:
        return file.read(4) in _MAGIC


def tiff_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the first image, upright.

    Raises:
        ValueError: If it has none.
    """
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        height, width = _size(series)
        return (width, height) if _orientation(series) >= 5 else (height, width)


def read_tiff(path: str | Path, *, max_pixels: int) -> tuple[NDArray[Any], bool]:
    """The first image of a file, upright, with all its channels.

    Of times, depths and pages the first is read; the channels of ImageJ and OME files, planes and
    samples are channels here.

    Args:
        path: The file.
        max_pixels: Larger images are refused.

    Returns:
        values: (H, W, C) of the file's type.
        colour: The first three channels are red, green and blue.

    Raises:
        DataError: If it is too large, or needs a decoder that is not installed.
        ValueError: If it has no image. Damaged files raise much else.
    """
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        height, width = _size(series)
        size = math.prod(series.shape) * series.dtype.itemsize
        if height * width > max_pixels or size > max_pixels * _BYTES_PER_PIXEL:
            raise DataError(
                f"wanted an image of at most {max_pixels} pixels, got {shown(path)} of {width} x "
                f"{height} and {size} bytes; raise --max-pixels if you trust the file"
            )
        try:
            values = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise DataError(
                f"cannot read image {shown(path)}: its compression needs imagecodecs; "
                "pip install imagecodecs"
            ) from error
        values = _channels_last(values, series.axes)
        colour = series.keyframe.photometric == tifffile.PHOTOMETRIC.RGB
        return _upright(values, _orientation(series)), colour


def _size(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    if "Y" not in sizes or "X" not in sizes or 0 in series.shape:
        raise ValueError(f"it has no image, but axes {series.axes} of {series.shape}")
    return sizes["Y"], sizes["X"]


def _channels_last(values: NDArray[Any], axes: str) -> NDArray[Any]:
    """(H, W, C) of the first of all other axes."""
    for axis in axes:
        if axis not in "YXSC":
            values = np.take(values, 0, axis=axes.index(axis))
            axes = axes.replace(axis, "", 1)
    order = [axes.index(axis) for axis in ("Y", "X", "C", "S") if axis in axes]
    values = values.transpose(order)
    return values.reshape(*values.shape[:2], -1)


def _orientation(series: tifffile.TiffPageSeries) -> int:
    tag = series.keyframe.tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undoes an EXIF orientation: 5 to 8 swap rows and columns, the others mirror."""
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values
