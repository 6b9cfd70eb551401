"""COCO files between the stages: masks as run lengths, embeddings in a sidecar.

Reading stands here; the types, the writing and the run lengths are offered here too.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco_types import CATEGORIES, CocoAnnotation, CocoFile, CocoImage
from soloist.data.coco_write import annotation_records, instances_to_annotations, write_coco
from soloist.data.rle import (
    decode_mask,
    decode_masks,
    encode_masks,
    mask_area,
    mask_box_xywh,
    to_rle,
)
from soloist.errors import DataError
from soloist.files import one_line, shown

__all__ = [
    "CATEGORIES",
    "CocoAnnotation",
    "CocoFile",
    "CocoImage",
    "annotation_records",
    "decode_mask",
    "decode_masks",
    "encode_masks",
    "instances_to_annotations",
    "load_coco",
    "to_rle",
    "write_coco",
]

logger = logging.getLogger(__name__)


def load_coco(path: str | Path, *, images: Sequence[CocoImage] | None = None) -> CocoFile:
    """Reads and checks a COCO file or a bare COCO result list.

    Args:
        path: A JSON file with `images` and `annotations`, or a list of results with
            `image_id`, `segmentation` and `score`.
        images: The images a result list refers to; without them its masks must be run
            lengths, which carry the size. Ignored for a whole COCO file.

    Returns:
        The file with every segmentation checked and compressed. A sidecar of embeddings that
        is named but missing is reported as a warning.

    Raises:
        DataError: If the file cannot be read or an entry is malformed; names its index.
    """
    path = Path(path)
    content = _read_json(path)
    if isinstance(content, list):
        return _load_results(path, content, images)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(
            f"wanted a COCO file with `images` and `annotations`, got {shown(path)} without "
            "`images`; check that it is the right file"
        )
    records = content.get("annotations")
    if not isinstance(records, list):
        raise DataError(
            f"wanted a COCO file with a list `annotations`, got {shown(path)} without one; "
            "check that it is the right file"
        )
    own_images = tuple(
        _image(record, f"images[{index}] of {shown(path)}")
        for index, record in enumerate(content["images"])
    )
    by_id = {image.id: image for image in own_images}
    for kind, different in (
        ("id", len(by_id)),
        ("file_name", len({image.file_name for image in own_images})),
    ):
        if different < len(own_images):
            raise DataError(
                f"wanted a different {kind} for each of the {len(own_images)} images of "
                f"{shown(path)}, got {different} different ones; remove the doubles"
            )
    return CocoFile(
        path=path,
        images=own_images,
        annotations=_annotations(path, records, by_id),
        categories=_categories(path, content),
        embeddings=_load_embeddings(path, content.get("info"), len(records)),
    )


def _load_results(path: Path, records: list[Any], images: Sequence[CocoImage] | None) -> CocoFile:
    if images is not None:
        by_id = {image.id: image for image in images}
    else:
        by_id = {}
        for index, record in enumerate(records):
            where = f"[{index}] of {shown(path)}"
            image_id = _integer(_mapping(record, where), "image_id", where)
            height, width = _checked_rle(record, None, where)["size"]
            by_id.setdefault(image_id, CocoImage(image_id, "", height, width))
    return CocoFile(
        path=path,
        images=tuple(by_id.values()),
        annotations=_annotations(path, records, by_id),
        categories=CATEGORIES,
        embeddings=None,
        bare=True,
    )


def _annotations(
    path: Path, records: list[Any], images: Mapping[int, CocoImage]
) -> dict[int, tuple[CocoAnnotation, ...]]:
    grouped: dict[int, list[CocoAnnotation]] = {image_id: [] for image_id in images}
    for index, record in enumerate(records):
        where = f"annotations[{index}] of {shown(path)}"
        image_id = _integer(_mapping(record, where), "image_id", where)
        if image_id not in images:
            raise DataError(
                f"{where}: wanted the id of one of the images, got image_id {image_id}; "
                "check that the two belong together"
            )
        image = images[image_id]
        rle = _checked_rle(record, (image.height, image.width), where)
        box = record.get("bbox")
        if box is None or box == []:
            box = mask_box_xywh(rle)
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            raise DataError(f"{where}: wanted bbox as [left, top, width, height], got {box!r}")
        area = record.get("area")
        grouped[image_id].append(
            CocoAnnotation(
                image_id=image_id,
                segmentation=rle,
                box_xywh=(box[0], box[1], box[2], box[3]),
                area=mask_area(rle) if area is None else _number(record, "area", where),
                score=_number(record, "score", where) if "score" in record else 1.0,
                category_id=(
                    _integer(record, "category_id", where) if "category_id" in record else 1
                ),
                iscrowd=bool(record.get("iscrowd", 0)),
                index=index,
            )
        )
    return {image_id: tuple(annotations) for image_id, annotations in grouped.items()}


def _image(record: Any, where: str) -> CocoImage:
    _mapping(record, where)
    name = record.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: wanted a string under file_name, got {name!r}")
    height, width = (_integer(record, key, where) for key in ("height", "width"))
    if height < 1 or width < 1:
        raise DataError(f"{where}: wanted height and width of 1 or more, got {height} x {width}")
    return CocoImage(_integer(record, "id", where), name, height, width)


def _categories(path: Path, content: dict[str, Any]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for index, record in enumerate(content.get("categories") or []):
        where = f"categories[{index}] of {shown(path)}"
        key = _integer(_mapping(record, where), "id", where)
        categories[key] = str(record.get("name", key))
    return categories or dict(CATEGORIES)


def _load_embeddings(path: Path, info: Any, count: int) -> NDArray[np.floating] | None:
    name = info.get("embeddings") if isinstance(info, dict) else None
    if name is None:
        return None
    if not isinstance(name, str) or Path(name).name != name:
        raise DataError(
            f"wanted the embeddings of {shown(path)} in a file beside it, got {name!r}; "
            "correct info.embeddings"
        )
    sidecar = path.parent / name
    if not sidecar.is_file():
        logger.warning("%s: its embeddings %s are missing", shown(path), shown(sidecar))
        return None
    try:
        embeddings = np.load(sidecar, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"wanted an array of embeddings, got {shown(sidecar)}: {one_line(error)}; "
            "write the COCO file again, or remove info.embeddings"
        ) from error
    if (
        not isinstance(embeddings, np.ndarray)
        or embeddings.ndim != 2
        or len(embeddings) != count
        or not np.issubdtype(embeddings.dtype, np.floating)
    ):
        shape = getattr(embeddings, "shape", None)
        raise DataError(
            f"wanted {count} rows of embeddings, one for each annotation of {shown(path)}, got "
            f"{shown(sidecar)} of shape {shape}; the two files do not belong together"
        )
    return embeddings


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason, remedy = error.strerror, "check the path"
    except (ValueError, RecursionError) as error:
        reason, remedy = f"it is not JSON: {one_line(error)}", "check how it was made"
    raise DataError(f"wanted a COCO file, got {shown(path)}: {reason}; {remedy}")


def _checked_rle(record: Mapping[str, Any], size: tuple[int, int] | None, where: str) -> Any:
    try:
        return to_rle(record.get("segmentation"), size)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _mapping(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise DataError(f"{where}: wanted an object with keys, got {type(record).__name__}")
    return record


def _integer(record: Mapping[str, Any], key: str, where: str) -> int:
    value = record.get(key)
    if type(value) is not int:
        raise DataError(f"{where}: wanted an integer under {key}, got {value!r}")
    return value


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
