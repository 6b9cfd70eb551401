"""A project of the VGG Image Annotator (VIA 2): one file of JSON for all images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from soloist.data.coco.types import CocoAnnotation
from soloist.data.exports.polygons import corners, part_rings
from soloist.data.exports.target import LabelledImage, Note, Target
from soloist.data.tools.via import PART_OF
from soloist.runtime.files import write_json

PROJECT = "via_project.json"
_CLASS, _SCORE = "class", "score"
_UNKNOWN = -1
"""VIA's size of a file that it has not seen."""


def write_via(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `via_project.json`, and images to `images`, where the project looks for them."""
    records = {}
    for labelled in labelled_images:
        target.put_image(labelled, "images" / labelled.place)
        name = labelled.image.file_name if target.images == "none" else labelled.place.as_posix()
        size = _UNKNOWN if labelled.path is None else labelled.path.stat().st_size
        records[f"{name}{size}"] = {
            "filename": name,
            "size": size,
            "regions": [region for one in labelled.objects for region in _regions(one, target)],
            # VIA asks the image; who reads the project without it cannot.
            "file_attributes": {
                "width": str(labelled.image.width),
                "height": str(labelled.image.height),
            },
        }
    names = dict.fromkeys(target.file.categories.values())
    attributes: dict[str, Any] = {
        _CLASS: {
            "type": "dropdown",
            "description": "",
            "options": dict.fromkeys(names, ""),
            "default_options": {},
        },
        PART_OF: {"type": "text", "description": "number of the object", "default_value": ""},
    }
    if target.scored:
        attributes[_SCORE] = {"type": "text", "description": "of the mask", "default_value": ""}
    content = {
        "_via_settings": {
            "core": {"default_filepath": "" if target.images == "none" else "images/"},
            "project": {"name": "soloist"},
        },
        "_via_img_metadata": records,
        "_via_attributes": {
            "region": attributes,
            "file": {
                name: {"type": "text", "description": "in pixels", "default_value": ""}
                for name in ("width", "height")
            },
        },
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(records),
    }
    write_json(target.folder / PROJECT, content)


def _regions(one: CocoAnnotation, target: Target) -> Iterator[dict[str, Any]]:
    attributes = {_CLASS: target.file.categories[one.category_id], PART_OF: str(one.id)}
    if target.scored:
        attributes[_SCORE] = f"{one.score:g}"
    rings = part_rings(one, target)
    target.notes[Note.PART_REGIONS] += len(rings) > 1
    for ring in rings:
        points = corners(ring)
        yield {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": [x for x, _ in points],
                "all_points_y": [y for _, y in points],
            },
            "region_attributes": attributes,
        }
