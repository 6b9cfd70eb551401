"""YOLO's segmentation format: a text file an image, a line an object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from soloist.data.exports.polygons import single_ring
from soloist.data.exports.target import LabelledImage, Note, Target
from soloist.runtime.files import write_text

DATA_FILE = "data.yaml"

_DIGITS = 6  # A hundredth of a pixel of an image of 10,000.
_HEAD = "# All images are in one split: divide them before you measure anything.\n"


def write_yolo(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `data.yaml`, `labels/NAME.txt`, and images to `images`, where YOLO looks for them."""
    numbers = {key: number for number, key in enumerate(target.file.categories)}
    for labelled in labelled_images:
        target.put_image(labelled, "images" / labelled.place)
        lines = []
        for one in labelled.objects:
            fractions = single_ring(one, target) / (labelled.image.width, labelled.image.height)
            values = " ".join(f"{value:.{_DIGITS}f}" for value in fractions.ravel())
            lines.append(f"{numbers[one.category_id]} {values}\n")
        target.notes[Note.NO_SCORE] += len(lines) if target.scored else 0
        label = Path("labels", labelled.place).with_suffix(".txt")
        write_text(target.folder / label, "".join(lines))
    content = {
        "train": "images",
        "val": "images",
        "nc": len(numbers),
        "names": dict(enumerate(target.file.categories.values())),
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(target.folder / DATA_FILE, _HEAD + text)
