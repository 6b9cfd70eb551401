"""Cityscapes: fine annotations as PNG files of instance numbers."""

from __future__ import annotations

from pathlib import Path

from soloist.data.coco.faults import Fault, Report
from soloist.data.coco.types import CocoAnnotation
from soloist.data.datasets.dataset import Dataset, DatasetImage, true_object
from soloist.data.datasets.index_maps import masks_of, read_index_map
from soloist.data.images import image_size
from soloist.errors import DataError
from soloist.runtime.files import shown

CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""The classes with instances that the benchmark evaluates, by label id."""
_NOT_EVALUATED = {29, 30}  # Caravan and trailer.
_FIRST_INSTANCE = 1000  # A pixel is its label id, or 1000 times that plus the instance's number.
_ENDING = "_gtFine_instanceIds.png"


def cityscapes_splits(path: Path) -> tuple[str, ...]:
    """Folders of `gtFine`, such as `train` and `val`."""
    root = _root(path)
    if root is None:
        return ()
    return tuple(sorted(folder.name for folder in (root / "gtFine").iterdir() if folder.is_dir()))


def read_cityscapes(path: Path, split: str, report: Report) -> Dataset:
    """One split: instances as objects; groups, caravans and trailers as regions to ignore.

    Args:
        path: The folder with `gtFine` and `leftImg8bit`.
        split: One of `cityscapes_splits`.
        report: Receives what is wrong.

    Raises:
        DataError: If the split has no file of instances.
    """
    root = _root(path)
    assert root is not None
    files = sorted((root / "gtFine" / split).glob(f"*/*{_ENDING}"))
    if not files:
        raise DataError(
            f"wanted files *{_ENDING} in the folders of cities below "
            f"{shown(root / 'gtFine' / split)}, got none; unpack gtFine_trainvaltest.zip again"
        )
    maps: dict[int, Path] = {}
    images: list[DatasetImage] = []
    for file in files:
        try:
            size = image_size(file)
        except DataError as error:
            report(Fault.BROKEN_MASK, str(error))
            continue
        image_id = len(images) + 1
        name = f"{file.parent.name}/{file.name.removesuffix(_ENDING)}_leftImg8bit.png"
        images.append(DatasetImage(image_id, root / "leftImg8bit" / split / name, name, size))
        maps[image_id] = file

    def read_objects(image: DatasetImage, report: Report) -> list[CocoAnnotation]:
        try:
            numbers = read_index_map(maps[image.id])
        except DataError as error:
            report(Fault.BROKEN_MASK, str(error))
            return []
        objects = []
        for number, rle in masks_of(numbers):
            single = number >= _FIRST_INSTANCE
            label = number // _FIRST_INSTANCE if single else number
            if label in CLASSES or label in _NOT_EVALUATED:
                crowd = not single or label in _NOT_EVALUATED
                objects.append(true_object(image, rle=rle, category_id=label, iscrowd=crowd))
            elif single:
                report(Fault.UNKNOWN_CLASS, f"{shown(maps[image.id])}: number {number}")
        return objects

    return Dataset(
        format="cityscapes",
        path=root,
        split=split,
        images=tuple(images),
        categories={**CLASSES, 29: "caravan", 30: "trailer"},
        read_objects=read_objects,
        remarks=("groups, caravans and trailers are ignored, as the benchmark does",),
    )


def _root(path: Path) -> Path | None:
    if (path / "gtFine").is_dir():
        return path
    return path.parent if path.name == "gtFine" and path.is_dir() else None
