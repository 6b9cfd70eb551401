"""Data sets of COCO's shape: COCO, LVIS, UVO, and what annotation tools export as such."""

from __future__ import annotations

import mmap
from collections import defaultdict
from pathlib import Path
from typing import Any

from soloist.data.coco.entries import integer, mapping, read_annotation_entry, read_image_entry
from soloist.data.coco.read import read_categories, read_json
from soloist.data.coco.types import CocoAnnotation, CocoImage
from soloist.data.datasets.dataset import Dataset, DatasetImage
from soloist.data.datasets.faults import Fault, Report
from soloist.data.sources import ImagePlaces
from soloist.errors import DataError
from soloist.runtime.files import shown

# Names that mean objects, whatever else lies beside them (captions, keypoints, ...).
_OBJECT_FILES = ("instances_*.json", "lvis_*.json", "UVO_*.json", "_annotations.coco.json")
_FOLDERS = ("annotations", ".", "*")


def coco_splits(path: Path) -> tuple[str, ...]:
    """The files of objects in a folder, by what tells them apart; none if there are none."""
    return tuple(_files(path))


def read_coco(path: Path, split: str, report: Report) -> Dataset:
    """One COCO file.

    Args:
        path: The file, or the folder it lies in.
        split: One of `coco_splits`.
        report: Told what is wrong.

    Raises:
        DataError: If the file is not COCO's at all.
    """
    file = _files(path)[split]
    content = read_json(file)
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"wanted a COCO file with lists `images` and `annotations`, got {shown(file)} "
                f"without `{key}`; check that it is the right file"
            )
    images = _images(file, content["images"], report)
    categories = read_categories(file, content)
    entries = _entries(file, content["annotations"], images, report)
    named = isinstance(content.get("categories"), list)
    places = ImagePlaces(file)

    def read_objects(image: DatasetImage, report: Report) -> list[CocoAnnotation]:
        objects = []
        for index, entry in entries.get(image.id, []):
            where = f"annotations[{index}] of {shown(file)}"
            try:
                one = read_annotation_entry(entry, images[image.id], index, where, need_masks=False)
            except DataError as error:
                masked = entry.get("segmentation") not in (None, [], {})
                report(Fault.BROKEN_MASK if masked else Fault.BROKEN_ENTRY, str(error))
                continue
            if named and one.category_id not in categories:
                report(Fault.UNKNOWN_CLASS, f"{where}: category_id {one.category_id}")
            objects.append(one)
        return objects

    return Dataset(
        format="coco",
        path=file,
        split=split,
        images=tuple(
            DatasetImage(one.id, places.find(one.file_name), one.file_name, (one.height, one.width))
            for one in images.values()
        ),
        categories=categories,
        read_objects=read_objects,
        remarks=_remarks(content),
    )


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.stem: path} if path.suffix.lower() == ".json" else {}
    for folder in _FOLDERS:
        for patterns in (_OBJECT_FILES, ("*.json",) if folder != "*" else ()):
            found = sorted({file for one in patterns for file in path.glob(f"{folder}/{one}")})
            if patterns != _OBJECT_FILES:
                found = [file for file in found if _is_coco(file)]
            if found:
                return {_split_name(file): file for file in found}
    return {}


def _split_name(file: Path) -> str:
    if file.name == "_annotations.coco.json":  # One in each split's folder.
        return file.parent.name
    return file.stem.removeprefix("instances_")


def _is_coco(file: Path) -> bool:
    """Whether a JSON file speaks of images and annotations, without parsing it."""
    if file.stat().st_size == 0:
        return False
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        return text.find(b'"images"') >= 0 and text.find(b'"annotations"') >= 0


def _images(file: Path, records: list[Any], report: Report) -> dict[int, CocoImage]:
    images: dict[int, CocoImage] = {}
    names: set[str] = set()
    for index, record in enumerate(records):
        where = f"images[{index}] of {shown(file)}"
        try:
            image = read_image_entry(record, where)
        except DataError as error:
            report(Fault.BROKEN_ENTRY, str(error))
            continue
        if image.id in images:
            report(Fault.DOUBLE_ID, f"{where}: id {image.id}")
            continue
        if image.file_name in names:
            report(Fault.DOUBLE_NAME, f"{where}: {shown(image.file_name)}")
        names.add(image.file_name)
        images[image.id] = image
    return images


def _entries(
    file: Path, records: list[Any], images: dict[int, CocoImage], report: Report
) -> dict[int, list[tuple[int, dict[str, Any]]]]:
    """Annotations by image id, with their place in the file."""
    entries: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    ids: set[int] = set()
    for index, record in enumerate(records):
        where = f"annotations[{index}] of {shown(file)}"
        try:
            image_id = integer(mapping(record, where), "image_id", where)
        except DataError as error:
            report(Fault.BROKEN_ENTRY, str(error))
            continue
        if image_id not in images:
            report(Fault.ORPHAN, f"{where}: image_id {image_id}")
            continue
        number = record.get("id")
        if type(number) is int:
            if number in ids:
                report(Fault.DOUBLE_ID, f"{where}: id {number}")
            ids.add(number)
        entries[image_id].append((index, record))
    return entries


def _remarks(content: dict[str, Any]) -> tuple[str, ...]:
    if any("neg_category_ids" in one for one in content["images"] if isinstance(one, dict)):
        return (
            "LVIS names classes that an image surely has not, and some it does not label in "
            "full; classes are not used, so that neither is",
        )
    return ()
