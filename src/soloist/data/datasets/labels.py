"""Labels for a verb that uses them: read once, by the rules of `data check`, with one account."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from soloist.data.coco.faults import Fault, Gate
from soloist.data.coco.types import CocoFile
from soloist.data.datasets.find import ImageSources, find_dataset
from soloist.data.datasets.frames import Exif
from soloist.errors import DataError
from soloist.runtime.files import shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How labels are read; the same for every verb.

    Attributes:
        format: One of `FORMATS`; None finds out.
        split: Of a data set with several.
        images: Where the images are, if not beside the labels.
        strict: Refuse a data set with anything wrong in it, instead of leaving that out.
        exif: What labels of images with an EXIF orientation were made on; None finds out.
    """

    format: str | None = None
    split: str | None = None
    images: ImageSources | None = None
    strict: bool = False
    exif: Exif | None = None


def read_labels(
    source: str | Path,
    how: Reading = Reading(),  # immutable
    *,
    need_images: bool = True,
) -> tuple[CocoFile, dict[int, Path]]:
    """The true objects of a data set, and where its images are.

    What is wrong with single objects costs these objects; what is wrong with the sizes or the
    identity of images ends it. All of it is logged: images that are there and that are not, and
    each kind of mistake with its number and an example.

    Args:
        source: A COCO file, or a data set of another format.
        how: What the user says about it.
        need_images: Whether images that are not there are worth a word.

    Returns:
        file: The objects, on images of their own size.
        paths: By image id, of those images that are there.

    Raises:
        DataError: If it cannot be used.
    """
    gate = Gate(strict=how.strict)
    dataset = find_dataset(source, how.format, how.split, images=how.images, report=gate)
    file = dataset.to_coco(gate, exif=how.exif)
    if dataset.images and not file.images:
        raise DataError(
            f"wanted the sizes of the {len(dataset.images)} images of {shown(source)}, which "
            f"states none, and found no image (such as {shown(dataset.images[0].name)}); add "
            "--images FOLDER that has them"
        )
    if len(file) and all(one.iscrowd for ones in file.annotations.values() for one in ones):
        gate(Fault.ALL_CROWD, shown(source))
    known = {image.id for image in file.images}
    paths = {one.id: one.path for one in dataset.images if one.id in known and one.path.is_file()}
    if how.images is not None and not paths and dataset.images:
        hint = dataset.matches.hint() if dataset.matches is not None else ""
        raise DataError(
            f"wanted the {len(dataset.images)} images of {shown(source)} (such as "
            f"{shown(dataset.images[0].name)}), found none of them; add --images FOLDER that has "
            f"them{hint}"
        )
    if dataset.matches is not None and need_images:
        level = logging.WARNING if len(paths) < len(dataset.images) else logging.INFO
        matches = dataset.matches.account() + dataset.matches.hint()
        logger.log(level, "%s: %s", shown(source), matches)
    gate.tell(source)
    return file, paths
