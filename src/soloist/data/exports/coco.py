"""COCO, in the layout that CVAT and datumaro import."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from soloist.data.coco.rle import mask_area, mask_box_xywh
from soloist.data.coco.types import CocoAnnotation
from soloist.data.coco.write import annotation_entry, write_coco
from soloist.data.exports.polygons import corners, part_rings
from soloist.data.exports.target import LabelledImage, Target

ANNOTATIONS = Path("annotations", "instances_default.json")
IMAGES = Path("images", "default")


def write_coco_folder(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `annotations/instances_default.json`, and images to `images/default`."""
    # The file of then may be another one by now.
    images = tuple(replace(image, file_state=None) for image in target.file.images)
    if target.images != "none":
        images = tuple(
            replace(image, file_name=target.places[image.id].as_posix()) for image in images
        )
    write_coco(
        target.folder / ANNOTATIONS,
        images,
        _entries(target, labelled_images),
        categories=target.file.categories,
    )


def _entries(target: Target, labelled_images: Iterator[LabelledImage]) -> Iterator[dict[str, Any]]:
    for labelled in labelled_images:
        target.put_image(labelled, IMAGES / labelled.place)
        for one in labelled.objects:
            yield _entry(one, target)


def _entry(one: CocoAnnotation, target: Target) -> dict[str, Any]:
    segmentation: Any = one.rle
    if target.segmentation == "polygon":
        segmentation = [
            [value for corner in corners(ring) for value in corner]
            for ring in part_rings(one, target)
        ]
    entry = annotation_entry(
        one.id,
        one.image_id,
        segmentation,
        area=mask_area(one.rle),
        # Readers that cut masks out by their box want it tight.
        box_xywh=mask_box_xywh(one.rle),
        score=one.score,
        category_id=one.category_id,
        iscrowd=one.iscrowd,
        outputs=one.outputs,
    )
    # CVAT shows no score but what stands among the attributes.
    return entry | ({"attributes": {"score": one.score}} if target.scored else {})
