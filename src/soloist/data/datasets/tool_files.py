"""Data sets of annotation tools: labelme, X-AnyLabeling, VIA and Label Studio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from soloist.data.coco.faults import Fault, OddEntryError, Report
from soloist.data.coco.rle import joined_mask
from soloist.data.coco.types import NO_CLASS, CocoAnnotation
from soloist.data.datasets.dataset import Dataset, DatasetImage, true_object
from soloist.data.datasets.image_paths import named_images
from soloist.data.names import NameMatches
from soloist.data.places import find_beside
from soloist.data.tools.label_studio import label_studio_pages
from soloist.data.tools.labelme import labelme_pages
from soloist.data.tools.pages import Page, Tool, files_of
from soloist.data.tools.via import via_pages
from soloist.errors import DataError
from soloist.runtime.files import shown


def labelme_splits(path: Path) -> tuple[str, ...]:
    """One split without a name, if there is a file of labelme's."""
    return ("",) if files_of(path, "labelme") else ()


def via_splits(path: Path) -> tuple[str, ...]:
    """One split for each project or export of VIA; without a name if there is one."""
    return _one_each(files_of(path, "via"))


def label_studio_splits(path: Path) -> tuple[str, ...]:
    """One split for each file of Label Studio; without a name if there is one."""
    return _one_each(files_of(path, "label-studio"))


def read_labelme(path: Path, split: str, report: Report) -> Dataset:
    """A folder of labelme's files, also of X-AnyLabeling's, with their images beside them.

    Args:
        path: The folder, or one file.
        split: Always empty.
        report: Receives what is wrong.
    """
    root = path if path.is_dir() else path.parent
    pages = labelme_pages(root, files_of(path, "labelme"), report)
    return _dataset("labelme", path, split, pages, None, report)


def read_via(path: Path, split: str, report: Report) -> Dataset:
    """A project or an export of VIA.

    Args:
        path: The file, or the folder it lies in.
        split: One of `via_splits`.
        report: Receives what is wrong.
    """
    file = _file_of(path, "via", split)
    return _with_images("via", file, split, via_pages(file, report), report)


def read_label_studio(path: Path, split: str, report: Report) -> Dataset:
    """An export of Label Studio, or tasks with predictions.

    Args:
        path: The file, or the folder it lies in.
        split: One of `label_studio_splits`.
        report: Receives what is wrong.
    """
    file = _file_of(path, "label-studio", split)
    pages = label_studio_pages(file, report)
    return _with_images("label-studio", file, split, pages, report)


def _one_each(files: Sequence[Path]) -> tuple[str, ...]:
    return ("",) if len(files) == 1 else tuple(file.stem for file in files)


def _file_of(path: Path, tool: Tool, split: str) -> Path:
    return next(file for file in files_of(path, tool) if split in ("", file.stem))


def _with_images(
    tool: Tool, file: Path, split: str, pages: Sequence[Page], report: Report
) -> Dataset:
    """The data set of one file, its images in its folder or below."""
    names = [page.name for page in pages]
    try:
        found, matches = named_images(names, file.parent)
        paths = {place: ref.path for place, ref in found.items()}
    except DataError:  # No image in the folder or below.
        beside, matches = find_beside(file, names)
        paths = {place: beside[place] for place in matches.found}
    placed = [replace(page, path=paths.get(place, page.path)) for place, page in enumerate(pages)]
    return _dataset(tool, file, split, placed, matches, report)


def _dataset(
    tool: Tool,
    path: Path,
    split: str,
    pages: Sequence[Page],
    matches: NameMatches | None,
    report: Report,
) -> Dataset:
    first: dict[str, int] = {}
    for number, page in enumerate(pages):
        if page.name in first:
            report(Fault.DOUBLE_NAME, f"{shown(page.name)} in {shown(path)}")
        first.setdefault(page.name, number)
    names = sorted({one.label for page in pages for one in page.shapes if one.label is not None})
    classes = {name: number for number, name in enumerate(names, start=1)}
    by_id = dict(enumerate(pages, start=1))

    def read_objects(image: DatasetImage, report: Report) -> list[CocoAnnotation]:
        size = image.true_size()
        objects: dict[object, CocoAnnotation] = {}
        for number, shape in enumerate(by_id[image.id].shapes):
            try:
                rle = shape.rle(size, report)
            except OddEntryError as error:
                report(error.fault, str(error))
                continue
            if shape.label is None:
                report(Fault.NO_CLASS, shape.where)
            key: object = number if shape.group is None else shape.group
            if key in objects:
                rle = joined_mask([objects[key].rle, rle])
            own = NO_CLASS if shape.label is None else classes[shape.label]
            objects[key] = true_object(image, rle=rle, category_id=own)
        return list(objects.values())

    return Dataset(
        format=tool,
        path=path,
        split=split,
        images=tuple(
            DatasetImage(number, page.path, page.name, page.size) for number, page in by_id.items()
        ),
        categories={number: name for name, number in classes.items()},
        read_objects=read_objects,
        outlines=not any(one.mask for page in pages for one in page.shapes),
        matches=matches,
        info={"unfinished": [page.name for page in pages if page.unfinished]},
    )
