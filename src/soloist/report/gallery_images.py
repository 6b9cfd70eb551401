"""The report's images: small JPEGs and outlines over them, together within a budget of bytes."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.types import CocoAnnotation
from soloist.data.drawing.rendering import jpeg_bytes, thumbnail
from soloist.data.images import read_image
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.report.columns import MAX_MASKS, Column, score_units
from soloist.report.content import ImageVerdict
from soloist.report.shapes import svg_path

logger = logging.getLogger(__name__)

PAGE_BYTES = 28_000_000
"""What all images with their masks may take, so that a page stays below 30 MB."""
DRAWING_SIDE = 512
"""Largest side of a drawing in its own units; outlines have no finer detail."""

# Pillow's quality for the largest side of an image in pixels; the first that fits is taken.
_JPEG_SIZES = (
    *((640, quality) for quality in (82, 70)),
    *((512, quality) for quality in (80, 68)),
    *((400, quality) for quality in (78, 66)),
    *((320, quality) for quality in (76, 60)),
    *((224, quality) for quality in (70, 50)),
    (128, 50),
)
_MARKUP_BYTES = 60  # Of a mask, besides its path.
_AREA_UNITS = 1_000_000


@dataclass(frozen=True)
class Shape:
    """A mask, ready to be drawn.

    Attributes:
        path: The `d` of an SVG path.
        score: In thousandths.
        area: In millionths of the image.
        color: Its place among the masks of its image, best first.
        on: Whether it is shown at first.
        label: Its class, in files of several; else empty.
    """

    path: str
    score: int
    area: int
    color: int
    on: bool
    label: str


@dataclass(frozen=True)
class Layer:
    """What a column has on an image.

    Attributes:
        shapes: What is drawn, the largest first, so that none hides a smaller one.
        total: Masks on the image in the file; the best of them are drawn.
        verdict: How the column did here; None without true objects.
    """

    shapes: tuple[Shape, ...]
    total: int
    verdict: ImageVerdict | None


@dataclass(frozen=True)
class GalleryImage:
    """An image of the page.

    Attributes:
        number: Its place in the page.
        name: The image's.
        height: Of the drawing, at most `DRAWING_SIDE`.
        width: Of the drawing.
        jpeg: The pixels in base64, of the drawing's proportions.
        layers: What each column has; None where a column does not know the image.
    """

    number: int
    name: str
    height: int
    width: int
    jpeg: str
    layers: tuple[Layer | None, ...]


def make_gallery_images(
    refs: Sequence[ImageRef], columns: Sequence[Column], advance: Callable[[], None]
) -> tuple[list[GalleryImage], list[dict[str, str]]]:
    """Reads the images and draws their masks.

    Args:
        refs: The images.
        columns: What to draw over them.
        advance: Called after each image.

    Returns:
        images: Those that could be read.
        errors: `image`, `stage` and `error` of the others.
    """
    images: list[GalleryImage] = []
    errors: list[dict[str, str]] = []
    share = PAGE_BYTES // max(1, len(refs))
    for ref in refs:
        try:
            images.append(_image(ref, columns, share, len(images)))
        except DataError as error:
            logger.warning("left out of the report: %s", error)
            errors.append({"image": ref.name, "stage": "report", "error": str(error)})
        advance()
    return images, errors


def fitting_jpeg(pixels: NDArray[np.uint8], most: int) -> bytes:
    """An image as a JPEG of limited length: as large and as good as fits.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        most: Bytes it may have. The smallest size is taken even if it has more.
    """
    for side, quality in _JPEG_SIZES:
        jpeg = jpeg_bytes(thumbnail(pixels, side), quality)
        if len(jpeg) <= most:
            break
    return jpeg


def _image(ref: ImageRef, columns: Sequence[Column], share: int, number: int) -> GalleryImage:
    largest = _JPEG_SIZES[0][0]
    pixels = thumbnail(read_image(ref.path, reading=ref.reading, short_side=largest), largest)
    height, width = thumbnail(pixels, DRAWING_SIDE).shape[:2]
    # Outlines of noise are long: they get half of the room, each column as much.
    room = share // 2
    layers = [_layer(ref, column, (height, width), room // len(columns)) for column in columns]
    used = sum(_length(shape) for layer in layers if layer for shape in layer.shapes)
    jpeg = fitting_jpeg(pixels, (share - used) * 3 // 4)
    text = base64.b64encode(jpeg).decode("ascii")
    return GalleryImage(number, ref.name, height, width, text, tuple(layers))


def _layer(ref: ImageRef, column: Column, size: tuple[int, int], room: int) -> Layer | None:
    """The best masks of a column on an image, as many as the room in bytes has place for."""
    objects = column.objects(ref)
    if objects is None:
        return None
    shapes: list[Shape] = []
    for place, one in enumerate(objects if column.is_truth else objects[:MAX_MASKS]):
        shape = _shape(one, column, size, place)
        room -= _length(shape)
        if room < 0:
            break
        shapes.append(shape)
    largest_first = tuple(sorted(shapes, key=lambda shape: -shape.area))
    return Layer(largest_first, len(objects), column.verdict(ref))


def _shape(one: CocoAnnotation, column: Column, size: tuple[int, int], place: int) -> Shape:
    categories = column.file.categories
    rle = one.rle
    height, width = rle["size"]
    return Shape(
        path=svg_path(rle, size),
        score=score_units(one.score),
        area=round(_AREA_UNITS * min(1.0, one.area / (height * width))),
        color=place,
        on=column.shows(one),
        label=categories.get(one.category_id, "") if len(categories) > 1 else "",
    )


def _length(shape: Shape) -> int:
    return len(shape.path) + len(shape.label) + _MARKUP_BYTES
