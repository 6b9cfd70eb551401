"""Single entries of COCO files, read and checked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

from soloist.data.coco.rle import MAX_MASK_PIXELS, mask_area, mask_box_xywh, to_rle
from soloist.data.coco.types import CocoAnnotation, CocoImage
from soloist.data.georeference import Georeference
from soloist.data.sources import image_name
from soloist.errors import DataError


def read_image_entry(record: Any, where: str) -> CocoImage:
    """An entry of `images`.

    Args:
        record: What JSON holds there.
        where: Place and file, for messages.

    Raises:
        DataError: If the entry is malformed.
    """
    name = image_name(mapping(record, where))
    if name is None:
        raise DataError(
            f"{where}: wanted a string under file_name, got {record.get('file_name')!r}"
        )
    height, width = (integer(record, key, where) for key in ("height", "width"))
    if height < 1 or width < 1:
        raise DataError(f"{where}: wanted height and width of 1 or more, got {height} x {width}")
    if height * width > MAX_MASK_PIXELS:
        raise DataError(
            f"{where}: wanted an image of at most {MAX_MASK_PIXELS} pixels, got {height} x {width}"
        )
    place = _georeference(record.get("georeference"), where)
    return CocoImage(integer(record, "id", where), name, height, width, place)


def _georeference(record: Any, where: str) -> Georeference | None:
    if record is None:
        return None
    fields = mapping(record, f"georeference of {where}")
    transform, crs = fields.get("transform"), fields.get("crs")
    if not (
        isinstance(transform, list) and len(transform) == 6 and all(map(_is_number, transform))
    ):
        raise DataError(f"{where}: wanted georeference.transform as six numbers, got {transform!r}")
    if not (crs is None or isinstance(crs, str)):
        raise DataError(f"{where}: wanted georeference.crs such as EPSG:32633, got {crs!r}")
    a, b, c, d, e, f = transform
    return Georeference((a, b, c, d, e, f), crs)


def read_annotation_entry(
    record: Any, image: CocoImage, index: int, where: str, *, need_masks: bool = True
) -> CocoAnnotation:
    """An entry of `annotations`, or of a result list.

    Args:
        record: What JSON holds there.
        image: The image it lies on.
        index: Its place in the file.
        where: Place and file, for messages.
        need_masks: Refuse an entry with a box alone.

    Raises:
        DataError: If the entry is malformed.
    """
    rle = None
    if need_masks or mapping(record, where).get("segmentation") not in (None, [], {}):
        rle = read_segmentation(record, (image.height, image.width), where)
    box = record.get("bbox")
    if rle is not None and (box is None or box == []):
        box = mask_box_xywh(rle)
    if not (isinstance(box, (list, tuple)) and len(box) == 4 and all(map(_is_number, box))):
        raise DataError(f"{where}: wanted bbox as [left, top, width, height], got {box!r}")
    area = record.get("area")
    if area is None:
        own_area = box[2] * box[3] if rle is None else mask_area(rle)
    else:
        own_area = _number(record, "area", where)
    return CocoAnnotation(
        image_id=image.id,
        segmentation=rle,
        box_xywh=(box[0], box[1], box[2], box[3]),
        area=own_area,
        score=_number(record, "score", where) if "score" in record else 1.0,
        category_id=integer(record, "category_id", where) if "category_id" in record else 1,
        iscrowd=bool(record.get("iscrowd", 0)),
        index=index,
        id=record["id"] if type(record.get("id")) is int else index + 1,
        agreements=_agreements(record, where),
        track_id=record["track_id"] if type(record.get("track_id")) is int else None,
    )


def read_segmentation(record: Mapping[str, Any], size: tuple[int, int] | None, where: str) -> Any:
    """The compressed run lengths of an annotation; `to_rle` tells what is accepted.

    Raises:
        DataError: If they are malformed.
    """
    try:
        return to_rle(record.get("segmentation"), size)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def mapping(record: Any, where: str) -> dict[str, Any]:
    """The record, if it is an object of JSON.

    Raises:
        DataError: If it is not.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where}: wanted an object with keys, got {type(record).__name__}")
    return record


def integer(record: Mapping[str, Any], key: str, where: str) -> int:
    """The integer under a key.

    Raises:
        DataError: If there is none.
    """
    value = record.get(key)
    if type(value) is not int:
        raise DataError(f"{where}: wanted an integer under {key}, got {value!r}")
    return value


def _agreements(record: Mapping[str, Any], where: str) -> tuple[float, ...]:
    values = record.get("agreements", [])
    if not isinstance(values, list) or not all(map(_is_number, values)):
        raise DataError(f"{where}: wanted agreements as a list of numbers, got {values!r}")
    return tuple(values)


def _number(record: Mapping[str, Any], key: str, where: str) -> float:
    value = record.get(key)
    if not _is_number(value):
        raise DataError(f"{where}: wanted a finite number under {key}, got {value!r}")
    return float(value)


def _is_number(value: object) -> TypeGuard[float]:
    """A finite number that a float can hold; json reads NaN and integers of any length."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max
