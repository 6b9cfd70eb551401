"""The report's gallery: what each stage found on the same images, side by side."""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco import CocoAnnotation, CocoFile, CocoImage, decode_mask
from soloist.data.images import ImageRef, read_image
from soloist.errors import DataError
from soloist.pictures import draw_masks, jpeg_bytes, resize_masks, thumbnail
from soloist.report.content import ReportContent

logger = logging.getLogger(__name__)

THUMBNAIL_SIDE = 320
"""Largest side of a picture in the report, in pixels."""
THUMBNAIL_QUALITY = 80
"""Pillow's JPEG quality of the pictures."""


@dataclass(frozen=True)
class Column:
    """A file of masks and the rule by which some of them are shown.

    Attributes:
        title: The column's heading.
        file: The masks.
        images: The file's images by name.
        least_score: Masks below it are not shown.
    """

    title: str
    file: CocoFile
    images: Mapping[str, CocoImage]
    least_score: float = 0.0

    def chosen(self, ref: ImageRef) -> list[CocoAnnotation] | None:
        """The masks shown on an image, best first; None if the file does not know the image."""
        objects = self.objects(ref)
        return objects and [one for one in objects if one.score >= self.least_score]

    def objects(self, ref: ImageRef) -> list[CocoAnnotation] | None:
        """All masks on an image, best first; None if the file does not know the image."""
        image = self.images.get(ref.name) or self.images.get(PurePosixPath(ref.name).name)
        if image is None:
            return None
        annotations = [one for one in self.file.annotations[image.id] if not one.iscrowd]
        return sorted(annotations, key=lambda one: -one.score)


def make_columns(
    content: ReportContent, files: Mapping[str, CocoFile], truth: CocoFile | None
) -> list[Column]:
    """The gallery's columns after the image itself.

    Args:
        content: What the report tells.
        files: The predictions by the stage's key.
        truth: The ground truth.

    Returns:
        One column per stage and one for the ground truth.
    """
    columns = [
        Column(
            stage.title,
            files[stage.key],
            _by_name(files[stage.key]),
            _least_score(files[stage.key], content.masks_per_image),
        )
        for stage in content.stages
    ]
    if truth is not None:
        columns.append(Column("Ground truth", truth, _by_name(truth)))
    return columns


def gallery_rows(
    refs: Sequence[ImageRef], columns: Sequence[Column]
) -> tuple[list[str], list[dict[str, str]]]:
    """One row of pictures per image.

    Args:
        refs: The images.
        columns: What to draw over them.

    Returns:
        rows: HTML, one string per image that could be read.
        errors: `image`, `stage` and `error` of the others.
    """
    rows: list[str] = []
    errors: list[dict[str, str]] = []
    for ref in refs:
        try:
            read = read_image(ref.path, reading=ref.reading, short_side=THUMBNAIL_SIDE)
            pixels = thumbnail(read, THUMBNAIL_SIDE)
        except DataError as error:
            logger.warning("left out of the report: %s", error)
            errors.append({"image": ref.name, "stage": "report", "error": str(error)})
            continue
        cells = [picture_cell(pixels, "Image", ref.name, "")]
        for column in columns:
            annotations = column.chosen(ref)
            if annotations is None:
                cells.append(_empty_cell(column.title))
                continue
            masks = small_masks(annotations, pixels.shape[:2])
            count = f"{len(masks)} mask{'' if len(masks) == 1 else 's'}"
            cells.append(picture_cell(draw_masks(pixels, masks), column.title, ref.name, count))
        name = escape(ref.name)
        rows.append(
            f'<article class="row"><h3 title="{name}">{name}</h3>'
            f'<div class="cells">{"".join(cells)}</div></article>'
        )
    return rows, errors


def evenly_spread(refs: Sequence[ImageRef], most: int) -> list[ImageRef]:
    """At most so many images, from the whole sequence.

    Args:
        refs: All images.
        most: How many at most, at least 0.

    Returns:
        The chosen images in their order.
    """
    count = min(most, len(refs))
    return [refs[index * len(refs) // count] for index in range(count)]


def _least_score(file: CocoFile, masks_per_image: int) -> float:
    """The score that so many masks an image reach on average; 0 where there are fewer."""
    scores = sorted(
        (one.score for group in file.annotations.values() for one in group), reverse=True
    )
    wanted = masks_per_image * len(file.images)
    return scores[wanted - 1] if 0 < wanted <= len(scores) else 0.0


def _by_name(file: CocoFile) -> dict[str, CocoImage]:
    """Images by their whole name and by its last part, where that is no other image's."""
    images: dict[str, CocoImage] = {}
    last_parts = Counter(PurePosixPath(image.file_name).name for image in file.images)
    for image in file.images:
        last_part = PurePosixPath(image.file_name).name
        if last_parts[last_part] == 1:
            images[last_part] = image
    return images | {image.file_name: image for image in file.images}


def small_masks(annotations: Sequence[CocoAnnotation], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """(N, height, width) bool; decoded one by one, so that large images need little memory."""
    height, width = size
    masks = np.zeros((len(annotations), height, width), dtype=np.bool_)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask[:] = resize_masks(decode_mask(annotation.rle)[None], (height, width))[0]
    return masks


def picture_cell(pixels: NDArray[np.uint8], title: str, name: str, count: str) -> str:
    """A picture with a caption, as HTML."""
    data = base64.b64encode(jpeg_bytes(pixels, THUMBNAIL_QUALITY)).decode("ascii")
    height, width = pixels.shape[:2]
    alt = f"{name}: {title}, {count}" if count else name
    caption = escape(title) + (f" <span>{count}</span>" if count else "")
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}" loading="lazy"><figcaption>{caption}</figcaption></figure>'
    )


def _empty_cell(title: str) -> str:
    return (
        '<figure><div class="absent">not in this file</div>'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )
