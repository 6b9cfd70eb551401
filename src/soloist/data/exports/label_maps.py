"""Images: label maps, with a number a mask, and masks over their images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoAnnotation
from soloist.data.drawing.overlays import OverlayWriter
from soloist.data.exports.target import LabelledImage, Note, Target
from soloist.data.images import read_image
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.runtime.files import atomic_path, shown, write_text

OBJECTS = "objects.csv"
_MAX_UINT16 = 2**16 - 1


def write_label_maps(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `masks/NAME.png` for each image, `objects.csv`, and images to `images`.

    k is the k-th best mask of the image, 0 is none; the table tells ids, scores and classes.
    """
    for labelled in labelled_images:
        target.put_image(labelled, "images" / labelled.place)
        ranked = _ranked(labelled.objects)
        if len(ranked) > _MAX_UINT16:
            raise DataError(
                f"wanted at most {_MAX_UINT16} masks an image, got {len(ranked)} on "
                f"{shown(labelled.image.file_name)}; add --max-per-image"
            )
        numbers = label_map(_noting_overlaps(ranked, labelled.size, target), labelled.size)
        path = Path("masks", labelled.place).with_suffix(".png")
        with atomic_path(target.folder / path) as temporary:
            Image.fromarray(numbers).save(temporary)
    write_text(target.folder / OBJECTS, _table(target))


def write_label_tiffs(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `masks/NAME.tif` for each image, `objects.csv`, and images to `images`.

    As `write_label_maps`; of 32 bits where an image has more masks than 16 bits can number.
    """
    for labelled in labelled_images:
        target.put_image(labelled, "images" / labelled.place)
        ranked = _ranked(labelled.objects)
        kind = np.uint16 if len(ranked) <= _MAX_UINT16 else np.uint32
        masks = _noting_overlaps(ranked, labelled.size, target)
        path = Path("masks", labelled.place).with_suffix(".tif")
        with atomic_path(target.folder / path) as temporary:
            labels = label_map(masks, labelled.size, kind)
            tifffile.imwrite(temporary, labels, compression="zlib", metadata={"axes": "YX"})
    write_text(target.folder / OBJECTS, _table(target))


def write_overlays(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `NAME.overlay.jpg` for each image."""
    writer = OverlayWriter(target.folder)
    for labelled in labelled_images:
        if labelled.path is None:
            target.notes[Note.NO_IMAGE] += 1
            continue
        try:
            pixels = read_image(labelled.path, reading=target.file.reading)
        except DataError as error:
            target.errors.add(labelled.image.file_name, "overlays", error)
            continue
        image = ImageRef(labelled.path, labelled.image.file_name)
        writer(image, pixels, target.file.instances(labelled.image))


def label_map(
    masks: Iterable[NDArray[np.bool_]],
    size: tuple[int, int],
    kind: type[np.unsignedinteger[Any]] = np.uint16,
) -> NDArray[Any]:
    """One image of the numbers of masks; where they overlap, the earlier one wins.

    Args:
        masks: (H, W) each, as many as the type can number.
        size: (H, W).
        kind: Of the numbers.

    Returns:
        (H, W) of that type: k + 1 for mask k, 0 where there is none.
    """
    labels = np.zeros(size, dtype=kind)
    for number, mask in enumerate(masks, start=1):
        labels[mask & (labels == 0)] = number
    return labels


def _ranked(objects: Iterable[CocoAnnotation]) -> list[CocoAnnotation]:
    return sorted(objects, key=lambda one: -one.score)


def _noting_overlaps(
    objects: Iterable[CocoAnnotation], size: tuple[int, int], target: Target
) -> Iterator[NDArray[np.bool_]]:
    taken = np.zeros(size, dtype=np.bool_)
    for one in objects:
        mask = decode_mask(one.rle)
        free = mask & ~taken
        if not free.any():
            target.notes[Note.HIDDEN] += 1
        elif (free != mask).any():
            target.notes[Note.OVERLAPPED] += 1
        taken |= mask
        yield mask


def _table(target: Target) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "value", "id", "score", "class"])
    for image in target.file.images:
        for value, one in enumerate(_ranked(target.file.annotations[image.id]), start=1):
            score = one.score if target.scored else ""
            name = target.file.categories[one.category_id]
            table.writerow([image.file_name, value, one.id, score, name])
    return text.getvalue()
