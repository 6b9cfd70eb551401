"""Tasks of Label Studio with the masks as predictions, and the labelling configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoAnnotation
from soloist.data.exports.options import ExportOptions
from soloist.data.exports.polygons import part_rings
from soloist.data.exports.target import LabelledImage, Note, Target
from soloist.runtime.files import atomic_path, write_text

TASKS, CONFIGURATION = "tasks.json", "label_config.xml"
MANY_BRUSHES = 50
"""Above N on an image its page becomes slow: each is an image of its own."""

_TAGS = {"mask": "BrushLabels", "polygon": "PolygonLabels"}
_DIGITS = 5  # Of percent: a thousandth of a pixel of an image of 10,000.
# A run is a flag, which of these sizes it has, its length less one in N bits, and the value.
_LENGTH_BITS = (3, 4, 8, 16)
_VALUE_BITS = 8
_CHANNELS = 4
_LONGEST_RUN = 2 ** _LENGTH_BITS[-1]


def write_label_studio(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `tasks.json` and `label_config.xml`."""
    write_text(target.folder / CONFIGURATION, _configuration(target))
    with (
        atomic_path(target.folder / TASKS) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.write("[")
        for number, labelled in enumerate(labelled_images):
            task = json.dumps(_task(labelled, target), allow_nan=False)
            file.write(f"{',' if number else ''}\n{task}")
        file.write("]\n")


def brush_rle(mask: NDArray[np.bool_]) -> list[int]:
    """A mask in Label Studio's own run lengths, those of the npm package `@thi.ng/rle-pack`.

    The runs go row by row over pixels of four equal channels, 255 in the mask.

    Args:
        mask: (H, W) bool.

    Returns:
        Bytes, as numbers.
    """
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], changes, [flat.size])) * _CHANNELS
    head = [f"{flat.size * _CHANNELS:032b}", f"{_VALUE_BITS - 1:05b}"]
    head += [f"{size - 1:04b}" for size in _LENGTH_BITS]
    value = bool(flat[0])
    runs: list[str] = []
    for length in np.diff(bounds).tolist():
        runs += _runs(length, "1" * _VALUE_BITS if value else "0" * _VALUE_BITS)
        value = not value
    bits = "".join(head + runs)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def _runs(length: int, value: str) -> Iterator[str]:
    while length > 0:
        run = min(length, _LONGEST_RUN)
        choice = next(i for i, size in enumerate(_LENGTH_BITS) if run <= 2**size)
        yield f"1{choice:02b}{run - 1:0{_LENGTH_BITS[choice]}b}{value}"
        length -= run


def _configuration(target: Target) -> str:
    tag = _TAGS[target.segmentation]
    names = dict.fromkeys(target.file.categories.values())
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <{tag} name="label" toName="image">\n{labels}  </{tag}>\n</View>\n'
    )


def _task(labelled: LabelledImage, target: Target) -> dict[str, Any]:
    image = labelled.image
    result = [region for one in labelled.objects for region in _regions(one, labelled, target)]
    scores = [one.score for one in labelled.objects]
    target.notes[Note.MANY_BRUSHES] += (
        target.segmentation == "mask" and len(labelled.objects) > MANY_BRUSHES
    )
    before = target.options.image_url
    target.notes[Note.AT_ROOT] += before == ExportOptions().image_url and "/" not in image.file_name
    prediction: dict[str, Any] = {"model_version": "soloist", "result": result}
    if target.scored and scores:
        prediction["score"] = sum(scores) / len(scores)
    return {
        "data": {
            "image": _address(image.file_name, before),
            "file_name": image.file_name,
            "image_id": image.id,
        },
        "predictions": [prediction],
    }


def _address(name: str, before: str) -> str:
    # Addresses of storages (s3://) hold names as they are, those of the web are quoted.
    of_the_web = before.startswith(("/", "http:", "https:"))
    return before + (quote(name, errors="surrogateescape") if of_the_web else name)


def _regions(
    one: CocoAnnotation, labelled: LabelledImage, target: Target
) -> Iterator[dict[str, Any]]:
    name = target.file.categories[one.category_id]
    height, width = labelled.size
    if target.segmentation == "mask":
        brush = {"format": "rle", "rle": brush_rle(decode_mask(one.rle)), "brushlabels": [name]}
        yield _region(str(one.id), "brushlabels", brush, one, labelled, target)
        return
    rings = part_rings(one, target)
    target.notes[Note.SEPARATE_PARTS] += len(rings) > 1
    for number, ring in enumerate(rings):
        percent = (ring * (100 / width, 100 / height)).round(_DIGITS).tolist()
        polygon = {"points": percent, "closed": True, "polygonlabels": [name]}
        identity = f"{one.id}-{number + 1}" if len(rings) > 1 else str(one.id)
        yield _region(identity, "polygonlabels", polygon, one, labelled, target)


def _region(
    identity: str,
    kind: str,
    value: Mapping[str, Any],
    one: CocoAnnotation,
    labelled: LabelledImage,
    target: Target,
) -> dict[str, Any]:
    region = {
        "id": identity,
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": labelled.image.width,
        "original_height": labelled.image.height,
        "image_rotation": 0,
        "value": value,
    }
    return region | ({"score": one.score} if target.scored else {})
