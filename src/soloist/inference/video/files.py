"""Frames out of video files, and into them, one at a time, by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import av
import numpy as np
from numpy.typing import NDArray

from soloist.errors import DataError
from soloist.runtime.files import one_line, shown

_CODECS = ("libx264", "mpeg4")
"""Of what is written; the second where PyAV was built without the first."""
_PLAIN_RATE = Fraction(25)
"""Frames a second of a video that does not say."""


class Frame(NamedTuple):
    """A frame that was read.

    Attributes:
        number: Its place in the video, from 0.
        pixels: (H, W, 3) uint8 RGB, upright.
    """

    number: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class VideoFacts:
    """What a video says about itself.

    Attributes:
        frames: How many it has; 0 if it does not say.
        rate: Frames a second.
    """

    frames: int
    rate: Fraction


class VideoReader:
    """A video that is open for reading; use it in a `with` block.

    Args:
        path: The file.
        every: Every n-th frame is read, from the first on.
        max_pixels: Larger frames are refused.

    Raises:
        DataError: If it cannot be opened, has no images, or they are too large.
    """

    def __init__(self, path: Path, *, every: int, max_pixels: int) -> None:
        self._path, self._every = path, every
        with _reported(path):
            self._container = av.open(str(path))
        streams = self._container.streams.video
        if not streams:
            self._container.close()
            raise DataError(f"wanted a video, got {shown(path)} without images")
        self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        size = self._stream.width, self._stream.height
        if size[0] * size[1] > max_pixels:
            self._container.close()
            raise DataError(
                f"wanted frames of at most {max_pixels} pixels, got {shown(path)} of {size[0]} x "
                f"{size[1]}; raise --max-pixels if you trust the file"
            )
        rate = self._stream.average_rate or self._stream.guessed_rate or _PLAIN_RATE
        self.facts = VideoFacts(self._stream.frames, Fraction(rate))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """The frames, each decoded when it is asked for.

        Raises:
            DataError: After the last sound frame, if the video is damaged or cut off there.
        """
        count = 0
        with _reported(self._path):
            for frame in self._container.decode(self._stream):
                if count % self._every == 0:
                    pixels = frame.to_ndarray(format="rgb24")
                    # Counted against the clock, in degrees, as numpy turns.
                    turns = round(frame.rotation / 90) % 4
                    yield Frame(count, np.ascontiguousarray(np.rot90(pixels, turns)))
                count += 1
        if count < self.facts.frames:
            raise DataError(
                f"{shown(self._path)} ends after {count} of {self.facts.frames} frames; what was "
                "read is kept"
            )


class VideoWriter:
    """A video that is being written; use it in a `with` block.

    Args:
        path: The file; its suffix chooses the container.
        rate: Frames a second.

    Raises:
        DataError: If no such video can be written.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._path, self._rate = path, rate
        with _reported(path):
            self._container = av.open(str(path), "w")
        self._stream: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                with _reported(self._path):
                    self._container.mux(self._stream.encode())
        finally:
            self._container.close()

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Writes a frame; all have the size of the first.

        Args:
            pixels: (H, W, 3) uint8 RGB; an odd last row or column is left out.
        """
        height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
        with _reported(self._path):
            if self._stream is None:
                codec = next(name for name in _CODECS if name in av.codecs_available)
                self._stream = self._container.add_stream(codec, rate=self._rate)
                self._stream.width, self._stream.height = width, height
                self._stream.pix_fmt = "yuv420p"  # What every player shows.
            part = np.ascontiguousarray(pixels[:height, :width])
            frame = av.VideoFrame.from_ndarray(part, format="rgb24")
            self._container.mux(self._stream.encode(frame))


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turns what PyAV raises into one line."""
    try:
        yield
    # What it raises for a container it does not know is a plain ValueError.
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(
            f"cannot read or write the video {shown(path)}: {reason}; check the file"
        ) from error
