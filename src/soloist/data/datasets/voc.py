"""PASCAL VOC: boxes in XML files, masks in PNG files of object numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from soloist.data.coco.faults import Fault, Report
from soloist.data.coco.objects import BoxXYWH
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import NO_CLASS, CocoAnnotation
from soloist.data.datasets.dataset import Dataset, DatasetImage, true_object
from soloist.data.datasets.index_maps import masks_of, read_index_map
from soloist.data.images import image_size
from soloist.errors import DataError
from soloist.runtime.files import one_line, shown

ALL = "all"
"""The split of all images that have an XML file."""
_VOID = 255  # Borders and doubtful pixels of the PNG files.
_YEARS = ("VOC[0-9][0-9][0-9][0-9]", "VOCdevkit/VOC[0-9][0-9][0-9][0-9]")


@dataclass(frozen=True, slots=True)
class _Object:
    name: str
    box_xywh: BoxXYWH


@dataclass(frozen=True, slots=True)
class _Page:
    """What an XML file says."""

    file_name: str | None
    size: tuple[int, int] | None
    objects: Sequence[_Object]
    difficult: int


def voc_splits(path: Path) -> tuple[str, ...]:
    """All images, the lists of `ImageSets/Main` and those of `ImageSets/Segmentation`."""
    root = _root(path)
    if root is None:
        return ()
    main = [file.stem for file in sorted(root.glob("ImageSets/Main/*.txt")) if "_" not in file.stem]
    masks = [
        f"Segmentation/{file.stem}" for file in sorted(root.glob("ImageSets/Segmentation/*.txt"))
    ]
    return (ALL, *main, *masks)


def read_voc(path: Path, split: str, report: Report) -> Dataset:
    """One split; objects marked `difficult` are objects like the others.

    The k-th object of an XML file has the number k in `SegmentationObject`, where that file is
    there. Ids of images are the digits of their names, as in COCO's own edition of VOC.

    Args:
        path: The folder with `JPEGImages`, or one above it.
        split: One of `voc_splits`.
        report: Receives what is wrong.

    Raises:
        DataError: If a list cannot be read.
    """
    root = _root(path)
    assert root is not None
    names = _names(root, split)
    ids = _ids(names)
    pages: dict[int, _Page] = {}
    images = []
    for name, image_id in zip(names, ids, strict=True):
        try:
            page = _read_page(root / "Annotations" / f"{name}.xml")
        except DataError as error:
            report(Fault.BROKEN_ENTRY, str(error))
            continue
        if page is None:
            map_path = _map_path(root, name)
            if not map_path.is_file():
                report(Fault.MISSING_ANNOTATION, f"Annotations/{name}.xml")
                continue
            page = _Page(None, image_size(map_path), (), 0)
        pages[image_id] = page
        file_name = _image_name(root, name, page)
        images.append(DatasetImage(image_id, root / "JPEGImages" / file_name, file_name, page.size))
    classes = sorted({one.name for page in pages.values() for one in page.objects})
    numbers = {name: number for number, name in enumerate(classes, start=1)}

    def read_objects(image: DatasetImage, report: Report) -> list[CocoAnnotation]:
        page = pages[image.id]
        map_path = _map_path(root, Path(image.name).stem)
        if not map_path.is_file():
            return [
                true_object(image, box_xywh=one.box_xywh, category_id=numbers[one.name])
                for one in page.objects
            ]
        return _with_masks(image, page, numbers, map_path, report)

    difficult = sum(page.difficult for page in pages.values())
    total = sum(len(page.objects) for page in pages.values())
    remark = f"{difficult} of {total} objects are marked difficult; they count like the others"
    return Dataset(
        format="voc",
        path=root,
        split=split,
        images=tuple(images),
        categories={number: name for name, number in numbers.items()},
        read_objects=read_objects,
        remarks=(remark,) if difficult else (),
    )


def _with_masks(
    image: DatasetImage, page: _Page, numbers: dict[str, int], map_path: Path, report: Report
) -> list[CocoAnnotation]:
    try:
        values = read_index_map(map_path)
    except DataError as error:
        report(Fault.BROKEN_MASK, str(error))
        return []
    size = (values.shape[0], values.shape[1])
    if image.size is not None and size != image.size:
        report(Fault.BROKEN_MASK, f"{shown(map_path)}: {size} for an image of {image.size}")
        return []
    masks = dict(masks_of(np.where(values == _VOID, 0, values)))
    nothing = encode_masks(np.zeros((1, *size), dtype=np.bool_))[0]
    objects = [
        true_object(
            image,
            rle=masks.pop(number, nothing),
            box_xywh=one.box_xywh,
            category_id=numbers[one.name],
        )
        for number, one in enumerate(page.objects, start=1)
    ]
    # Numbers without an entry, and files without XML: objects whose class nobody wrote down.
    return objects + [true_object(image, rle=rle, category_id=NO_CLASS) for rle in masks.values()]


def _root(path: Path) -> Path | None:
    roots = [path, *(year for pattern in _YEARS for year in sorted(path.glob(pattern)))]
    roots = [root for root in roots if (root / "JPEGImages").is_dir()]
    # Without Annotations it would be any folder that happens to have this name.
    roots = [root for root in roots if (root / "Annotations").is_dir() or _maps(root).is_dir()]
    if len(roots) > 1:
        raise DataError(
            f"wanted one year of PASCAL VOC, got {shown(path)} with {len(roots)}; "
            f"give one of them, such as {shown(roots[-1])}"
        )
    return roots[0] if roots else None


def _names(root: Path, split: str) -> list[str]:
    if split == ALL:
        return sorted(file.stem for file in (root / "Annotations").glob("*.xml"))
    file = root / "ImageSets" / (f"{split}.txt" if "/" in split else f"Main/{split}.txt")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"wanted a list of image names, got {shown(file)}: {one_line(error)}; "
            "unpack the data set again"
        ) from error
    return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


def _ids(names: Sequence[str]) -> Sequence[int]:
    digits = [name.replace("_", "") for name in names]
    if all(re.fullmatch(r"\d{1,18}", one) for one in digits):
        ids = [int(one) for one in digits]
        if len(set(ids)) == len(ids):
            return ids
    return range(1, len(names) + 1)


def _image_name(root: Path, name: str, page: _Page) -> str:
    """The image beside an XML file: same name, else as written in it."""
    if page.file_name is not None and (root / "JPEGImages" / page.file_name).is_file():
        return page.file_name
    return f"{name}.jpg"


def _maps(root: Path) -> Path:
    return root / "SegmentationObject"


def _map_path(root: Path, name: str) -> Path:
    return _maps(root) / f"{name}.png"


def _read_page(file: Path) -> _Page | None:
    """What an XML file says; None if it is not there."""
    try:
        tree = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        return None
    except (OSError, ElementTree.ParseError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(file)} is not XML: {one_line(error)}") from error
    size = None
    if tree.find("size") is not None:
        size = (_number(tree, "size/height", file), _number(tree, "size/width", file))
    objects = []
    difficult = 0
    for one in tree.iter("object"):
        left, top, right, bottom = (
            _number(one, f"bndbox/{side}", file) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        if right < left or bottom < top:
            raise DataError(f"{shown(file)} has a box from {left}, {top} to {right}, {bottom}")
        # VOC counts pixels from 1, and its boxes include the last one.
        box = (left - 1, top - 1, right - left + 1, bottom - top + 1)
        objects.append(_Object(one.findtext("name") or "object", box))
        difficult += one.findtext("difficult") == "1"
    whole = None if size is None else (int(size[0]), int(size[1]))
    # Some tools write zeros for a size they do not know.
    whole = None if whole is None or min(whole) < 1 else whole
    return _Page(tree.findtext("filename"), whole, objects, difficult)


def _number(element: ElementTree.Element, path: str, file: Path) -> float:
    text = element.findtext(path)
    try:
        value = float(text or "")
    except ValueError as error:
        raise DataError(f"{shown(file)} has {text!r} under {path}, no number") from error
    if not abs(value) < 1e9:
        raise DataError(f"{shown(file)} has {text!r} under {path}, which no image has")
    return value
