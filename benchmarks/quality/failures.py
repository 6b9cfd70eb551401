"""Draws typical failures: objects that one file of masks loses, and the same places in another.

    python benchmarks/quality/failures.py VAL.json IMAGES BEFORE.json AFTER.json [--out FILE.jpg]

A row for each kind of `errors.py`: of the objects (merged, poor outline, split, missed) and of the
best-scored masks (part, background) in BEFORE. In each row stand, of the examples in order of
size, the ones at a quarter, the half and three quarters: nobody chooses them. Each is a pair,
BEFORE left and AFTER right: as many best masks as the image has objects, tinted; in white the
object that is lost, or the outline of the mask that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cyclopts import App
from errors import Overlap
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoFile
from soloist.data.drawing.rendering import draw_masks, draw_outlines, jpeg_bytes
from soloist.data.images import read_image

KINDS = ("merged", "poor outline", "split", "missed", "part", "background")
PLACES = (0.25, 0.5, 0.75)
TILE = (150, 200)
"""(height, width) of an image, in pixels."""
GAP, TITLE = 6, 20
WHITE = (255, 255, 255)

Pixels = NDArray[np.uint8]

app = App(help=__doc__)


@dataclass(frozen=True)
class Example:
    """A failure: its kind, file name of the image, and run lengths of the object or mask."""

    kind: str
    name: str
    segmentation: dict[str, object]
    size: int


@app.default
def main(
    truth: Path, images: Path, before: Path, after: Path, *, out: Path = Path("failures.jpg")
) -> None:
    """Writes the image and prints how many examples each kind has.

    Args:
        truth: COCO file of the true masks.
        images: Folder of the images.
        before: COCO file of masks with scores.
        after: Another one, on the same images.
        out: JPEG to write.
    """
    true = load_coco(truth)
    files = [load_coco(path) for path in (before, after)]
    examples = sorted(failures(true, files[0]), key=lambda one: one.size)
    rows = []
    for kind in KINDS:
        own = [one for one in examples if one.kind == kind]
        print(f"{kind}: {len(own)}")
        shown = {int(place * len(own)): None for place in PLACES} if own else {}
        pairs = [[drawn(own[at], true, file, images) for file in files] for at in shown]
        rows.append((kind, [tile for pair in pairs for tile in pair]))
    out.write_bytes(jpeg_bytes(sheet(rows), quality=85))


def failures(truth: CocoFile, found: CocoFile) -> Iterator[Example]:
    """Objects that are lost, and wrong ones among as many best masks as there are objects."""
    by_name = {image.file_name: image.id for image in found.images}
    for image in truth.images:
        true = [one.rle for one in truth.annotations[image.id]]
        own = best(found, by_name.get(image.file_name))
        kinds = ["missed"] * len(true)
        if true and own:
            overlap = Overlap.of(true, own)
            kinds = [overlap.object_kind(number) for number in range(len(true))]
            kinds += [overlap.mask_kind(number)[0] for number in range(min(len(own), len(true)))]
        for number, (kind, rle) in enumerate(zip(kinds, [*true, *own], strict=False)):
            of_masks = number >= len(true)
            if of_masks == (kind in ("part", "background")):
                yield Example(kind, image.file_name, rle, int(decode_mask(rle).sum()))


def best(found: CocoFile, image_id: int | None) -> list[dict[str, object]]:
    """Run lengths of an image's masks, best first."""
    if image_id is None:
        return []
    return [one.rle for one in sorted(found.annotations[image_id], key=lambda one: -one.score)]


def drawn(example: Example, truth: CocoFile, found: CocoFile, images: Path) -> Pixels:
    """The image of an example with as many best masks as it has objects."""
    pixels = read_image(images / example.name)
    count = next(
        len(truth.annotations[image.id])
        for image in truth.images
        if image.file_name == example.name
    )
    ids = {image.file_name: image.id for image in found.images}
    masks = [decode_mask(one) for one in best(found, ids.get(example.name))[:count]]
    shape = (len(masks), *pixels.shape[:2])
    tinted = draw_masks(pixels, np.array(masks, dtype=np.bool_).reshape(shape))
    return draw_outlines(tinted, decode_mask(example.segmentation)[None], WHITE, line_width=2)


def sheet(rows: list[tuple[str, list[Pixels]]]) -> Pixels:
    """Titled rows of images, pair by pair."""
    height, width = TILE
    pair = 2 * width + GAP
    size = (len(PLACES) * (pair + 3 * GAP), len(rows) * (TITLE + height + GAP))
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for number, (title, cells) in enumerate(rows):
        top = number * (TITLE + height + GAP)
        draw.text((GAP, top), title, fill="black", font=ImageFont.load_default(14))
        for place, cell in enumerate(cells):
            tile = Image.fromarray(cell)
            tile.thumbnail((width, height), Image.Resampling.LANCZOS)
            left = place // 2 * (pair + 3 * GAP) + place % 2 * (width + GAP)
            page.paste(tile, (left, top + TITLE))
    return np.asarray(page)


if __name__ == "__main__":
    app()
