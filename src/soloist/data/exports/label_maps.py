"""Label maps: a grey PNG of 16 bits for each image, with a number a mask."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoAnnotation
from soloist.data.exports.target import Note, Picture, Target
from soloist.errors import DataError
from soloist.runtime.files import atomic_path, shown, write_text

OBJECTS = "objects.csv"
_MOST = 2**16 - 1


def write_label_maps(target: Target, pictures: Iterator[Picture]) -> None:
    """Writes `masks/NAME.png` for each image, `objects.csv`, and images to `images`.

    k is the k-th best mask of the image, 0 is none; the table tells ids, scores and classes.
    """
    for picture in pictures:
        target.put_image(picture, "images" / picture.place)
        ranked = _ranked(picture.objects)
        if len(ranked) > _MOST:
            raise DataError(
                f"wanted at most {_MOST} masks an image, got {len(ranked)} on "
                f"{shown(picture.image.file_name)}; add --max-per-image"
            )
        numbers = label_map(_noting_overlaps(ranked, picture.size, target), picture.size)
        path = Path("masks", picture.place).with_suffix(".png")
        with atomic_path(target.folder / path) as temporary:
            Image.fromarray(numbers).save(temporary)
    write_text(target.folder / OBJECTS, _table(target))


def label_map(masks: Iterable[NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.uint16]:
    """One image of the numbers of masks; where they overlap, the earlier one wins.

    Args:
        masks: (H, W) each, fewer than 65,536.
        size: (H, W).

    Returns:
        (H, W) uint16: k + 1 for mask k, 0 where there is none.
    """
    labels = np.zeros(size, dtype=np.uint16)
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
