"""Label maps: beside each image a PNG or TIFF, usually of 16 bits, with a number per object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.faults import Fault, Report
from soloist.data.coco.types import CocoAnnotation
from soloist.data.datasets.dataset import Dataset, DatasetImage, true_object
from soloist.data.datasets.index_maps import masks_of, read_index_map
from soloist.data.images import image_size
from soloist.data.sources import MAP_FOLDERS, ImageRef, find_images
from soloist.errors import DataError
from soloist.runtime.files import shown

_SUFFIXES = {".png", ".tif", ".tiff"}
_WHITE = 255
_FEW_SHADES = 8
"""From N values between 0 and 255 on they may be shades, if most pixels are 255."""


def label_map_splits(path: Path) -> tuple[str, ...]:
    """One split without a name, if there are images and maps."""
    folder = _map_folder(path)
    if folder is None or not (path / "images").is_dir():
        return ()
    return ("",)


def read_label_maps(path: Path, split: str, report: Report) -> Dataset:
    """Images and the maps of the same name; 0 is background.

    Args:
        path: The folder with `images` and `masks` (or `labels`, `label_maps`).
        split: Always empty.
        report: Receives what is wrong.

    Raises:
        DataError: If a folder has no image.
    """
    folder = _map_folder(path)
    assert folder is not None
    maps = {Path(ref.name).with_suffix("").as_posix(): ref for ref in find_images(folder)}
    images: list[DatasetImage] = []
    maps_by_id: dict[int, Path] = {}
    for ref in find_images(path / "images"):
        label_map = maps.pop(Path(ref.name).with_suffix("").as_posix(), None)
        if label_map is None:
            report(Fault.MISSING_ANNOTATION, f"{shown(ref.name)} in {folder.name}")
            continue
        image = _image(len(images) + 1, ref, label_map, report)
        if image is not None:
            images.append(image)
            maps_by_id[image.id] = label_map.path
    for label_map in maps.values():
        report(Fault.ORPHAN, f"{folder.name}/{label_map.name}")

    def read_objects(image: DatasetImage, report: Report) -> list[CocoAnnotation]:
        try:
            numbers = read_index_map(maps_by_id[image.id])
        except DataError as error:
            report(Fault.BROKEN_MASK, str(error))
            return []
        if _has_shades(numbers):
            report(Fault.SHADES, shown(maps_by_id[image.id]))
            return []
        masks = list(masks_of(numbers))
        if [number for number, _ in masks] == [_WHITE]:
            report(Fault.BLACK_AND_WHITE, shown(maps_by_id[image.id]))
        return [true_object(image, rle=rle) for _, rle in masks]

    return Dataset(
        format="label-maps",
        path=path,
        split=split,
        images=tuple(images),
        categories={1: "object"},
        read_objects=read_objects,
    )


def _has_shades(numbers: NDArray[np.int64]) -> bool:
    """Whether a map is a black-and-white mask with smoothed edges: no numbers of objects."""
    values, counts = np.unique(numbers, return_counts=True)
    between = (values > 0) & (values < _WHITE)
    white = counts[values == _WHITE].sum()
    return bool(
        values.max() == _WHITE and between.sum() >= _FEW_SHADES and counts[between].sum() < white
    )


def _image(
    image_id: int, ref: ImageRef, label_map: ImageRef, report: Report
) -> DatasetImage | None:
    try:
        return DatasetImage(image_id, ref.path, ref.name, image_size(label_map.path))
    except DataError as error:
        report(Fault.BROKEN_MASK, str(error))
        return None


def holds_label_map(place: Path) -> bool:
    """Whether a file at a place in a data set is where label maps lie, and of their kind."""
    return place.parts[0] in MAP_FOLDERS and place.suffix.lower() in _SUFFIXES


def _map_folder(path: Path) -> Path | None:
    for name in MAP_FOLDERS:
        folder = path / name
        if folder.is_dir() and any(one.suffix.lower() in _SUFFIXES for one in folder.rglob("*")):
            return folder
    return None
