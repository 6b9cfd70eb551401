"""YOLO: a text file an image, a line an object, points as fractions of the image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from soloist.data.coco.faults import Fault, Report
from soloist.data.coco.rle import to_rle
from soloist.data.coco.types import CocoAnnotation
from soloist.data.datasets.dataset import Dataset, DatasetImage, true_object
from soloist.data.sources import ImageRef, find_images
from soloist.errors import DataError
from soloist.runtime.files import one_line, shown

_SPLITS = ("train", "val", "test")
_SLACK = 1e-3  # Fractions are rounded when they are written.
_FAR_OUT = 1.0
"""Of the image's side: what is farther out is no fraction."""


def yolo_splits(path: Path) -> tuple[str, ...]:
    """The splits of data.yaml; without it those below `images`, or one without a name."""
    file = _yaml(path)
    if file is not None:
        try:
            content = _read_yaml(file)
        except DataError:
            # A data.yaml belongs to this format even if broken; any other file may be anything.
            return ("val",) if path.is_dir() else ()
        return tuple(name for name in _SPLITS if content.get(name))
    if not any(path.glob("labels/**/*.txt")) or not (path / "images").is_dir():
        return ()
    named = tuple(name for name in _SPLITS if (path / "images" / name).is_dir())
    return named or ("",)


def read_yolo(path: Path, split: str, report: Report) -> Dataset:
    """One split; an image without a file of labels has no object.

    Args:
        path: The folder, or its data.yaml.
        split: One of `yolo_splits`.
        report: Receives what is wrong.

    Raises:
        DataError: If data.yaml or a folder of images cannot be read.
    """
    file = _yaml(path)
    names: dict[int, str] = {}
    points_follow = False
    if file is None:
        refs = find_images(path / "images" / split)
    else:
        content = _read_yaml(file)
        names = _class_names(content.get("names"), file)
        # Labels of poses: a box, then points of the body that are no outline.
        points_follow = "kpt_shape" in content
        refs = find_images(_image_sources(file, content, split))
    labels: dict[int, Path] = {}
    images = []
    for number, ref in enumerate(refs, start=1):
        images.append(DatasetImage(number, ref.path, ref.name))
        labels[number] = _label_file(ref)

    def read_objects(image: DatasetImage, report: Report) -> list[CocoAnnotation]:
        return _read_labels(image, labels[image.id], names, points_follow, report)

    found = sum(label.is_file() for label in labels.values())
    if found == 0:
        report(
            Fault.MISSING_ANNOTATION,
            f"none of {len(labels)} files such as {shown(labels[1])}",
        )
    return Dataset(
        format="yolo",
        path=path if file is None else file,
        split=split,
        images=tuple(images),
        categories={number + 1: name for number, name in names.items()},
        read_objects=read_objects,
    )


def _yaml(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (path / name).is_file():
            return path / name
    return None


def _read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"wanted YOLO's data.yaml, got {shown(file)}: {one_line(error)}; correct the file"
        ) from error
    if not isinstance(content, dict) or not any(content.get(name) for name in _SPLITS):
        raise DataError(
            f"wanted YOLO's data.yaml with `train`, `val` or `test`, got {shown(file)} without; "
            "name the folders of images there"
        )
    return content


def _class_names(names: Any, file: Path) -> dict[int, str]:
    if names is None:
        return {}
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict) and all(type(number) is int for number in names):
        return {number: str(name) for number, name in names.items()}
    raise DataError(
        f"wanted `names` in {shown(file)} as a list, or as numbers with names, got "
        f"{type(names).__name__}; correct the file"
    )


def _image_sources(file: Path, content: Mapping[str, Any], split: str) -> list[Path]:
    """Folders or lists of a split, which are given relative to `path`, that to the file."""
    given = content[split]
    root = file.parent / str(content.get("path") or "")
    if not root.is_dir():  # Made on another machine.
        root = file.parent
    sources = []
    for one in given if isinstance(given, list) else [given]:
        # Some exports write `../train/images` and mean the folder beside data.yaml.
        places = [root / str(one), file.parent / str(one), root / str(one).removeprefix("../")]
        sources.append(next((place for place in places if place.exists()), places[0]))
    return sources


def _label_file(ref: ImageRef) -> Path:
    """`images` becomes `labels`, the last time it occurs; else the label lies beside the image."""
    parts = list(ref.path.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_labels(
    image: DatasetImage,
    file: Path,
    names: Mapping[int, str],
    points_follow: bool,
    report: Report,
) -> list[CocoAnnotation]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        report(Fault.BROKEN_ENTRY, f"{shown(file)}: {one_line(error)}")
        return []
    height, width = image.true_size()
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number} of {shown(file)}"
        try:
            label, *values = (float(word) for word in line.split())
        except ValueError:
            report(Fault.BROKEN_ENTRY, f"{where}: not numbers")
            continue
        if points_follow:
            values = values[:4]
        polygon = len(values) >= 6 and len(values) % 2 == 0
        if not label.is_integer() or not (polygon or len(values) == 4):
            report(
                Fault.BROKEN_ENTRY,
                f"{where}: wanted a class and 3 points or more, or a class and a box, got "
                f"{1 + len(values)} numbers",
            )
            continue
        if names and int(label) not in names:
            report(Fault.UNKNOWN_CLASS, f"{where}: class {int(label)}")
        fractions = np.array(values)
        if not ((fractions >= -_FAR_OUT) & (fractions <= 1 + _FAR_OUT)).all():
            report(Fault.PIXELS, f"{where}: {fractions.min():g} to {fractions.max():g}")
            continue
        if polygon and not ((fractions >= -_SLACK) & (fractions <= 1 + _SLACK)).all():
            report(Fault.OUTSIDE, f"{where}: {fractions.min():g} to {fractions.max():g}")
        category = int(label) + 1
        if polygon:
            points = (fractions.reshape(-1, 2) * (width, height)).ravel().tolist()
            rle = to_rle([points], (height, width))
            objects.append(true_object(image, rle=rle, category_id=category))
        else:
            x, y, w, h = (fractions * (width, height, width, height)).tolist()
            box = (x - w / 2, y - h / 2, w, h)
            objects.append(true_object(image, box_xywh=box, category_id=category))
    return objects
