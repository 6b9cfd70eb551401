"""Which format a folder is of, and reading it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soloist.data.archives import is_archive, unpacked_data_set
from soloist.data.coco.faults import Fault, Report, refuse
from soloist.data.coco.types import CocoAnnotation
from soloist.data.datasets.cityscapes import cityscapes_splits, read_cityscapes
from soloist.data.datasets.coco_sets import coco_splits, read_coco
from soloist.data.datasets.dataset import Dataset, DatasetImage
from soloist.data.datasets.image_paths import named_images
from soloist.data.datasets.label_maps import holds_label_map, label_map_splits, read_label_maps
from soloist.data.datasets.tool_files import (
    label_studio_splits,
    labelme_splits,
    read_label_studio,
    read_labelme,
    read_via,
    via_splits,
)
from soloist.data.datasets.voc import ALL, read_voc, voc_splits
from soloist.data.datasets.yolo import read_yolo, yolo_splits
from soloist.data.sources import find_images
from soloist.errors import ConfigError, DataError, near_names
from soloist.runtime.files import shown

ImageSources = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Format:
    """A format of data sets.

    Attributes:
        name: For `--format`.
        layout: What lies in such a folder.
        splits: Names of a folder's splits; none if the folder is not of this format.
        read: Reads one split.
        whole: The split that holds all others, where there is one.
    """

    name: str
    layout: str
    splits: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path, str, Report], Dataset]
    whole: str | None = None


_LIKE_LABELS = ("*.json", "*.xml", "*.csv")


def _folder_splits(path: Path) -> tuple[str, ...]:
    return ("",) if path.is_dir() else ()


def _read_folder(path: Path, split: str, report: Report) -> Dataset:
    def no_objects(image: DatasetImage, report: Report) -> list[CocoAnnotation]:
        return []

    found = find_images(path)
    if all(holds_label_map(Path(ref.name)) for ref in found):
        raise DataError(
            f"wanted the images of the label maps in {shown(path)}, got the maps alone; put or "
            f"link the images into {shown(path / 'images')}"
        )
    images = tuple(
        DatasetImage(number, ref.path, ref.name) for number, ref in enumerate(found, start=1)
    )
    remarks = ["no annotations: good for masks, pretrain, train and fit, not for eval"]
    others = sorted(
        file.relative_to(path).as_posix()
        for pattern in _LIKE_LABELS
        for file in path.rglob(pattern)
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if others:
        remarks.append(
            f"{len(others):,} files that may be annotations are of no format that is read (such as "
            f"{shown(others[0])}); docs/datasets.md has those that are"
        )
    return Dataset("folder", path, split, images, {}, no_objects, tuple(remarks))


_FOLDER = Format("folder", "images, at any depth", _folder_splits, _read_folder)
FORMATS = {
    one.name: one
    for one in (
        Format(
            "coco",
            "a .json file with `images` and `annotations`, alone or in annotations/",
            coco_splits,
            read_coco,
        ),
        Format("voc", "JPEGImages/ and Annotations/*.xml", voc_splits, read_voc, whole=ALL),
        Format(
            "cityscapes",
            "gtFine/SPLIT/CITY/*_gtFine_instanceIds.png and leftImg8bit/",
            cityscapes_splits,
            read_cityscapes,
        ),
        Format("yolo", "data.yaml, or images/ and labels/*.txt", yolo_splits, read_yolo),
        Format(
            "label-maps",
            "images/ and masks/ (or labels/) with a .png or .tif of the same name",
            label_map_splits,
            read_label_maps,
        ),
        Format(
            "labelme",
            "a .json file of labelme or X-AnyLabeling for each image",
            labelme_splits,
            read_labelme,
        ),
        Format("via", "a .json file of VIA, its images beside it or below", via_splits, read_via),
        Format(
            "label-studio",
            "a .json export of Label Studio (JSON or JSON-MIN), or its tasks",
            label_studio_splits,
            read_label_studio,
        ),
        _FOLDER,
    )
}
"""The formats by name."""


def laid_open(path: str | Path) -> Path:
    """Where a data set lies: a tar or zip file, such as CVAT's exports, is unpacked.

    Args:
        path: Of a data set; what is no archive is returned as it is.

    Returns:
        For an archive a temporary folder, removed when the process ends: the one that was packed,
        if it was packed as a whole.

    Raises:
        DataError: As `soloist.data.archives.unpacked_data_set`.
    """
    path = Path(path)
    if not (path.is_file() and is_archive(path)):
        return path
    folder = unpacked_data_set(path)
    entries = list(folder.iterdir())
    packed_whole = len(entries) == 1 and entries[0].is_dir() and not _labelled(folder)
    return entries[0] if packed_whole else folder


def _labelled(path: Path) -> list[Format]:
    """The formats of labels that are there."""
    return [one for one in FORMATS.values() if one is not _FOLDER and one.splits(path)]


def find_format(path: str | Path, format: str | None = None) -> Format:
    """The format of a folder, from what lies in it; files are not opened but for archives.

    Args:
        path: A folder, an archive of one, a COCO file or a data.yaml.
        format: A name of `FORMATS` that is known better; None finds out.

    Raises:
        DataError: If there is no such folder, or it is of no format, or of several.
        ConfigError: If there is no such format.
    """
    if not Path(path).exists():
        raise DataError(f"wanted a data set, got {shown(path)}, which does not exist")
    place = laid_open(path)
    if format is not None:
        if format not in FORMATS:
            raise ConfigError(f"no format named {format!r}; {near_names(format, FORMATS)}")
        known = FORMATS[format]
        if not known.splits(place):
            raise DataError(
                f"wanted a data set of format {format} ({known.layout}), got {shown(path)} "
                "without these; check the path or the format"
            )
        return known
    found = _labelled(place)
    if len(found) > 1:
        names = " and ".join(one.name for one in found)
        raise DataError(
            f"wanted a data set of one format, got {shown(path)}, which looks like {names}; "
            "choose with --format"
        )
    if found:
        return found[0]
    if place.is_dir():
        return _FOLDER
    raise DataError(
        f"wanted a data set, got the file {shown(path)}; "
        "give a folder, a .zip or .tar of one, a COCO file (.json) or YOLO's data.yaml"
    )


def find_dataset(
    path: str | Path,
    format: str | None = None,
    split: str | None = None,
    *,
    images: ImageSources | None = None,
    report: Report = refuse,
) -> Dataset:
    """Reads a data set, or one split of it.

    Args:
        path: A folder, an archive of one, a COCO file or a data.yaml.
        format: As in `find_format`.
        split: One of the format's splits; may be None where there is only one.
        images: Where the images are, as for `find_images`, if they lie elsewhere.
        report: Receives what is wrong; by default that ends the reading.

    Raises:
        DataError: If it is no data set, something is wrong with it, or there is no such split.
        ConfigError: If there is no such format.
    """
    known = find_format(path, format)
    place = laid_open(path)
    splits = known.splits(place)
    if split is None and len(splits) == 1:
        split = splits[0]
    if split not in splits:
        wanted = "the name of a split" if split is None else f"the split {split!r}"
        raise DataError(
            f"wanted {wanted} of {shown(path)}, which has {', '.join(splits)}; "
            "choose one of them with --split"
        )
    dataset = known.read(place, split, report)
    if images is not None:
        dataset = _elsewhere(dataset, images)
    if dataset.matches is not None:
        for name, one, other in dataset.matches.ambiguous:
            report(Fault.AMBIGUOUS_IMAGE, f"{shown(name)} could be {shown(one)} or {shown(other)}")
    return dataset


def _elsewhere(dataset: Dataset, sources: ImageSources) -> Dataset:
    """The data set with its images from elsewhere; one that is not there keeps its name there."""
    found, matches = named_images([one.name for one in dataset.images], sources)
    first = sources if isinstance(sources, (str, Path)) else sources[0]
    moved = tuple(
        replace(one, path=found[place].path if place in found else Path(first) / one.name)
        for place, one in enumerate(dataset.images)
    )
    return replace(dataset, images=moved, matches=matches)
