"""How the numbers of image files become the 8-bit colours that networks see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from soloist.config.checks import at_least, check

Stretch = Literal["auto", "minmax", "percentile", "none"]


@dataclass(frozen=True)
class ReadingConfig:
    """How image files are read."""

    channels: tuple[int, ...] = ()
    """Channels to take as red, green and blue, or one as grey, counted from 0 (`0 1 2`); needed
    where a file has other numbers of them than 1, 3 or, with transparency, 4 (ours)."""
    stretch: Stretch = "auto"
    """What becomes black and white: `minmax` the least and the greatest value of the image,
    `percentile` two percentiles of each channel, `none` the ends of what the file can hold (floats:
    0 and 1). `auto`: 8 bits as they are, all else from the percentile 0.1 to 99.9 of the image, or
    as `minmax` where these are equal (ours)."""
    percentiles: tuple[float, float] = (2.0, 98.0)
    """The two percentiles of `percentile` (ours)."""
    max_pixels: int = 178_956_970
    """Larger images are refused before they fill the memory; the default is the size above which
    Pillow suspects an attack (ours)."""

    def __post_init__(self) -> None:
        check(
            len(self.channels) in (0, 1, 3) and all(channel >= 0 for channel in self.channels),
            f"reading.channels must be one or three numbers from 0 on, got {self.channels}",
        )
        low, high = self.percentiles
        check(
            0 <= low < high <= 100,
            f"reading.percentiles must rise within 0 to 100, got {self.percentiles}",
        )
        at_least(1, self, "reading", "max_pixels")


DEFAULT_READING = ReadingConfig()
"""How files are read if nobody says otherwise."""
