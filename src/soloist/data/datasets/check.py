"""Looking at every image and object of a data set: what it holds, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from soloist.data.coco.rle import mask_area
from soloist.data.coco.types import CocoAnnotation
from soloist.data.datasets.dataset import Dataset, DatasetImage
from soloist.data.datasets.faults import Fault, FaultLog, Report
from soloist.data.images import exif_orientation, read_with_size
from soloist.errors import DataError
from soloist.runtime.files import shown

SMALL, LARGE = 32**2, 96**2
"""COCO's bounds of medium objects: area in pixels."""
_DECODED_SIDE = 32  # JPEGs are decoded at 1/8: enough to see whether all of the file is there.
_SWAPPED_FROM = 5  # EXIF orientations from here on swap height and width.
_BORDER = 1.0  # Pixels a box may reach out of its image: many tools round outwards.


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
    dataset: Dataset, log: FaultLog, advance: Callable[[], None] = lambda: None
) -> Summary:
    """Reads every image and object of a data set.

    Args:
        dataset: The data set.
        log: Told what is wrong.
        advance: Called after each image.

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
        size = _check_image(image, log, summary)
        if size is not None:
            summary.sizes[size] += 1
            objects = dataset.objects(image, log)
            summary.without_objects += not objects
            for one in objects:
                _check_object(one, image, size, log)
                _count(one, dataset, summary)
        advance()
    return summary


def _check_image(image: DatasetImage, report: Report, summary: Summary) -> tuple[int, int] | None:
    """The size its objects refer to; None if nobody knows."""
    if not image.path.is_file():
        report(Fault.MISSING_IMAGE, shown(image.path))
        return image.size
    try:
        _, size = read_with_size(image.path, short_side=_DECODED_SIDE)
        orientation = exif_orientation(image.path)
    except DataError as error:
        report(Fault.UNREADABLE_IMAGE, str(error))
        return image.size
    summary.turned += orientation != 1
    if image.size is None or image.size == size:
        return size
    what = f"{shown(image.name)} is {_by(size)}, stated {_by(image.size)}"
    swapped = orientation >= _SWAPPED_FROM and image.size == size[::-1]
    report(Fault.TURNED if swapped else Fault.OTHER_SIZE, what)
    return image.size


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _check_object(
    one: CocoAnnotation, image: DatasetImage, size: tuple[int, int], report: Report
) -> None:
    left, top, width, height = one.box_xywh
    where = f"{[round(side, 1) for side in one.box_xywh]} on {shown(image.name)}"
    mask_empty = one.segmentation is not None and mask_area(one.segmentation) == 0
    if mask_empty or width <= 0 or height <= 0:
        report(Fault.EMPTY, where)
        return
    out = min(left, top, size[1] - left - width, size[0] - top - height)
    if out < -_BORDER:
        report(Fault.OUTSIDE, where)


def _count(one: CocoAnnotation, dataset: Dataset, summary: Summary) -> None:
    summary.objects += 1
    summary.masks += one.segmentation is not None
    if one.iscrowd:
        summary.crowds += 1
        return
    small, large = one.area < SMALL, one.area > LARGE
    summary.area_classes["small" if small else "large" if large else "medium"] += 1
    summary.classes[dataset.categories.get(one.category_id, "not listed")] += 1
