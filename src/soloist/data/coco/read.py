"""Reading COCO files: masks as run lengths, embeddings from a sidecar."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.entries import (
    class_numbers,
    integer,
    mapping,
    read_annotation_entry,
    read_image_entry,
)
from soloist.data.coco.faults import Fault, FaultLog, Gate, OddEntryError, Report
from soloist.data.coco.results import read_results
from soloist.data.coco.types import CocoAnnotation, CocoFile, CocoImage
from soloist.data.sources import Identity, identity
from soloist.errors import DataError
from soloist.runtime.files import LFS_REMEDY, is_lfs_pointer, one_line, shown

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


@dataclass(frozen=True)
class CocoRecords:
    """A COCO file whose ids were read, and whose objects are not read yet.

    Attributes:
        path: Where it is.
        images: Its images by id; sides of those that state no size are 0.
        categories: Names by id; empty if the file has none.
        entries: Annotations by image id, with their places in the file.
    """

    path: Path
    images: Mapping[int, CocoImage]
    categories: Mapping[int, str]
    entries: Mapping[int, Sequence[tuple[int, Any]]]
    _classes: Mapping[Identity, int]

    def objects(
        self, image: CocoImage, report: Report, *, need_masks: bool = False
    ) -> list[CocoAnnotation]:
        """The objects of an image, those left out that cannot be used.

        Args:
            image: One of `images`, perhaps of another size.
            report: Receives what is wrong.
            need_masks: Leave out boxes alone.
        """
        objects: list[CocoAnnotation] = []
        seen: dict[tuple[object, ...], list[Any]] = {}
        for index, entry in self.entries.get(image.id, ()):
            where = f"annotations[{index}] of {shown(self.path)}"
            try:
                one = read_annotation_entry(
                    entry,
                    image,
                    index,
                    where,
                    need_masks=need_masks,
                    report=report,
                    classes=self._classes,
                )
            except OddEntryError as error:
                report(error.fault, str(error))
                continue
            twins = seen.setdefault((one.category_id, one.area, one.box_xywh), [])
            if entry.get("score") is None and one.segmentation in twins:
                report(Fault.DOUBLE_OBJECT, where)
            twins.append(one.segmentation)
            objects.append(one)
        return objects


def load_coco(
    path: str | Path,
    *,
    images: Sequence[CocoImage] | None = None,
    need_masks: bool = True,
    report: Report | None = None,
) -> CocoFile:
    """Reads and checks a COCO file or a bare COCO result list.

    What is wrong with single objects costs these objects: they are left out, counted by kind,
    and logged with an example.

    Args:
        path: A JSON file with `images` and `annotations`, or a list of results with
            `image_id`, `segmentation` and `score`.
        images: The images a result list refers to; without them its masks must be run
            lengths, which carry the size. Ignored for a whole COCO file.
        need_masks: Leave out entries with a box alone.
        report: Receives what is wrong; None logs it, and refuses a file that cannot be used.

    Returns:
        The file with every segmentation checked and compressed. A sidecar of embeddings that
        is named but missing is reported as a warning.

    Raises:
        DataError: If the file cannot be read or used; names the index of what is wrong.
    """
    path = Path(path)
    gate = Gate()
    content = read_json(path)
    receiver = report or gate
    if isinstance(content, list):
        file = read_results(path, content, images, receiver, need_masks=need_masks)
        count = len(content)
    else:
        records = read_records(path, content, receiver)
        info = content.get("info")
        count = len(content["annotations"])
        file = CocoFile(
            path=path,
            images=tuple(records.images.values()),
            annotations={
                key: tuple(records.objects(image, receiver, need_masks=need_masks))
                for key, image in records.images.items()
            },
            categories=records.categories,
            embeddings=_load_embeddings(path, info, count),
            info=info if isinstance(info, dict) else {},
        )
    if count and len(file) == 0:
        _refuse_unusable(path, count, receiver if isinstance(receiver, FaultLog) else gate)
    gate.tell(path)
    return file


def read_records(
    path: Path, content: Any, report: Report, *, need_sizes: bool = True
) -> CocoRecords:
    """Images, categories and the ids of annotations.

    Args:
        path: The file.
        content: What it holds.
        report: Receives what is wrong; what cannot be used is left out.
        need_sizes: Leave out images without a size.

    Raises:
        DataError: If it is no COCO file.
    """
    if isinstance(content, list):
        raise DataError(
            f"wanted a COCO file with `images` and `annotations`, got {shown(path)}, a list of "
            "results without `images`; check that predictions and ground truth come in this order"
        )
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"wanted a COCO file with lists `images` and `annotations`, got {shown(path)} "
                f"without `{key}`; check that it is the right file"
            )
    images, numbers = _images(path, content["images"], report, need_sizes=need_sizes)
    classes, categories = _categories(path, content, report)
    return CocoRecords(
        path=path,
        images=images,
        categories=categories,
        entries=_entries(path, content["annotations"], numbers, report),
        _classes=classes,
    )


def _images(
    path: Path, records: list[Any], report: Report, *, need_sizes: bool
) -> tuple[dict[int, CocoImage], dict[Identity, int | None]]:
    """The images by id, and the ids by what they are in the file; None of those left out."""
    keys = [identity(one.get("id")) if isinstance(one, dict) else None for one in records]
    as_they_are = all(isinstance(key, int) for key in keys if key is not None)
    images: dict[int, CocoImage] = {}
    numbers: dict[Identity, int | None] = {}
    names: dict[str, int] = {}
    for index, (record, key) in enumerate(zip(records, keys, strict=True)):
        where = f"images[{index}] of {shown(path)}"
        if key is not None and key in numbers:
            report(Fault.DOUBLE_ID, f"{where}: id {key}")
            continue
        number = key if as_they_are and isinstance(key, int) else index + 1
        try:
            if key is None:
                integer(mapping(record, where), "id", where)
            image = read_image_entry(record, where, report, number=number, need_size=need_sizes)
        except DataError as error:
            report(Fault.BROKEN_ENTRY, str(error))
            if key is not None:
                numbers[key] = None
            continue
        if image.file_name in names:
            report(
                Fault.DOUBLE_NAME,
                f"{where}: {shown(image.file_name)}, as images[{names[image.file_name]}]",
            )
        names.setdefault(image.file_name, index)
        assert key is not None
        numbers[key] = number
        images[number] = image if isinstance(key, int) else replace(image, source_id=key)
    return images, numbers


def _categories(
    path: Path, content: Mapping[str, Any], report: Report
) -> tuple[dict[Identity, int], dict[int, str]]:
    """Ids of the categories by what they are in the file, and names by id."""
    records = content.get("categories") or []
    if not isinstance(records, list):
        raise DataError(
            f"wanted a list under `categories` of {shown(path)}, got {type(records).__name__}; "
            "correct it, or leave it out"
        )
    keys: list[tuple[Identity, str]] = []
    for index, record in enumerate(records):
        where = f"categories[{index}] of {shown(path)}"
        key = identity(record.get("id")) if isinstance(record, dict) else None
        if key is None:
            report(Fault.BROKEN_ENTRY, f"{where}: wanted an object with an id, got {record!r:.60}")
            continue
        name = record.get("name")
        keys.append((key, str(key) if name is None else str(name)))
    numbers = class_numbers(key for key, _ in keys)
    categories: dict[int, str] = {}
    ids: dict[str, int] = {}
    for key, name in keys:
        number = numbers[key]
        if categories.setdefault(number, name) != name:
            report(
                Fault.DOUBLE_CLASS,
                f"{shown(path)}: id {key} is {categories[number]!r} and {name!r}",
            )
        elif ids.setdefault(name, number) != number:
            report(Fault.DOUBLE_CLASS_NAME, f"{shown(path)}: {name!r} is {ids[name]} and {number}")
    return numbers, categories


def _entries(
    path: Path, records: list[Any], numbers: Mapping[Identity, int | None], report: Report
) -> dict[int, list[tuple[int, Any]]]:
    """Annotations by image id, with their places in the file."""
    entries: dict[int, list[tuple[int, Any]]] = {}
    ids: set[object] = set()
    for index, record in enumerate(records):
        where = f"annotations[{index}] of {shown(path)}"
        key = identity(record.get("image_id")) if isinstance(record, dict) else None
        if key is None:
            got = record.get("image_id") if isinstance(record, dict) else record
            report(Fault.BROKEN_ENTRY, f"{where}: wanted an id under image_id, got {got!r:.60}")
            continue
        number = numbers.get(key)
        if number is None:
            what = "image that was left out" if key in numbers else "image_id"
            report(Fault.ORPHAN, f"{where}: {what} {key!r}")
            continue
        own = record.get("id")
        if isinstance(own, (int, str)):
            if own in ids:
                report(Fault.DOUBLE_OBJECT_ID, f"{where}: id {own}")
            ids.add(own)
        entries.setdefault(number, []).append((index, record))
    return entries


def _refuse_unusable(path: Path, count: int, log: FaultLog) -> NoReturn:
    """Ends where none of the objects is left.

    Raises:
        DataError: Always.
    """
    lines = log.lines()
    why = f" ({lines[0]})" if lines else ""
    raise DataError(
        f"wanted a COCO file of objects, got {shown(path)}, none of whose {count} annotations can "
        f"be used{why}; `soloist data check` says what is wrong with it"
    )


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
        if is_lfs_pointer(path):
            raise DataError(f"wanted a COCO file, got {shown(path)}: {LFS_REMEDY}") from error
    raise DataError(f"wanted a COCO file, got {shown(path)}: {reason}; {remedy}")
