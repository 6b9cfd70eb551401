"""Which images a result was made of, and how those that are there now differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soloist.data.sources import ImageRef
from soloist.runtime.files import shown

FileState = tuple[int, int]
"""Size in bytes, and the time of the last change in microseconds since 1970."""
States = Mapping[str, FileState | None]
"""States by the names of images; None where nothing is known."""


@dataclass(frozen=True)
class Changes:
    """How images differ from those that a result was made of, by their names.

    Attributes:
        new: Those it was not made of.
        changed: Those that are other files now.
        vanished: Those that are not there any more.
    """

    new: Sequence[str]
    changed: Sequence[str]
    vanished: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.vanished)

    def __str__(self) -> str:
        """Each difference with its number and an example."""
        found = {"new": self.new, "changed": self.changed, "vanished": self.vanished}
        return ", ".join(
            f"{len(names):,} {what} (such as {shown(names[0])})"
            for what, names in found.items()
            if names
        )


def state_of(path: Path) -> FileState | None:
    """A file's state; None if it is not there."""
    try:
        # Not the time of its entry, which an export changes by linking the image.
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns // 1000


def states_of(images: Iterable[ImageRef]) -> dict[str, FileState | None]:
    """The states of images."""
    return {image.name: state_of(image.path) for image in images}


def changes_between(before: States, now: States) -> Changes:
    """How the images of now differ from those before.

    Args:
        before: What a result was made of; states that are not known are taken for the same.
        now: What is there; an image that is not a file has vanished.
    """
    there = {name for name, state in now.items() if state is not None}
    return Changes(
        new=[name for name in now if name not in before and name in there],
        changed=[
            name
            for name, state in now.items()
            if name in there and before.get(name) not in (None, state)
        ],
        vanished=[name for name in before if name not in there],
    )
