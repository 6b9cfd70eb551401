"""Which pixels the objects of an image refer to: the size they state against that of the file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.faults import Fault, FaultLog, Report
from soloist.data.coco.objects import BoxXYWH, is_one_pixel_off
from soloist.data.coco.rle import decode_mask, encode_masks, mask_area, refitted_mask
from soloist.data.coco.types import CocoAnnotation
from soloist.data.images import image_header, read_image, upright
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.runtime.files import shown

if TYPE_CHECKING:
    from soloist.data.datasets.dataset import Dataset, DatasetImage

logger = logging.getLogger(__name__)

Exif = Literal["upright", "stored"]
"""What labels were made on: the image as shown, or as stored, without its EXIF orientation."""

_DECIDES = 1.5
"""Contrast along outlines on one frame over that on the other that settles which is right."""
_MAX_JUDGED = 20  # Objects of an image.
_SWAPPED_FROM = 5  # EXIF orientations from here on swap height and width.

Size = tuple[int, int]
Objects = list[CocoAnnotation]


@dataclass(frozen=True)
class _Frame:
    """An image's size in the file and as it is shown, and how it is turned."""

    stored: Size
    shown: Size
    orientation: int

    @property
    def hides_turn(self) -> bool:
        """Whether the image is turned, and its size does not show it."""
        return self.orientation != 1 and self.stored == self.shown


def settle(
    dataset: Dataset, image: DatasetImage, report: Report, exif: Exif | None = None
) -> tuple[DatasetImage, Objects]:
    """An image at its own size, with its objects on it.

    Args:
        dataset: Whose image it is.
        image: The image; where its file is not there, what is stated stands.
        report: Receives sizes that are not the file's.
        exif: What labels of images with an EXIF orientation were made on; None finds out, and
            reports where it cannot.

    Returns:
        image: With a size, unless there is neither a file nor a stated one.
        objects: Those that can be used.
    """
    frame = _frame(image.path, report)
    if frame is None:
        return image, [] if image.size is None else dataset.objects(image, report)
    stated = image.size or frame.shown
    as_stated, as_shown = replace(image, size=stated), replace(image, size=frame.shown)
    if frame.orientation != 1 and exif is not None and _is_either(stated, frame):
        if exif == "upright":
            return as_shown, dataset.objects(as_shown, report)
        as_stored = replace(image, size=frame.stored)
        objects = dataset.objects(as_stored, report)
        return as_shown, [turned(one, frame.orientation, frame.stored) for one in objects]
    if is_one_pixel_off(stated, frame.shown):
        report(Fault.ONE_PIXEL, _sizes(image.name, frame, stated))
        return as_shown, _refitted(dataset, as_shown, report)
    if stated == frame.shown:
        objects = dataset.objects(as_stated, report)
        # Fractions of an image say nothing of its size.
        unsaid = image.size is None and frame.orientation != 1
        if (frame.hides_turn or unsaid) and objects:
            _report_turn(dataset, image, frame, report)
        return as_stated, objects
    if stated != frame.shown[::-1]:
        report(Fault.OTHER_SIZE, _sizes(image.name, frame, stated))
    else:
        _report_exchange(dataset, image, frame, stated, report)
    # What is wrong with objects on a wrong size is not theirs.
    return as_stated, dataset.objects(as_stated, FaultLog())


def check_stated(images: Sequence[ImageRef], source: str) -> None:
    """Compares the sizes that a COCO file states of its images with those of the files.

    A pixel more or less is logged. So are images that EXIF turns and that are stated as they are
    stored: what is found on them is on the image as shown, whatever the labels were made on.

    Args:
        images: Images, of which those with a `stated` size that are there are looked at.
        source: What names them, for messages.

    Raises:
        DataError: If an image has another size.
    """
    one_pixel: list[str] = []
    as_stored: list[str] = []
    for ref in images:
        frame = None if ref.stated is None else _frame(ref.path, _pass_over)
        if ref.stated is None or frame is None or ref.stated == frame.shown:
            continue
        where = _sizes(ref.name, frame, ref.stated)
        if is_one_pixel_off(ref.stated, frame.shown):
            one_pixel.append(where)
        elif ref.stated == frame.stored:
            as_stored.append(where)
        else:
            exchanged = ", exchanged" if ref.stated == frame.shown[::-1] else ""
            raise DataError(
                f"wanted images of the sizes that {source} states, got {where}{exchanged}; "
                "masks made here could not be compared with its own: use the images that were "
                "annotated, or name their folder instead, if nothing is to be compared"
            )
    if one_pixel:
        logger.warning(
            "%s: %d %s, such as %s", source, len(one_pixel), Fault.ONE_PIXEL.what, one_pixel[0]
        )
    if as_stored:
        logger.warning(
            "%s states sizes of %d images as they are stored, while EXIF turns them, such as %s: "
            "masks are made on the images as shown; compare with --exif stored if labels were made "
            "on the images as stored, else with --exif upright",
            source,
            len(as_stored),
            as_stored[0],
        )


def _pass_over(fault: Fault, where: str) -> None:
    """The report of those who look at an image again later."""


def turned(one: CocoAnnotation, orientation: int, stored: Size) -> CocoAnnotation:
    """An object of the image as stored, on the image as shown.

    Args:
        one: The object.
        orientation: EXIF's number.
        stored: (height, width) of the image as stored.
    """
    rle = one.segmentation
    if rle is not None:
        mask = upright(decode_mask(rle), orientation)
        rle = encode_masks(np.ascontiguousarray(mask)[None])[0]
    return replace(one, segmentation=rle, box_xywh=_turned_box(one.box_xywh, orientation, stored))


def _turned_box(box: BoxXYWH, orientation: int, stored: Size) -> BoxXYWH:
    x, y, width, height = box
    right, below = stored[1] - x - width, stored[0] - y - height
    return {
        2: (right, y, width, height),
        3: (right, below, width, height),
        4: (x, below, width, height),
        5: (y, x, height, width),
        6: (below, x, height, width),
        7: (below, right, height, width),
        8: (y, right, height, width),
    }.get(orientation, box)


def _frame(path: Path, report: Report) -> _Frame | None:
    """What the file says; None if it is not there or cannot be read."""
    if not path.is_file():
        return None
    try:
        stored, orientation = image_header(path)
    except DataError as error:
        report(Fault.UNREADABLE_IMAGE, str(error))
        return None
    return _Frame(stored, stored[::-1] if orientation >= _SWAPPED_FROM else stored, orientation)


def _is_either(stated: Size, frame: _Frame) -> bool:
    return stated in (frame.shown, frame.stored)


def _refitted(dataset: Dataset, image: DatasetImage, report: Report) -> Objects:
    """The objects, with masks of a size one pixel off made to fit."""

    def rest(fault: Fault, where: str) -> None:
        # The image was counted for all of them.
        if fault is not Fault.ONE_PIXEL:
            report(fault, where)

    assert image.size is not None
    objects = []
    for one in dataset.objects(image, rest):
        rle = one.segmentation
        if rle is not None and tuple(rle["size"]) != image.size:
            one = replace(one, segmentation=refitted_mask(rle, image.size))
        objects.append(one)
    return objects


def _report_turn(dataset: Dataset, image: DatasetImage, frame: _Frame, report: Report) -> None:
    """Reports labels of a turned image that are, or may be, those of the image as stored."""
    made_on = _made_on(dataset, image, frame)
    where = f"{shown(image.name)}, EXIF orientation {frame.orientation}"
    if made_on is None:
        report(Fault.TURN_UNCLEAR, where)
    elif made_on == "stored":
        report(Fault.TURNED, f"{where}: outlines follow the edges of the image as stored")


def _report_exchange(
    dataset: Dataset, image: DatasetImage, frame: _Frame, stated: Size, report: Report
) -> None:
    """Reports an image whose stated size is its own on its side."""
    where = _sizes(image.name, frame, stated)
    turned_by_exif = frame.orientation >= _SWAPPED_FROM
    if not dataset.outlines:
        report(Fault.TURNED if turned_by_exif else Fault.OTHER_SIZE, where)
        return
    own, other = _lost(dataset, image, frame.shown), _lost(dataset, image, stated)
    fits_own, fits_stated = own == 0, other == 0
    made_on: Exif | None = None
    if fits_own != fits_stated:
        made_on = "upright" if fits_own else "stored"
    elif turned_by_exif:
        made_on = _made_on(dataset, image, frame)
    if made_on == "upright":
        hint = "; --exif upright takes them so" if turned_by_exif else ""
        report(Fault.EXCHANGED, f"{where}: objects lie on the image as shown{hint}")
    elif not turned_by_exif:
        report(Fault.OTHER_SIZE, f"{where}, exchanged, or the image was turned since")
    else:
        report(Fault.TURNED if made_on == "stored" else Fault.TURN_UNCLEAR, where)


def _lost(dataset: Dataset, image: DatasetImage, size: Size) -> int:
    """Pixels of the objects that a size has no room for, and objects that it does not fit."""
    whole = (max(size), max(size))
    logs = FaultLog(), FaultLog()
    areas = [
        sum(
            mask_area(one.segmentation)
            for one in dataset.objects(replace(image, size=room), log)
            if one.segmentation is not None
        )
        for room, log in zip((whole, size), logs, strict=True)
    ]
    misfits = logs[1].counts.get(Fault.MASK_SIZE, 0)
    return misfits or max(areas[0] - areas[1], 0)


def _made_on(dataset: Dataset, image: DatasetImage, frame: _Frame) -> Exif | None:
    """What the edges of the image say of what its labels were made on; None if nothing."""
    try:
        pixels = read_image(image.path)
    except DataError:
        return None
    grey = pixels.astype(np.float64).mean(axis=2)
    as_shown = dataset.objects(replace(image, size=frame.shown), FaultLog())
    as_stored = [
        turned(one, frame.orientation, frame.stored)
        for one in dataset.objects(replace(image, size=frame.stored), FaultLog())
    ]
    contrasts = [_contrast(grey, objects) for objects in (as_shown, as_stored)]
    if contrasts[0] > _DECIDES * contrasts[1]:
        return "upright"
    return "stored" if contrasts[1] > _DECIDES * contrasts[0] else None


def _contrast(grey: NDArray[np.float64], objects: Sequence[CocoAnnotation]) -> float:
    """Mean difference between neighbours of which one is in a mask and one is not."""
    total, count = 0.0, 0
    masks = [one.segmentation for one in objects if one.segmentation is not None]
    for rle in masks[:_MAX_JUDGED]:
        mask = decode_mask(rle)
        if mask.shape != grey.shape:
            continue
        for axis in (0, 1):
            border = np.diff(mask, axis=axis)
            total += float(np.abs(np.diff(grey, axis=axis))[border].sum())
            count += int(border.sum())
    return total / count if count else 0.0


def _sizes(name: str, frame: _Frame, stated: Size) -> str:
    height, width = frame.shown
    turn = f" by EXIF orientation {frame.orientation}" if frame.orientation != 1 else ""
    return f"{shown(name)} is {height} x {width}{turn}, stated {stated[0]} x {stated[1]}"
