"""Contact sheets: images, their true masks and an entry's, side by side."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from benchmarks.photographs.sets import PhotoSet
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from soloist.data.coco.rle import decode_masks
from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.data.drawing.contact_sheets import write_sheet
from soloist.data.drawing.rendering import draw_masks, resize_masks, thumbnail
from soloist.data.images import read_image

IMAGES = 6
"""Lines of a sheet."""
SIDE = 320
"""Largest height and width of an image on it, in pixels."""
GAP, TITLE = 6, 24
COLUMNS = ("image", "true masks", "as many best masks", "masks shown by default")

Pixels = NDArray[np.uint8]


def draw_sheet(
    path: Path,
    photos: PhotoSet,
    found: CocoFile,
    *,
    shown: Collection[int] | None,
    title: str,
    seed: int,
) -> None:
    """Draws a few images with masks tinted and outlined.

    Args:
        path: The JPEG to write.
        photos: The set; which of its images are drawn is up to the seed alone.
        found: Masks with scores, under the set's image ids.
        shown: Ids of the annotations that a user sees; None for all.
        title: Stands above.
        seed: Draws the images.

    Raises:
        RunError: If the file cannot be written.
    """
    by_name = {image.name: image.path for image in photos.images}
    drawn = random.Random(seed).sample(photos.truth.images, min(IMAGES, len(photos.truth.images)))
    lines = []
    for image in drawn:
        pixels = read_image(by_name[image.file_name])
        true = [one for one in photos.truth.annotations[image.id] if not one.iscrowd]
        best = sorted(found.annotations[image.id], key=lambda one: -one.score)
        seen = [one for one in best if shown is None or one.id in shown]
        masked = [_masked(pixels, ones) for ones in (true, best[: len(true)], seen)]
        counts = (len(true), min(len(true), len(best)), len(seen))
        lines.append(([thumbnail(pixels, SIDE), *masked], counts))
    write_sheet(path, _page(title, lines))


def _masked(pixels: Pixels, annotations: Sequence[CocoAnnotation]) -> Pixels:
    """A reduced image with masks over it; they are decoded one by one, there may be many."""
    small = thumbnail(pixels, SIDE)
    size = (small.shape[0], small.shape[1])
    masks = np.zeros((len(annotations), *size), dtype=np.bool_)
    for row, one in zip(masks, annotations, strict=True):
        row[:] = resize_masks(decode_masks([one.rle], pixels.shape[:2]), size)[0]
    return draw_masks(small, masks, line_width=1)


def _page(title: str, lines: Sequence[tuple[Sequence[Pixels], Sequence[int]]]) -> Pixels:
    heights = [max(tile.shape[0] for tile in tiles) + GAP for tiles, _ in lines]
    width = len(COLUMNS) * (SIDE + GAP) + GAP
    page = Image.new("RGB", (width, 2 * TITLE + sum(heights) + GAP), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 4), title, fill="black", font=ImageFont.load_default(15))
    for place, column in enumerate(COLUMNS):
        left = GAP + place * (SIDE + GAP)
        draw.text((left, TITLE + 4), column, fill="black", font=ImageFont.load_default(13))
    top = 2 * TITLE
    for (tiles, counts), height in zip(lines, heights, strict=True):
        for place, tile in enumerate(tiles):
            page.paste(Image.fromarray(tile), (GAP + place * (SIDE + GAP), top))
        for place, count in enumerate(counts, start=1):
            at = (GAP + place * (SIDE + GAP) + 4, top + 2)
            font = ImageFont.load_default(13)
            draw.text(at, str(count), fill="white", font=font, stroke_width=2, stroke_fill="black")
        top += height
    return np.asarray(page).copy()
