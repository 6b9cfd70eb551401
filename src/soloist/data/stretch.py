"""Numbers of any type and number of channels as 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.config.reading import ReadingConfig, Stretch

_BLOCK = 2**20
"""Values computed with at a time, as float64: a large image is never held as such."""
_MAX_SORTED = 2**22
"""Pixels that percentiles are taken of: every n-th of a larger image."""


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
    stretch = _stretch_of(chosen, reading)
    if stretch == "none":
        grey = _whole_range(chosen)
    else:
        limits = _limits(chosen, stretch, reading.percentiles)
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


def _stretch_of(values: NDArray[Any], reading: ReadingConfig) -> Stretch:
    if reading.stretch != "auto":
        return reading.stretch
    colour = values.shape[2] == 3 and not reading.channels
    plain = values.dtype == np.uint8 or (values.dtype == np.uint16 and colour)
    return "none" if plain else "minmax"


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


def _limits(
    values: NDArray[Any], stretch: Stretch, percentiles: tuple[float, float]
) -> list[tuple[float, float]]:
    """What becomes 0 and what 255, for each channel."""
    channels = range(values.shape[2])
    if stretch == "percentile":
        return [_percentiles(values[..., channel], percentiles) for channel in channels]
    pairs = [_ends(values[..., channel]) for channel in channels]
    # One pair for all, which keeps the colours.
    return [(min(low for low, _ in pairs), max(high for _, high in pairs)) for _ in pairs]


def _ends(channel: NDArray[Any]) -> tuple[float, float]:
    finite = channel[np.isfinite(channel)] if _may_be_infinite(channel) else channel
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _percentiles(channel: NDArray[Any], shares: tuple[float, float]) -> tuple[float, float]:
    flat = channel.ravel()[:: max(1, channel.size // _MAX_SORTED)]
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
