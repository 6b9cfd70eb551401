"""What can be wrong with a data set, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from soloist.errors import DataError


class Fault(Enum):
    """A kind of mistake; the check goes on after it, an evaluation does not.

    Attributes:
        what: The things that are wrong, in the plural.
        remedy: What to do about them.
    """

    MISSING_IMAGE = (
        "images that are not there",
        "put them where the annotations name them, or name their folder with --images",
    )
    UNREADABLE_IMAGE = (
        "images that cannot be read",
        "download or export them again, or remove them and their annotations",
    )
    OTHER_SIZE = (
        "images of another size than their annotations say",
        "use the images that were annotated, neither resized nor cropped",
    )
    TURNED = (
        "images annotated as stored, while their EXIF orientation turns them",
        "delete the orientation from the images (exiftool -Orientation= FILE)",
    )
    BROKEN_ENTRY = (
        "entries that cannot be understood",
        "correct or remove them, or export the data set again",
    )
    BROKEN_MASK = (
        "masks that are damaged or of another size than their image",
        "export them again; see that EXIF rotation and resizing were the same",
    )
    OUTSIDE = (
        "objects that reach out of their image",
        "cut them at the border; if there are many, the images were resized",
    )
    EMPTY = (
        "objects without a pixel",
        "remove them: they count as missed",
    )
    DOUBLE_ID = ("ids that are given twice", "number images and annotations anew")
    DOUBLE_NAME = ("file names that are listed twice", "remove one of the two")
    ORPHAN = (
        "annotations on images that are not listed",
        "remove them, or list their images",
    )
    UNKNOWN_CLASS = (
        "objects of a class that is not listed",
        "add it to the categories, or correct the number",
    )
    MISSING_ANNOTATION = (
        "images whose file of annotations is not there",
        "add the file, or remove the image from the list",
    )

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy


Report = Callable[[Fault, str], None]
"""Takes note of a mistake: its kind, and where it is."""


def refuse(fault: Fault, where: str) -> None:
    """The report of an evaluation, which wants no mistakes.

    Raises:
        DataError: Always.
    """
    raise DataError(f"wanted a sound data set, got {fault.what}: {where}; {fault.remedy}")


@dataclass
class FaultLog:
    """The report of a check: counts every mistake and keeps the first of each kind.

    Attributes:
        counts: How many there are of each kind, in the order of their first.
        examples: The first few of each kind.
        examples_kept: How many of them.
    """

    counts: dict[Fault, int] = field(default_factory=dict)
    examples: dict[Fault, list[str]] = field(default_factory=dict)
    examples_kept: int = 3

    def __call__(self, fault: Fault, where: str) -> None:
        """Takes note of a mistake."""
        self.counts[fault] = self.counts.get(fault, 0) + 1
        examples = self.examples.setdefault(fault, [])
        if len(examples) < self.examples_kept:
            examples.append(where)
