"""What can be wrong with a data set or a file of masks, what becomes of it, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from soloist.errors import DataError
from soloist.runtime.files import shown

logger = logging.getLogger(__name__)


class Effect(Enum):
    """What becomes of what is wrong, in every verb alike."""

    REFUSED = "the file is refused"
    LEFT_OUT = "left out"
    CORRECTED = "corrected"
    KEPT = "kept"


_REFUSED, _LEFT_OUT, _CORRECTED, _KEPT = Effect


class Fault(Enum):
    """A kind of mistake.

    Attributes:
        what: The things that are wrong, in the plural.
        effect: What becomes of them.
        remedy: What to do about them.
    """

    MISSING_IMAGE = (
        "images that are not there",
        _KEPT,
        "put them where the annotations name them, or name their folder with --images",
    )
    UNREADABLE_IMAGE = (
        "images that cannot be read",
        _KEPT,
        "download or export them again; where there is no other copy, take them off the list",
    )
    OTHER_SIZE = (
        "images of another size than their annotations say",
        _REFUSED,
        "use the images that were annotated, neither resized nor cropped",
    )
    ONE_PIXEL = (
        "sizes one pixel off the image's",
        _CORRECTED,
        "none is needed: masks are cut or continued by empty pixels at the right and bottom",
    )
    EXCHANGED = (
        "images whose width and height are exchanged",
        _REFUSED,
        "objects fit the image's own size: exchange width and height of these images in the file",
    )
    TURNED = (
        "images annotated as stored, while their EXIF orientation turns them",
        _REFUSED,
        "add --exif stored, and masks are turned with their images; for a verb without that option "
        "convert the file first",
    )
    TURN_UNCLEAR = (
        "images that EXIF turns, annotated as stored or as shown: nothing in them tells",
        _REFUSED,
        "look at one, then add --exif stored or --exif upright; for a verb without that option "
        "convert the file first",
    )
    BROKEN_ENTRY = (
        "entries that cannot be understood",
        _LEFT_OUT,
        "correct them, or export the data set again",
    )
    BROKEN_MASK = (
        "masks that are damaged",
        _LEFT_OUT,
        "export them again",
    )
    MASK_SIZE = (
        "masks of another size than their image",
        _LEFT_OUT,
        "export them again; see that EXIF rotation and resizing were the same",
    )
    FRACTIONS = (
        "objects whose coordinates are all between 0 and 1, as fractions of the image are",
        _LEFT_OUT,
        "export them in pixels",
    )
    BEYOND = (
        "objects wholly outside of their image",
        _LEFT_OUT,
        "see that they are those of this image, at its size",
    )
    OUTSIDE = (
        "objects that reach out of their image",
        _KEPT,
        "masks are cut at the border; if there are many, see whether images were resized, or "
        "boxes are corners",
    )
    EMPTY = (
        "objects without a pixel: no mask of three points, no box with an area",
        _LEFT_OUT,
        "none is needed, unless their masks got lost in an export",
    )
    SHORT_OUTLINE = (
        "outlines of fewer than three points",
        _LEFT_OUT,
        "none is needed: the rest of their objects is used, else their boxes",
    )
    BOX_ALONE = (
        "boxes without a mask",
        _LEFT_OUT,
        "give them masks, if they are to count",
    )
    BOX = (
        "boxes that are not those of their masks",
        _CORRECTED,
        "none is needed: boxes are taken from the masks",
    )
    CORNERS = (
        "boxes given by two corners, not by corner, width and height",
        _CORRECTED,
        "none is needed: boxes are taken from the masks",
    )
    AREA = (
        "areas that are not those of their objects",
        _CORRECTED,
        "none is needed: areas are taken from the masks, else from the boxes",
    )
    FIELD = (
        "fields written otherwise than COCO does, as text, null or lists in lists",
        _CORRECTED,
        "none is needed: they are read as what they say",
    )
    CROWD = (
        "crowd flags that are neither 0 nor 1",
        _CORRECTED,
        "these objects count as single ones; correct the flag where they are not",
    )
    NO_CLASS = (
        "objects without a class",
        _KEPT,
        "give them one; until then they count only where classes do not",
    )
    UNKNOWN_CLASS = (
        "objects of a class that is not listed",
        _KEPT,
        "add it to the categories, or correct the number; until then they count only where "
        "classes do not",
    )
    DOUBLE_CLASS = (
        "category ids given to two names",
        _REFUSED,
        "give each name its own id; no one else can tell which objects are which",
    )
    DOUBLE_CLASS_NAME = (
        "class names that several ids have",
        _KEPT,
        "join them, unless they are two classes",
    )
    DOUBLE_ID = (
        "image ids that are given twice",
        _REFUSED,
        "number images and their annotations anew",
    )
    DOUBLE_NAME = (
        "file names that are listed twice",
        _REFUSED,
        "see which of the two entries the annotations refer to, and join them",
    )
    DOUBLE_OBJECT_ID = (
        "annotation ids that are given twice",
        _KEPT,
        "none is needed: annotations are numbered by their places",
    )
    DOUBLE_OBJECT = (
        "objects that are listed twice, with one mask and class",
        _KEPT,
        "see whether the second one was meant; in an evaluation it counts as missed",
    )
    ORPHAN = (
        "annotations on images that are not listed",
        _LEFT_OUT,
        "list their images, or see that the two belong together",
    )
    AMBIGUOUS_IMAGE = (
        "names that could mean several images",
        _REFUSED,
        "write them with the folders that tell them apart, or narrow --images",
    )
    SEVERAL_ANNOTATIONS = (
        "images that several people, or models, annotated",
        _KEPT,
        "none is needed if the first annotation is meant; else delete those that are not",
    )
    NOBODY_ANNOTATED = (
        "tasks that nobody has annotated, or that were skipped",
        _LEFT_OUT,
        "none is needed: submit them once they are done; what a model predicted there is no label",
    )
    PREDICTED = (
        "tasks without an annotation, in a file where none has any: their predictions are taken",
        _KEPT,
        "none is needed if predictions are meant; else submit what is right, and export again",
    )
    MISSING_ANNOTATION = (
        "images whose file of annotations is not there",
        _KEPT,
        "add the file, or take the image off the list",
    )
    BLACK_AND_WHITE = (
        "label maps of 0 and 255 alone, whose white pixels are read as one object",
        _KEPT,
        "save the number of its object in each pixel, if there are several",
    )
    SHADES = (
        "label maps of black, white and shades of grey between, as resizing and JPEG leave them",
        _REFUSED,
        "save them as PNG with a number for each object, without smoothing",
    )
    PIXELS = (
        "lines of YOLO with numbers that are no fractions of the image",
        _LEFT_OUT,
        "divide them by width and height of the image",
    )
    NO_OBJECTS = (
        "data sets without a single object",
        _KEPT,
        "see whether the export holds this kind of labels: brush masks get lost in some",
    )
    ALL_CROWD = (
        "files whose objects are all crowd regions, which nothing learns from or is measured by",
        _KEPT,
        "set iscrowd to 0 where they are single objects",
    )

    def __init__(self, what: str, effect: Effect, remedy: str) -> None:
        self.what = what
        self.effect = effect
        self.remedy = remedy


Report = Callable[[Fault, str], None]
"""Takes note of a mistake: its kind, and where it is."""


class OddEntryError(DataError):
    """An entry that cannot be used, and the kind of its mistake."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def refuse(fault: Fault, where: str) -> None:
    """The report of those who want no mistakes at all.

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

    def lines(self) -> list[str]:
        """A line a kind: how many, what becomes of them, and an example."""
        return [
            f"{count:,} {fault.what}: {fault.effect.value}, such as {self.examples[fault][0]}"
            for fault, count in self.counts.items()
        ]


@dataclass
class Gate(FaultLog):
    """The report of a verb that uses the data: odd objects are counted, a broken file is refused.

    Attributes:
        strict: Refuse any mistake.
    """

    strict: bool = False

    def __call__(self, fault: Fault, where: str) -> None:
        """Takes note of a mistake.

        Raises:
            DataError: If the file cannot be used with it, or `strict` is set.
        """
        if self.strict or fault.effect is Effect.REFUSED:
            refuse(fault, where)
        super().__call__(fault, where)

    def tell(self, path: str | Path) -> None:
        """Logs what was noted, and starts anew."""
        for line in self.lines():
            logger.warning("%s: %s", shown(path), line)
        self.counts.clear()
        self.examples.clear()
