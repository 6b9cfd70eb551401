"""Reading COCO files: masks as run lengths, embeddings from a sidecar."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.entries import (
    integer,
    mapping,
    read_annotation_entry,
    read_image_entry,
    read_segmentation,
)
from soloist.data.coco.types import CATEGORIES, CocoAnnotation, CocoFile, CocoImage
from soloist.errors import DataError
from soloist.runtime.files import one_line, shown

logger = logging.getLogger(__name__)

# What numpy raises for a damaged array; its header is a line of Python, which is not run.
_ARRAY_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    TokenError,
)


def load_coco(
    path: str | Path, *, images: Sequence[CocoImage] | None = None, need_masks: bool = True
) -> CocoFile:
    """Reads and checks a COCO file or a bare COCO result list.

    Args:
        path: A JSON file with `images` and `annotations`, or a list of results with
            `image_id`, `segmentation` and `score`.
        images: The images a result list refers to; without them its masks must be run
            lengths, which carry the size. Ignored for a whole COCO file.
        need_masks: Refuse entries with a box alone.

    Returns:
        The file with every segmentation checked and compressed. A sidecar of embeddings that
        is named but missing is reported as a warning.

    Raises:
        DataError: If the file cannot be read or an entry is malformed; names its index.
    """
    path = Path(path)
    content = read_json(path)
    if isinstance(content, list):
        return _load_results(path, content, images, need_masks)
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
        read_image_entry(record, f"images[{index}] of {shown(path)}")
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
    info = content.get("info")
    return CocoFile(
        path=path,
        images=own_images,
        annotations=_annotations(path, records, by_id, need_masks),
        categories=read_categories(path, content),
        embeddings=_load_embeddings(path, info, len(records)),
        info=info if isinstance(info, dict) else {},
    )


def _load_results(
    path: Path, records: list[Any], images: Sequence[CocoImage] | None, need_masks: bool
) -> CocoFile:
    if images is not None:
        by_id = {image.id: image for image in images}
    else:
        by_id = {}
        for index, record in enumerate(records):
            where = f"[{index}] of {shown(path)}"
            image_id = integer(mapping(record, where), "image_id", where)
            height, width = read_segmentation(record, None, where)["size"]
            by_id.setdefault(image_id, CocoImage(image_id, "", height, width))
    return CocoFile(
        path=path,
        images=tuple(by_id.values()),
        annotations=_annotations(path, records, by_id, need_masks),
        categories=CATEGORIES,
        embeddings=None,
        bare=True,
    )


def _annotations(
    path: Path, records: list[Any], images: Mapping[int, CocoImage], need_masks: bool
) -> dict[int, tuple[CocoAnnotation, ...]]:
    grouped: dict[int, list[CocoAnnotation]] = {image_id: [] for image_id in images}
    for index, record in enumerate(records):
        where = f"annotations[{index}] of {shown(path)}"
        image_id = integer(mapping(record, where), "image_id", where)
        if image_id not in images:
            raise DataError(
                f"{where}: wanted the id of one of the images, got image_id {image_id}; "
                "check that the two belong together"
            )
        grouped[image_id].append(
            read_annotation_entry(record, images[image_id], index, where, need_masks=need_masks)
        )
    return {image_id: tuple(annotations) for image_id, annotations in grouped.items()}


def read_categories(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """Names by id; empty where the content names none.

    Raises:
        DataError: If an entry is malformed.
    """
    categories: dict[int, str] = {}
    records = content.get("categories") or []
    if not isinstance(records, list):
        raise DataError(
            f"wanted a list under `categories` of {shown(path)}, got {type(records).__name__}; "
            "correct it, or leave it out"
        )
    for index, record in enumerate(records):
        where = f"categories[{index}] of {shown(path)}"
        key = integer(mapping(record, where), "id", where)
        categories[key] = str(record.get("name", key))
    return categories


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
    except _ARRAY_ERRORS as error:
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


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: If it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason, remedy = error.strerror, "check the path"
    except (ValueError, RecursionError) as error:
        reason, remedy = f"it is not JSON: {one_line(error)}", "check how it was made"
    raise DataError(f"wanted a COCO file, got {shown(path)}: {reason}; {remedy}")
