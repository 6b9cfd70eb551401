"""Data sets of COCO's shape: COCO, LVIS, UVO, and what annotation tools export as such."""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path
from typing import Any

from soloist.data.coco.faults import Report
from soloist.data.coco.read import read_json, read_records
from soloist.data.coco.types import CocoAnnotation
from soloist.data.datasets.dataset import Dataset, DatasetImage
from soloist.data.datasets.image_paths import locate
from soloist.data.tools.pages import tool_of

# Names that mean objects, whatever else lies beside them (captions, keypoints, ...).
_OBJECT_FILES = ("instances_*.json", "lvis_*.json", "UVO_*.json", "_annotations.coco.json")
_ANNOTATIONS, _FOLDERS = "annotations", (".", "*")


def coco_splits(path: Path) -> tuple[str, ...]:
    """The files of objects in a folder, by what tells them apart; none if there are none."""
    return tuple(_files(path))


def read_coco(path: Path, split: str, report: Report) -> Dataset:
    """One COCO file.

    Args:
        path: The file, or the folder it lies in.
        split: One of `coco_splits`.
        report: Receives what is wrong.

    Raises:
        DataError: If the file is not COCO's at all.
    """
    file = _files(path)[split]
    content = read_json(file)
    records = read_records(file, content, report, need_sizes=False)
    info = content.get("info")
    info = info if isinstance(info, dict) else {}

    def read_objects(image: DatasetImage, report: Report) -> list[CocoAnnotation]:
        height, width = image.true_size()
        own = replace(records.images[image.id], height=height, width=width)
        return records.objects(own, report)

    images = list(records.images.values())
    # Ambiguous names are reported by those who do not say where the images are.
    paths, matches = locate(file, [one.file_name for one in images], info)
    return Dataset(
        format="coco",
        path=file,
        split=split,
        images=tuple(
            DatasetImage(
                one.id,
                path,
                one.file_name,
                (one.height, one.width) if one.height else None,
                one.source_id,
                one.georeference,
            )
            for one, path in zip(images, paths, strict=True)
        ),
        categories=records.categories,
        read_objects=read_objects,
        remarks=_remarks(content),
        info=info,
        outlines=True,
        matches=matches,
    )


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        is_coco = path.suffix.lower() == ".json" and tool_of(path) is None
        return {path.stem: path} if is_coco else {}
    named = [one.name for one in path.iterdir() if one.name.casefold() == _ANNOTATIONS]
    for folder in (*named, *_FOLDERS):
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


def _remarks(content: dict[str, Any]) -> tuple[str, ...]:
    if any("neg_category_ids" in one for one in content["images"] if isinstance(one, dict)):
        return (
            "LVIS names classes that an image surely has not, and some it does not label in "
            "full; classes are not used, so that neither is",
        )
    return ()
