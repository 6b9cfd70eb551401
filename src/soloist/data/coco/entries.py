"""Single entries of COCO files, read and checked, written as COCO does or nearly so."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from soloist.data.coco.faults import Fault, OddEntryError, Report, refuse
from soloist.data.coco.objects import checked_box, read_segmentation
from soloist.data.coco.rle import MAX_MASK_PIXELS, mask_area
from soloist.data.coco.types import NO_CLASS, CocoAnnotation, CocoImage
from soloist.data.georeference import Georeference
from soloist.data.sources import Identity, identity, image_name
from soloist.errors import DataError
from soloist.structures import STORED

_LESS_AREA = 100.0
"""Pixels by which an area must be off to be wrong; and it must be off by a factor of two."""
_FLAGS: Mapping[object, bool] = {
    0: False,
    1: True,
    "": False,
    "0": False,
    "1": True,
    "false": False,
    "true": True,
}


def read_image_entry(
    record: Any,
    where: str,
    report: Report = refuse,
    *,
    number: int | None = None,
    need_size: bool = True,
) -> CocoImage:
    """An entry of `images`.

    Args:
        record: What JSON holds there.
        where: Place and file, for messages.
        report: Receives what is not written as COCO does.
        number: The id it gets; None takes that of the entry, which must be an integer.
        need_size: Refuse an entry without a size; else its height and width are 0.

    Raises:
        DataError: If the entry cannot be used.
    """
    name = image_name(mapping(record, where))
    if name is None:
        raise DataError(
            f"{where}: wanted a string under file_name, got {record.get('file_name')!r}"
        )
    sides = [_side(record, key, where, report) for key in ("height", "width")]
    if not all(sides):
        stated = f"{record.get('height')!r} x {record.get('width')!r}"
        if need_size:
            raise DataError(f"{where}: wanted height and width of 1 or more, got {stated}")
        report(Fault.FIELD, f"{where}: size {stated}, which is taken from the file")
        sides = [0, 0]
    height, width = sides
    if height * width > MAX_MASK_PIXELS:
        raise DataError(
            f"{where}: wanted an image of at most {MAX_MASK_PIXELS} pixels, got {height} x {width}"
        )
    place = _georeference(record.get("georeference"), where)
    if number is None:
        number = integer(record, "id", where)
    state = record.get("file_state")
    known = isinstance(state, list) and len(state) == 2 and all(type(one) is int for one in state)
    return CocoImage(
        number, name, height, width, place, file_state=(state[0], state[1]) if known else None
    )


def _side(record: Mapping[str, Any], key: str, where: str, report: Report) -> int:
    """Height or width in pixels; 0 where there is none.

    Raises:
        DataError: If it is no number, or none of pixels.
    """
    value = record.get(key)
    if value is None or value == 0:
        return 0
    number = _number(value)
    if number is None or number < 0 or not number.is_integer():
        raise DataError(f"{where}: wanted an integer of 1 or more under {key}, got {value!r}")
    if isinstance(value, str):
        report(Fault.FIELD, f"{where}: {key} {value!r}")
    return int(number)


def _georeference(record: Any, where: str) -> Georeference | None:
    if record is None:
        return None
    fields = mapping(record, f"georeference of {where}")
    transform, crs = fields.get("transform"), fields.get("crs")
    if not (isinstance(transform, list) and len(transform) == 6 and all(map(is_number, transform))):
        raise DataError(f"{where}: wanted georeference.transform as six numbers, got {transform!r}")
    if not (crs is None or isinstance(crs, str)):
        raise DataError(f"{where}: wanted georeference.crs such as EPSG:32633, got {crs!r}")
    a, b, c, d, e, f = transform
    return Georeference((a, b, c, d, e, f), crs)


def read_annotation_entry(
    record: Any,
    image: CocoImage,
    index: int,
    where: str,
    *,
    need_masks: bool = True,
    report: Report = refuse,
    classes: Mapping[Identity, int] | None = None,
) -> CocoAnnotation:
    """An entry of `annotations`, or of a result list.

    A true object's box and area are its mask's where they plainly are not; predictions, which
    have a score, may have a box of their own.

    Args:
        record: What JSON holds there.
        image: The image it lies on.
        index: Its place in the file.
        where: Place and file, for messages.
        need_masks: Refuse an entry with a box alone.
        report: Receives what was corrected, and what is odd but kept.
        classes: Category ids by what they are in the file, where it names categories.

    Raises:
        OddEntryError: If the entry cannot be used; it says of which kind that is.
    """
    fields = _object(record, where)
    size = (image.height, image.width)
    rle = read_segmentation(fields, size, where, report)
    if rle is None and need_masks:
        raise OddEntryError(Fault.BOX_ALONE, f"{where}: bbox {fields.get('bbox')!r:.60}")
    scored = fields.get("score") is not None
    if "score" in fields and not scored:
        report(Fault.FIELD, f"{where}: score None")
    box = checked_box(fields.get("bbox"), rle, where, report, scored=scored)
    return CocoAnnotation(
        image_id=image.id,
        segmentation=rle,
        box_xywh=box,
        area=_area(fields.get("area"), rle, box, where, report),
        score=_required(fields, "score", where) if scored else 1.0,
        category_id=_category(fields, classes, where, report),
        iscrowd=_crowd(fields.get("iscrowd", 0), where, report),
        index=index,
        id=fields["id"] if type(fields.get("id")) is int else index + 1,
        outputs=_outputs(fields, where),
    )


def _area(
    value: Any,
    rle: Mapping[str, Any] | None,
    box: tuple[float, float, float, float],
    where: str,
    report: Report,
) -> float:
    """The area in the file, unless it plainly is not the object's."""
    own = box[2] * box[3] if rle is None else float(mask_area(rle))
    if value is None:
        return own
    number = _number(value)
    # A box may well be emptier than that.
    least = 0 if rle is None else own / 2
    is_wrong = number is None or (
        (number <= 0 < own) or (abs(number - own) > _LESS_AREA and not least <= number <= 2 * own)
    )
    if number is None or is_wrong:
        report(Fault.AREA, f"{where}: area {value!r}, {own:g} pixels")
        return own
    if isinstance(value, str):
        report(Fault.FIELD, f"{where}: area {value!r}")
    return number


def _category(
    fields: Mapping[str, Any],
    classes: Mapping[Identity, int] | None,
    where: str,
    report: Report,
) -> int:
    """The id of its class; `NO_CLASS` if it has none."""
    if "category_id" not in fields and not classes:
        return 1
    value = fields.get("category_id")
    key = identity(value)
    if key is None:
        report(Fault.NO_CLASS, f"{where}: category_id {value!r}")
        return NO_CLASS
    if type(value) is not int and not (isinstance(value, float) or key == value):
        report(Fault.FIELD, f"{where}: category_id {value!r}")
    if classes:
        if key not in classes:
            report(Fault.UNKNOWN_CLASS, f"{where}: category_id {value!r}")
        else:
            return classes[key]
    # A number that was given to another class means nothing here.
    taken = classes.values() if classes else ()
    return key if isinstance(key, int) and key not in taken else NO_CLASS


def _crowd(value: Any, where: str, report: Report) -> bool:
    plain = value.strip().casefold() if isinstance(value, str) else value
    known = None
    if isinstance(plain, (bool, int, float, str)):
        known = _FLAGS.get(plain)
    elif plain is None:
        known = False
    if known is None:
        report(Fault.CROWD, f"{where}: iscrowd {value!r}")
        return False
    if isinstance(value, str) or value is None:
        report(Fault.FIELD, f"{where}: iscrowd {value!r}")
    return known


def class_numbers(values: Iterable[Any]) -> dict[Identity, int]:
    """A number for each id of a category: its own if all are integers, else its place from 1.

    What is no id is left out.
    """
    keys = list(dict.fromkeys(key for value in values if (key := identity(value)) is not None))
    if all(isinstance(key, int) for key in keys):
        return {key: key for key in keys if isinstance(key, int)}
    return {key: place for place, key in enumerate(keys, start=1)}


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
    value = identity(record.get(key))
    if not isinstance(value, int):
        raise DataError(f"{where}: wanted an integer under {key}, got {record.get(key)!r}")
    return value


def _object(record: Any, where: str) -> dict[str, Any]:
    try:
        return mapping(record, where)
    except DataError as error:
        raise OddEntryError(Fault.BROKEN_ENTRY, str(error)) from error


def _outputs(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What an entry has of `STORED`, by key; other tools write identities of other kinds."""
    outputs: dict[str, Any] = {}
    for one in STORED.values():
        value = record.get(one.key)
        if one.is_integer:
            if type(value) is int:
                outputs[one.key] = value
        elif value not in (None, []):
            if not isinstance(value, list) or not all(map(is_number, value)):
                raise OddEntryError(
                    Fault.BROKEN_ENTRY,
                    f"{where}: wanted {one.key} as a list of numbers, got {value!r}",
                )
            outputs[one.key] = value
    return outputs


def _required(record: Mapping[str, Any], key: str, where: str) -> float:
    value = record.get(key)
    if not is_number(value):
        raise OddEntryError(
            Fault.BROKEN_ENTRY, f"{where}: wanted a finite number under {key}, got {value!r}"
        )
    return float(value)


def _number(value: object) -> float | None:
    """A finite number, also as text; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
        return value if math.isfinite(value) else None
    return float(value) if is_number(value) else None


def is_number(value: object) -> TypeGuard[float]:
    """A finite number that a float can hold; json reads NaN and integers of any length."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max
