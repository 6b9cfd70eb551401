"""Looking at every image and object of a data set: what it holds, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from soloist.data.coco.faults import Fault, FaultLog, Report
from soloist.data.coco.types import CocoAnnotation
from soloist.data.datasets.dataset import Dataset, DatasetImage, sound
from soloist.data.datasets.frames import Exif, settle
from soloist.data.images import image_header, read_with_size
from soloist.errors import DataError
from soloist.runtime.files import shown

SMALL, LARGE = 32**2, 96**2
"""COCO's bounds of medium objects: area in pixels."""
_DECODED_SIDE = 32  # JPEGs are decoded at 1/8: enough to see whether all of the file is there.


@dataclass
class Summary:
    """What a data set holds.

    Attributes:
        images: Images with annotations, or without where there are none.
        sizes: Images by (height, width).
        turned: Images with an EXIF orientation.
        without_objects: Images without an object.
        objects: Objects, crowd regions included.
        crowds: Regions that evaluation ignores.
        masks: Objects with a mask.
        area_classes: Objects by COCO's `small`, `medium` and `large`.
        classes: Objects by category.
    """

    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    turned: int = 0
    without_objects: int = 0
    objects: int = 0
    crowds: int = 0
    masks: int = 0
    area_classes: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)


def check_dataset(
    dataset: Dataset,
    log: FaultLog,
    advance: Callable[[], None] = lambda: None,
    *,
    exif: Exif | None = None,
) -> Summary:
    """Reads every image and object of a data set.

    Args:
        dataset: The data set.
        log: Receives what is wrong.
        advance: Called after each image.
        exif: What labels of images with an EXIF orientation were made on; see `settle`.

    Returns:
        What it holds.

    Raises:
        DataError: If it is empty, and not because something is wrong.
    """
    if not dataset.images and not log.counts:
        raise DataError(
            f"wanted a data set with images, got {shown(dataset.path)} with none; check the path"
        )
    summary = Summary()
    for image in dataset.images:
        summary.images += 1
        _check_file(image, log, summary)
        # What cannot be read was reported.
        image, objects = settle(dataset, image, _but(Fault.UNREADABLE_IMAGE, log), exif)
        if image.size is not None:
            summary.sizes[image.size] += 1
            objects = sound(objects, image, log)
            summary.without_objects += not objects
            for one in objects:
                _count(one, dataset, summary)
        advance()
    if dataset.images and not summary.objects and dataset.format != "folder" and not log.counts:
        log(Fault.NO_OBJECTS, shown(dataset.path))
    if summary.objects and summary.crowds == summary.objects:
        log(Fault.ALL_CROWD, shown(dataset.path))
    return summary


def _but(known: Fault, report: Report) -> Report:
    """A report without faults of one kind."""

    def rest(fault: Fault, where: str) -> None:
        if fault is not known:
            report(fault, where)

    return rest


def _check_file(image: DatasetImage, report: Report, summary: Summary) -> None:
    """Reads an image to its end."""
    if not image.path.is_file():
        report(Fault.MISSING_IMAGE, shown(image.path))
        return
    try:
        _, orientation = image_header(image.path)
        read_with_size(image.path, short_side=_DECODED_SIDE)
    except DataError as error:
        report(Fault.UNREADABLE_IMAGE, str(error))
        return
    summary.turned += orientation != 1


def _count(one: CocoAnnotation, dataset: Dataset, summary: Summary) -> None:
    summary.objects += 1
    summary.masks += one.segmentation is not None
    if one.iscrowd:
        summary.crowds += 1
        return
    small, large = one.area < SMALL, one.area > LARGE
    summary.area_classes["small" if small else "large" if large else "medium"] += 1
    summary.classes[dataset.categories.get(one.category_id, "not listed")] += 1
