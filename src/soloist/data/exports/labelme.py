"""The JSON files of labelme, which X-AnyLabeling reads too: one an image, of the same name."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from soloist.data.coco.rle import decode_mask, mask_box_xywh
from soloist.data.coco.types import CocoAnnotation
from soloist.data.exports.polygons import corners, part_rings
from soloist.data.exports.target import LabelledImage, Note, Target
from soloist.runtime.files import write_json

_VERSION = "5.5.0"  # Of labelme: the format, not the program that wrote it.


def write_labelme(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `NAME.json` for each image, and images beside them."""
    for labelled in labelled_images:
        target.put_image(labelled, labelled.place)
        file = (target.folder / labelled.place).with_suffix(".json")
        shapes = [shape for one in labelled.objects for shape in _shapes(one, target)]
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": _image_path(labelled, file, target),
            "imageData": None,
            "imageHeight": labelled.image.height,
            "imageWidth": labelled.image.width,
        }
        write_json(file, content)


def _shapes(one: CocoAnnotation, target: Target) -> Iterator[dict[str, Any]]:
    common = {
        "label": target.file.categories[one.category_id],
        # Parts of an object share it; both programs show it beside the label.
        "group_id": one.id,
        "description": "",
        "flags": {},
        # X-AnyLabeling's; labelme keeps what it does not know.
        "score": one.score if target.scored else None,
        "difficult": False,
        "attributes": {},
    }
    if target.segmentation == "mask":
        left, top, width, height = (int(side) for side in mask_box_xywh(one.rle))
        # The box ends with the last pixel, not behind it.
        box = [[left, top], [left + width - 1, top + height - 1]]
        yield {**common, "shape_type": "mask", "points": box, "mask": _png(one)}
        return
    rings = part_rings(one, target)
    target.notes[Note.SPLIT_PARTS] += len(rings) > 1
    for ring in rings:
        yield {**common, "shape_type": "polygon", "points": corners(ring), "mask": None}


def _png(one: CocoAnnotation) -> str:
    """The part of a mask inside its box, as the text of a PNG file."""
    left, top, width, height = (int(side) for side in mask_box_xywh(one.rle))
    cut_out = decode_mask(one.rle)[top : top + height, left : left + width]
    buffer = io.BytesIO()
    Image.fromarray(cut_out).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _image_path(labelled: LabelledImage, file: Path, target: Target) -> str:
    """Where the image is, seen from the JSON file."""
    if target.images != "none":
        return labelled.place.name
    if labelled.path is None:
        return labelled.image.file_name
    try:
        path = os.path.relpath(labelled.path.absolute(), file.parent.absolute())
    except ValueError:  # Another drive.
        return str(labelled.path.absolute())
    return Path(path).as_posix()
