"""What is exported: masks of a COCO file or a data set, where their images are, and a choice."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from soloist.data.coco.read import read_json
from soloist.data.coco.rle import mask_area
from soloist.data.coco.types import CATEGORIES, CocoAnnotation, CocoFile, CocoImage
from soloist.data.datasets.find import find_format, laid_open
from soloist.data.datasets.image_paths import image_paths
from soloist.data.datasets.labels import Reading, read_labels
from soloist.data.exports.options import ExportOptions
from soloist.data.exports.target import Note
from soloist.errors import ConfigError, DataError
from soloist.runtime.files import inner_path, shown

logger = logging.getLogger(__name__)


def read_source(
    path: Path,
    how: Reading = Reading(),
) -> tuple[CocoFile, dict[int, Path]]:
    """Reads masks of any format that `soloist.data.datasets` knows.

    Args:
        path: A COCO file, a folder, an archive of one, or YOLO's data.yaml.
        how: What the user says about it.

    Returns:
        file: The masks.
        paths: Where the images are by their ids, as far as they were found.

    Raises:
        DataError: If there are no masks to read, something is wrong with them, or `images` holds
            none of their images.
    """
    known = find_format(path, how.format)
    if known.name == "folder":
        raise DataError(
            f"wanted a COCO file or a labelled data set, got {shown(path)} with images alone; "
            "make masks with `soloist predict` first"
        )
    is_coco_file = known.name == "coco" and laid_open(path).is_file()
    if is_coco_file and isinstance(read_json(path), list):
        raise _no_names(path)
    return read_labels(path, how)


def paths_of(file: CocoFile, images: Sequence[str]) -> dict[int, Path]:
    """Where the images of a COCO file are by their ids, as far as they were found.

    Raises:
        DataError: If `images` is given and holds none of them, or the file names none.
    """
    if file.bare:
        raise _no_names(file.path)
    try:
        return image_paths(file, images)
    except DataError as error:
        # Not every format needs them.
        if images:
            raise
        logger.info("%s", error)
        return {}


def _no_names(path: Path) -> DataError:
    return DataError(
        f"wanted a COCO file with the names of its images, got {shown(path)}, a list of results; "
        "put it under `annotations` of a COCO file with `images`"
    )


def choose(
    file: CocoFile, options: ExportOptions, *, crowds: bool
) -> tuple[CocoFile, Counter[Note]]:
    """The masks of a file that are to be written, all with a class that has a name.

    Args:
        file: The file.
        options: Bounds of score, area and number, and the name of a single class.
        crowds: Keep crowd regions.

    Returns:
        chosen: The file without the others and without embeddings.
        notes: How many were left out, by the reason.

    Raises:
        ConfigError: If a single class is to be named and there are several.
    """
    notes: Counter[Note] = Counter()
    chosen = {}
    for image_id, objects in file.annotations.items():
        kept = [one for one in objects if not _noted(one, options, crowds, notes)]
        best = sorted(kept, key=lambda one: -one.score)[: options.max_per_image]
        notes[Note.BEYOND_COUNT] += len(kept) - len(best)
        indices = {one.index for one in best}
        chosen[image_id] = tuple(one for one in kept if one.index in indices)
    made = replace(
        file,
        annotations=_with_own_ids(chosen),
        categories=_named(file, chosen, options.label),
        embeddings=None,
    )
    return made, notes


def places(images: Iterable[CocoImage]) -> tuple[dict[int, Path], int]:
    """A place below a folder for what is made of each image, by its id.

    Places differ even without their suffixes and in systems that do not tell case.

    Returns:
        places: With the image's suffix.
        renamed: How many differ from the image's name for that reason.
    """
    found: dict[int, Path] = {}
    taken: set[str] = set()
    renamed = 0
    for image in images:
        path = place = inner_path(image.file_name)
        number = 1
        while str(place.with_suffix("")).casefold() in taken:
            tail = f"{path.suffix[1:]}{number if number > 1 else ''}"
            place = path.with_name(f"{path.stem}-{tail or number}{path.suffix}")
            number += 1
        renamed += number > 1
        taken.add(str(place.with_suffix("")).casefold())
        found[image.id] = place
    return found, renamed


def _noted(one: CocoAnnotation, options: ExportOptions, crowds: bool, notes: Counter[Note]) -> bool:
    """Whether an object is left out; the reason is counted."""
    area = 0 if one.segmentation is None else mask_area(one.segmentation)
    reasons = (
        (one.segmentation is None, Note.BOX_ALONE),
        (area == 0, Note.NO_PIXEL),
        (one.iscrowd and not crowds, Note.CROWD),
        (one.score < (options.min_score or 0), Note.LOW_SCORE),
        (area < options.min_area, Note.SMALL),
    )
    reason = next((note for holds, note in reasons if holds), None)
    if reason is not None:
        notes[reason] += 1
    return reason is not None


def _with_own_ids(
    annotations: Mapping[int, tuple[CocoAnnotation, ...]],
) -> dict[int, tuple[CocoAnnotation, ...]]:
    """The annotations with their ids; if some are given twice, with their places in the file."""
    ids = [one.id for several in annotations.values() for one in several]
    if len(set(ids)) == len(ids):
        return dict(annotations)
    logger.warning("ids are given twice: annotations are numbered by their places in the file")
    return {
        image_id: tuple(replace(one, id=one.index + 1) for one in several)
        for image_id, several in annotations.items()
    }


def _named(
    file: CocoFile, annotations: Mapping[int, tuple[CocoAnnotation, ...]], label: str | None
) -> dict[int, str]:
    """A name for each class of the file and of the annotations."""
    used = {one.category_id for several in annotations.values() for one in several}
    known = {**(file.categories or (CATEGORIES if used <= {*CATEGORIES} else {}))}
    known |= {key: f"class {key}" for key in sorted(used - {*known})}
    if label is None:
        return known
    if len(known) > 1:
        raise ConfigError(
            f"--label names the class of a file that has one, {shown(file.path)} has {len(known)}; "
            "leave it out"
        )
    return dict.fromkeys(known, label)
