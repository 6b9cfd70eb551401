"""Images with what a labeler finds on them, read ahead and shared with other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soloist.data.images import image_size, read_with_size
from soloist.data.inputs import FileState, state_of
from soloist.data.sources import ImageRef, spread
from soloist.errors import DataError, RunError
from soloist.runtime.device import threads
from soloist.runtime.workers import done_ahead, helpers, report_lost_workers
from soloist.structures import Instances

# Images decoded ahead of the one in work; of those that are never reduced, which may be large, one.
LOOKAHEAD = 4
LOOKAHEAD_WHOLE = 1
# The same for each of several processes.
READ_AHEAD = 2
MEASURED = 8
"""Images whose sizes tell what memory a process takes."""
HELPER_BYTES, BYTES_PER_PIXEL = 2e8, 40.0
"""That memory, in bytes; the latter for pixels of the file."""

Objects = Instances[Tensor, Any]
"""Objects of an image; the masks of a large one are encoded."""
Labeler = Callable[[NDArray[np.uint8], tuple[int, int]], Objects]
"""Pixels (H', W', 3), perhaps decoded at reduced size, and the full (H, W) to instances."""


@runtime_checkable
class SplitLabeler(Protocol):
    """A labeler most of whose work other processes can do."""

    @property
    def prepares(self) -> bool:
        """Whether they can, by its options."""
        ...

    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int], /) -> Objects:
        """Both parts at once."""
        ...

    def prepare(self, pixels: NDArray[np.uint8], size: tuple[int, int], /) -> Any:
        """The part that they do, without any accelerator; what it gives can be pickled."""
        ...

    def finish(self, pixels: NDArray[np.uint8], prepared: Any, /) -> Objects:
        """The part that is left."""
        ...


class Labelled(NamedTuple):
    """What was found on an image.

    Attributes:
        pixels: (H', W', 3) uint8 RGB, perhaps reduced.
        size: (height, width) of the file, which masks refer to.
        instances: The objects.
        file_state: Of the file, before it was read.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    instances: Objects
    file_state: FileState | None


def each_labelled(
    images: Sequence[ImageRef], labeler: Labeler, short_side: int | None
) -> Iterator[tuple[ImageRef, Labelled | DataError]]:
    """Each image with what was found on it, or why it could not be read.

    Raises:
        RunError: If a process that helps with it died.
    """
    splits = isinstance(labeler, SplitLabeler) and labeler.prepares
    workers = helpers(len(images), _bytes_needed(images)) if splits else 0
    if workers:
        assert isinstance(labeler, SplitLabeler)
        yield from _prepared_ahead(images, labeler, short_side, workers)
        return
    for image, decoded in _decode_ahead(images, short_side):
        try:
            pixels, size, state = decoded.result()
        except DataError as error:
            yield image, error
        else:
            yield image, Labelled(pixels, size, labeler(pixels, size), state)


def _prepared_ahead(
    images: Sequence[ImageRef], labeler: SplitLabeler, short_side: int | None, workers: int
) -> Iterator[tuple[ImageRef, Labelled | DataError]]:
    """The same by other processes: each reads images and does its part of the labeler's work."""

    def prepared(number: int) -> tuple[_Decoded | DataError, Any]:
        try:
            found = _read(images[number], short_side)
        except DataError as error:
            return error, None
        return found, labeler.prepare(found.pixels, found.size)

    reporting = report_lost_workers("looks at images", "continues with what is left", RunError)
    with reporting, threads(max(1, torch.get_num_threads() - workers)):
        ahead = done_ahead(
            prepared, end=len(images), workers=workers, ahead=READ_AHEAD, tensors=False
        )
        for image, (decoded, part) in zip(images, ahead, strict=True):
            if isinstance(decoded, DataError):
                yield image, decoded
                continue
            pixels, size, state = decoded
            yield image, Labelled(pixels, size, labeler.finish(pixels, part), state)


def _bytes_needed(images: Sequence[ImageRef]) -> float:
    """Memory that a helper takes for one of the larger images, by some of them."""
    pixels = 0
    for image in spread(images, MEASURED):
        # Whoever reads it tells of it.
        with suppress(DataError):
            height, width = image_size(image.path)
            pixels = max(pixels, height * width)
    return HELPER_BYTES + BYTES_PER_PIXEL * pixels


class _Decoded(NamedTuple):
    """Pixels, size and state of a file."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    state: FileState | None


def _read(image: ImageRef, short_side: int | None) -> _Decoded:
    # First: what changes while it is read is noticed by the next command.
    state = state_of(image.path)
    pixels, size = read_with_size(image.path, reading=image.reading, short_side=short_side)
    return _Decoded(pixels, size, state)


def _decode_ahead(
    images: Sequence[ImageRef], short_side: int | None
) -> Iterator[tuple[ImageRef, Future[_Decoded]]]:
    """Decodes in a thread while the caller works; Pillow frees the interpreter meanwhile."""
    ahead = LOOKAHEAD if short_side is not None else LOOKAHEAD_WHOLE
    with ThreadPoolExecutor(max_workers=1) as pool:
        rest = iter(images)
        waiting = [(image, pool.submit(_read, image, short_side)) for image in islice(rest, ahead)]
        while waiting:
            current = waiting.pop(0)
            for image in islice(rest, 1):
                waiting.append((image, pool.submit(_read, image, short_side)))
            yield current
