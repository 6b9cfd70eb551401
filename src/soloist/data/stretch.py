"""Numbers of any type and number of channels as 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.config.reading import ReadingConfig

_BLOCK = 2**20
"""Values computed with at a time, as float64: a large image is never held as such."""
_MAX_SORTED = 2**22
"""Pixels that percentiles are taken of: every n-th of a larger image."""
_ROBUST = (0.1, 99.9)
"""Percentiles of `auto`, of all channels together: a hot pixel or a glare does not darken the
rest."""


def to_rgb8(
    values: NDArray[Any], reading: ReadingConfig, *, colour: bool = False
) -> NDArray[np.uint8]:
    """Chooses channels and stretches their values to 0..255.

    Args:
        values: (H, W, C) of any real type; what is not finite becomes black.
        reading: Channels and stretch.
        colour: The first three of four channels are red, green and blue.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        ValueError: If a channel is wanted that is not there, or none was chosen of too many.
    """
    chosen = values[..., list(_channels(values.shape[2], reading, colour=colour))]
    if reading.stretch == "none" or (reading.stretch == "auto" and chosen.dtype == np.uint8):
        grey = _whole_range(chosen)
    else:
        limits = _limits(chosen, reading)
        grey = np.stack(
            [_scaled(chosen[..., channel], *pair) for channel, pair in enumerate(limits)], axis=-1
        )
    return np.repeat(grey, 3, axis=-1) if grey.shape[2] == 1 else grey


def _channels(count: int, reading: ReadingConfig, *, colour: bool) -> tuple[int, ...]:
    if reading.channels:
        if max(reading.channels) >= count:
            raise ValueError(
                f"it has {count} channels, 0 to {count - 1}, wanted {max(reading.channels)}"
            )
        return reading.channels
    if count == 1:
        return (0,)
    if count == 3 or (colour and count == 4):
        return (0, 1, 2)
    raise ValueError(f"it has {count} channels; choose three or one, as by --channels 0 1 2")


def _whole_range(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Integers lose their last bits, as Pillow reads colour of 16 bits; floats end at 0 and 1."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(values.dtype, np.floating):
        return np.stack(
            [_scaled(values[..., channel], 0.0, 1.0) for channel in range(values.shape[2])], axis=-1
        )
    bits = int(np.iinfo(values.dtype).max).bit_length()
    positive = np.maximum(values, 0) if np.issubdtype(values.dtype, np.signedinteger) else values
    shifted: NDArray[Any] = positive >> (bits - 8) if bits > 8 else positive << (8 - bits)
    return shifted.astype(np.uint8)


def _limits(values: NDArray[Any], reading: ReadingConfig) -> list[tuple[float, float]]:
    """What becomes 0 and what 255, for each channel."""
    channels = range(values.shape[2])
    if reading.stretch == "percentile":
        return [_percentiles(values[..., channel], reading.percentiles) for channel in channels]
    # One pair for all, which keeps the colours.
    low, high = _ends(values) if reading.stretch == "minmax" else _percentiles(values, _ROBUST)
    if low == high:  # What is not background is rarer than the percentiles see.
        low, high = _ends(values)
    return [(low, high)] * len(channels)


def _ends(values: NDArray[Any]) -> tuple[float, float]:
    if not _may_be_infinite(values):
        return float(values.min()), float(values.max())
    finite = np.isfinite(values)
    if not finite.any():
        return 0.0, 0.0
    low = values.min(where=finite, initial=np.inf)
    return float(low), float(values.max(where=finite, initial=-np.inf))


def _percentiles(values: NDArray[Any], shares: tuple[float, float]) -> tuple[float, float]:
    """Two percentiles of a channel (H, W), or of several (H, W, C) together."""
    pixels = values.reshape(values.shape[0] * values.shape[1], -1)
    flat = pixels[:: max(1, len(pixels) // _MAX_SORTED)].ravel()
    finite = flat[np.isfinite(flat)] if _may_be_infinite(flat) else flat
    if finite.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(finite.astype(np.float64), shares).tolist()
    return low, high


def _may_be_infinite(values: NDArray[Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating))


def _scaled(channel: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """(H, W) uint8: `low` and below become 0, `high` and above 255; of one value alone, 0."""
    scaled = np.zeros(channel.shape, dtype=np.uint8)
    if high <= low:
        return scaled
    rows = max(1, _BLOCK // channel.shape[1])
    for start in range(0, len(channel), rows):
        block = channel[start : start + rows].astype(np.float64)
        block = np.where(np.isfinite(block), block, low)
        block = (np.clip(block, low, high) - low) * (255 / (high - low))
        scaled[start : start + rows] = np.rint(block).astype(np.uint8)
    return scaled
