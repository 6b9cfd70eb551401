"""What the writer of a format gets: images one by one, where to write, and whom to tell."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from soloist.data.coco.types import CocoAnnotation, CocoFile, CocoImage
from soloist.data.exports.options import ExportOptions, ImageFiles, Segmentation
from soloist.errors import RunError
from soloist.runtime.error_log import ErrorLog
from soloist.runtime.files import atomic_path, one_line, shown

logger = logging.getLogger(__name__)


class Note(Enum):
    """What was left out or changed on the way, in the plural."""

    BOX_ALONE = "boxes without a mask, left out"
    NO_PIXEL = "masks without a pixel, left out"
    LOW_SCORE = "masks of a lower score, left out; --min-score 0 keeps all"
    SMALL = "masks below --min-area, left out"
    BEYOND_COUNT = "masks beyond --max-per-image, left out"
    CROWD = "crowd regions, which the format does not know, left out"
    CUT_HOLES = "masks with holes; cuts of no width lead into these"
    JOINED_PARTS = "masks of several parts; bridges of no width join these"
    SPLIT_PARTS = "masks of several parts; each is a shape, all with one group_id"
    PART_REGIONS = "masks of several parts; each is a region, all with one attribute `object`"
    SEPARATE_PARTS = "masks of several parts; each is a region, their ids begin alike"
    MANY_BRUSHES = (
        "images with more than 50 brush masks, which browsers take long over; leave out some, or "
        "use --segmentation polygon"
    )
    AT_ROOT = (
        "images in no folder: Label Studio refuses its document root as a storage; keep them in a "
        "folder there and give --image-url '/data/local-files/?d=FOLDER/'"
    )
    NO_SCORE = "scores, which the format does not hold"
    OVERLAPPED = "masks of which a better one covers pixels"
    HIDDEN = "masks that better ones cover entirely"
    RENAMED = "images whose labels are called otherwise, since names differ in the suffix alone"
    NO_GEOREFERENCE = "images without a georeference, whose polygons are in pixels, y downwards"
    NO_IMAGE = "images that were not found, so that they are missing here too"


@dataclass(frozen=True)
class LabelledImage:
    """An image with the masks to write.

    Attributes:
        image: As in the COCO file.
        path: Where it is; None if it was not found.
        place: Where what is made of it goes, relative to a folder and with the image's suffix;
            different for each image even without suffixes.
        objects: Its masks, none of them empty.
    """

    image: CocoImage
    path: Path | None
    place: Path
    objects: tuple[CocoAnnotation, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.height, self.image.width


@dataclass
class Target:
    """Where a format is written.

    Attributes:
        folder: The folder.
        file: All that is written: no boxes alone, no empty masks, a name for each class.
        places: Where what is made of each image goes, by its id; see `LabelledImage`.
        options: What the user chose.
        segmentation: How masks are written.
        images: What becomes of image files.
        scored: The masks have scores.
        errors: Receives images that cannot be read.
        notes: How often what was left out or changed.
    """

    folder: Path
    file: CocoFile
    places: Mapping[int, Path]
    options: ExportOptions
    segmentation: Segmentation
    images: ImageFiles
    scored: bool
    errors: ErrorLog
    notes: Counter[Note] = field(default_factory=Counter)

    def put_image(self, labelled: LabelledImage, place: Path) -> None:
        """Links or copies an image, if that is asked for.

        Args:
            labelled: The image.
            place: Below the folder.

        Raises:
            RunError: If it cannot be done.
        """
        if self.images == "none":
            return
        if labelled.path is None:
            self.notes[Note.NO_IMAGE] += 1
            return
        path = self.folder / place
        with atomic_path(path) as temporary:
            if self.images == "copy":
                shutil.copyfile(labelled.path, temporary)
                return
            _link(labelled.path.resolve(), temporary, path)


def _link(original: Path, temporary: Path, path: Path) -> None:
    """A second name for a file; a symbolic link to another disk.

    Some readers refuse symbolic links, since these lead out of the folder.
    """
    try:
        os.link(original, temporary)
        return
    except (OSError, NotImplementedError) as error:
        logger.debug("%s: %s", shown(path), error)
    try:
        os.symlink(original, temporary)
    except (OSError, NotImplementedError) as error:
        reason = one_line(error)
        raise RunError(
            f"cannot make the link {shown(path)}: {reason}; add --with-images copy"
        ) from error


Write = Callable[[Target, Iterator[LabelledImage]], None]
"""Writes all images in a format."""
