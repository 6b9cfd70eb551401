"""Masks and boxes of single objects as tools write them, and what they must have meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from soloist.data.coco.faults import Fault, OddEntryError, Report
from soloist.data.coco.rle import box_iou, mask_area, mask_box_xywh, refitted_mask, to_rle
from soloist.errors import DataError

BoxXYWH = tuple[float, float, float, float]

ONE_PIXEL = 1
"""Difference of a side that rounding explains."""
_CLOSE, _MIN_IOU, _FAR = 1.5, 0.75, 3.0
"""Pixels within which two boxes are one; overlap and pixels of boxes that are not."""
_REPR_OF_BYTES = re.compile(r"b(['\"])(.*)\1", re.DOTALL)


def read_segmentation(
    record: Mapping[str, Any], size: tuple[int, int] | None, where: str, report: Report
) -> dict[str, Any] | None:
    """The compressed run lengths of an annotation.

    Args:
        record: The annotation.
        size: (height, width) of the image; may be None for run lengths, which carry it.
        where: Place and file, for messages.
        report: Receives what is not written as COCO does.

    Returns:
        The mask; None if there is none, but a box with an area.

    Raises:
        OddEntryError: If it cannot be used.
    """
    segmentation = record.get("segmentation")
    if isinstance(segmentation, Mapping):
        return _run_lengths(segmentation, size, record, where, report)
    if not segmentation or size is None:
        _need_box(record, size, where)
        return None
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, (str, bytes)):
        raise _broken(f"{where}: wanted polygons or run lengths, got {segmentation!r:.60}")
    if (counts := _counts_alone(segmentation, size)) is not None:
        report(Fault.FIELD, f"{where}: run lengths without their size, {counts!r:.40}")
        return _run_lengths({"size": list(size), "counts": counts}, size, record, where, report)
    polygons = _polygons(segmentation, where, report)
    usable = [one for one in polygons if len(one) >= 6]  # pycocotools takes four for a box.
    if len(usable) < len(polygons):
        short = next(one for one in polygons if len(one) < 6)
        report(Fault.SHORT_OUTLINE, f"{where}: {len(short)} numbers")
    if not usable:
        _need_box(record, size, where)
        return None
    try:
        rle = to_rle(usable, size)
    except DataError as error:
        raise _broken(f"{where}: {error}") from error
    if mask_area(rle) == 0:
        odd = _empty(usable, size, where)
        # Of predictions a mask without a pixel is one that is wrong.
        if record.get("score") is None or odd.fault is not Fault.EMPTY:
            raise odd
    return rle


def checked_box(
    value: Any, rle: Mapping[str, Any] | None, where: str, report: Report, *, scored: bool
) -> BoxXYWH:
    """The box in the file, unless it plainly is not the object's.

    Args:
        value: What the file has.
        rle: The object's mask, if it has one.
        where: Place and file, for messages.
        report: Receives what was corrected.
        scored: It is a prediction, whose box may be another than its mask's.

    Raises:
        OddEntryError: If there is neither a box nor a mask.
    """
    own: BoxXYWH | None = None
    if rle is not None:
        left, top, width, height = mask_box_xywh(rle)
        own = (left, top, width, height)
    box = _four_numbers(value)
    if box is None:
        if own is None:
            raise OddEntryError(
                Fault.BROKEN_ENTRY,
                f"{where}: wanted bbox as [left, top, width, height], got {value!r:.60}",
            )
        if value not in (None, [], {}):
            report(Fault.BOX, f"{where}: bbox {value!r:.60}")
        return own
    if any(isinstance(side, str) for side in value):
        report(Fault.FIELD, f"{where}: bbox {value!r}")
    has_area = box[2] > 0 and box[3] > 0
    if own is None:
        if min(box[2:]) < 0 or (not has_area and not scored):
            raise OddEntryError(Fault.EMPTY, f"{where}: no mask, bbox {list(box)}")
        if has_area and min(box[:2]) >= 0 and max(box[0] + box[2], box[1] + box[3]) <= 1:
            raise OddEntryError(Fault.FRACTIONS, f"{where}: bbox {list(box)}")
        return box
    if not has_area:
        report(Fault.BOX, f"{where}: bbox {list(box)}, the mask's is {list(own)}")
        return own
    if _distance(box, own) > _CLOSE:
        corners = (box[0], box[1], box[2] - box[0], box[3] - box[1])
        are_corners = _distance(corners, own) <= _CLOSE
        is_other = _distance(box, own) > _FAR and box_iou([box], [own])[0, 0] < _MIN_IOU
        if are_corners or (is_other and not scored):
            fault = Fault.CORNERS if are_corners else Fault.BOX
            report(fault, f"{where}: bbox {list(box)}, the mask's is {list(own)}")
            return own
    return box


def is_one_pixel_off(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two (height, width) differ, and by no more than rounding explains."""
    steps = [abs(first - second) for first, second in zip(one, other, strict=True)]
    return 0 < max(steps) <= ONE_PIXEL


def _run_lengths(
    segmentation: Mapping[str, Any],
    size: tuple[int, int] | None,
    record: Mapping[str, Any],
    where: str,
    report: Report,
) -> dict[str, Any]:
    counts = segmentation.get("counts")
    repr_of_bytes = _REPR_OF_BYTES.fullmatch(counts) if isinstance(counts, str) else None
    if repr_of_bytes is not None:
        segmentation = {**segmentation, "counts": repr_of_bytes[2].replace("\\\\", "\\")}
    try:
        rle = to_rle(segmentation)
    except DataError as error:
        raise _broken(f"{where}: {error}") from error
    if repr_of_bytes is not None:
        report(Fault.FIELD, f"{where}: counts {counts!r:.40}")
    own = rle["size"]
    if size is not None and tuple(own) != tuple(size):
        if not is_one_pixel_off(own, size):
            raise OddEntryError(
                Fault.MASK_SIZE,
                f"{where}: wanted a mask of {size[0]} x {size[1]} (height x width) like its "
                f"image, got {own[0]} x {own[1]}",
            )
        report(Fault.ONE_PIXEL, f"{where}: mask {own[0]} x {own[1]}, image {size[0]} x {size[1]}")
        rle = refitted_mask(rle, size)
    if mask_area(rle) == 0 and record.get("score") is None:
        raise OddEntryError(Fault.EMPTY, f"{where}: run lengths of background alone")
    return rle


def _counts_alone(segmentation: Sequence[Any], size: tuple[int, int]) -> list[int] | None:
    """Uncompressed run lengths in the place of polygons; None if these are polygons.

    Run lengths add up to all pixels of the image, which corners never do.
    """
    one = segmentation[0] if len(segmentation) == 1 else segmentation
    if not isinstance(one, Sequence) or isinstance(one, str):
        return None
    if not all(type(count) is int and count >= 0 for count in one):
        return None
    return list(one) if sum(one) == size[0] * size[1] else None


def _need_box(record: Mapping[str, Any], size: tuple[int, int] | None, where: str) -> None:
    """Checks that an object without a mask has a box with an area.

    Raises:
        OddEntryError: If there is none either.
    """
    box = _four_numbers(record.get("bbox"))
    if size is None:
        raise _broken(f"{where}: wanted run lengths, got a mask without the image's size")
    if box is None and record.get("segmentation") is None:
        raise OddEntryError(
            Fault.BROKEN_ENTRY, f"{where}: wanted a segmentation or a bbox, got neither"
        )
    if box is None or ((box[2] <= 0 or box[3] <= 0) and record.get("score") is None):
        raise OddEntryError(Fault.EMPTY, f"{where}: no mask, bbox {record.get('bbox')!r:.60}")


def _polygons(segmentation: Sequence[Any], where: str, report: Report) -> list[list[float]]:
    """Polygons as lists of x, y, x, y, ...; also of points, of text, or one without its list.

    Raises:
        OddEntryError: If they are nothing of the kind.
    """
    plain = True
    ones: list[Any] = list(segmentation)
    if all(_is_plain(value) for value in ones) or (
        len(ones) >= 3 and all(_is_point(value) for value in ones)
    ):  # x, y, x, y, ... of a single polygon.
        ones, plain = [ones], False
    polygons = []
    for one in ones:
        try:
            if isinstance(one, Sequence) and not isinstance(one, str):
                if one and all(_is_point(value) for value in one):
                    one, plain = [side for point in one for side in point], False
                plain = plain and not any(isinstance(side, str) for side in one)
            points = np.array(one, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise _broken(f"{where}: wanted polygons of numbers x, y, ..., got {one!r:.60}") from (
                error
            )
        if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
            raise _broken(
                f"{where}: wanted polygons as pixels x, y, x, y, ..., got {points.size} entries "
                "that are no such list"
            )
        polygons.append(points.tolist())
    if not plain:
        report(Fault.FIELD, f"{where}: segmentation {segmentation!r:.60}")
    return polygons


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _is_point(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_plain, value))


def _empty(polygons: list[list[float]], size: tuple[int, int], where: str) -> OddEntryError:
    """Why polygons cover no pixel."""
    points = np.concatenate([np.reshape(one, (-1, 2)) for one in polygons])
    least, most = points.min(axis=0), points.max(axis=0)
    extent = f"x {least[0]:g} to {most[0]:g}, y {least[1]:g} to {most[1]:g}"
    if (least >= 0).all() and (most <= 1).all() and (most > 0).any():
        return OddEntryError(Fault.FRACTIONS, f"{where}: {extent}")
    if (most <= 0).any() or least[0] >= size[1] or least[1] >= size[0]:
        return OddEntryError(Fault.BEYOND, f"{where}: {extent} on {size[0]} x {size[1]}")
    return OddEntryError(Fault.EMPTY, f"{where}: a polygon that covers nothing, {extent}")


def _four_numbers(value: Any) -> BoxXYWH | None:
    if not isinstance(value, (list, tuple)) or len(value) != 4 or not all(map(_is_plain, value)):
        return None
    try:
        sides: list[float] = [float(side) if isinstance(side, str) else side for side in value]
        if not np.isfinite(np.array(sides, dtype=np.float64)).all():
            return None
    except (ValueError, OverflowError):
        return None
    left, top, width, height = sides
    return left, top, width, height


def _distance(one: BoxXYWH, other: BoxXYWH) -> float:
    """How far the sides of two boxes are apart at most, in pixels."""
    edges = [(box[0], box[1], box[0] + box[2], box[1] + box[3]) for box in (one, other)]
    return float(np.abs(np.array(edges[0]) - np.array(edges[1])).max())


def _broken(message: str) -> OddEntryError:
    return OddEntryError(Fault.BROKEN_MASK, message)
