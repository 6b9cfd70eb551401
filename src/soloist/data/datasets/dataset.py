"""A labelled data set, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soloist.data.coco.rle import mask_area, mask_box_xywh
from soloist.data.coco.types import CATEGORIES, CocoAnnotation, CocoFile, CocoImage
from soloist.data.datasets.faults import Report, refuse
from soloist.data.images import image_size

BoxXYWH = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class DatasetImage:
    """An image of a data set, not yet read.

    Attributes:
        id: Different for each image of the data set.
        path: Where the file is, or where it was expected.
        name: Path relative to the data set's images, with forward slashes.
        size: (height, width) in pixels that the annotations state; None where they state none.
    """

    id: int
    path: Path
    name: str
    size: tuple[int, int] | None = None

    def true_size(self) -> tuple[int, int]:
        """(height, width) in pixels as stated, else as the file's header says.

        Raises:
            DataError: If the file is needed and cannot be read.
        """
        return image_size(self.path) if self.size is None else self.size


ObjectReader = Callable[[DatasetImage, Report], list[CocoAnnotation]]
"""Reads the objects of one image; reports what is wrong and leaves it out."""


@dataclass(frozen=True)
class Dataset:
    """One split of a labelled data set; masks are read when they are asked for.

    Attributes:
        format: Its name for `--format`.
        path: The file or folder it was read from.
        split: Such as `val2017`; empty where the format has none.
        images: In the data set's order.
        categories: Names by id.
        read_objects: The format's way to read the objects of an image.
        remarks: What a user should know, though nothing is wrong.
    """

    format: str
    path: Path
    split: str
    images: tuple[DatasetImage, ...]
    categories: Mapping[int, str]
    read_objects: ObjectReader
    remarks: tuple[str, ...] = ()

    def objects(self, image: DatasetImage, report: Report = refuse) -> list[CocoAnnotation]:
        """The true objects of an image: masks as run lengths, or boxes alone.

        Args:
            image: One of `images`.
            report: Told what is wrong; what is wrong is left out.

        Raises:
            DataError: If something is wrong, with the default report.
        """
        return self.read_objects(image, report)

    def to_coco(self) -> CocoFile:
        """The whole data set as a COCO file in memory.

        Raises:
            DataError: If something is wrong with it.
        """
        images: list[CocoImage] = []
        annotations: dict[int, tuple[CocoAnnotation, ...]] = {}
        count = 0
        for image in self.images:
            height, width = image.true_size()
            images.append(CocoImage(image.id, image.name, height, width))
            objects = self.objects(image)
            annotations[image.id] = tuple(
                replace(one, index=index, id=index + 1)
                for index, one in enumerate(objects, start=count)
            )
            count += len(objects)
        return CocoFile(
            path=self.path,
            images=tuple(images),
            annotations=annotations,
            categories=self.categories or CATEGORIES,
            embeddings=None,
        )


def true_object(
    image: DatasetImage,
    *,
    rle: dict[str, Any] | None = None,
    box_xywh: BoxXYWH | None = None,
    category_id: int = 1,
    iscrowd: bool = False,
) -> CocoAnnotation:
    """An object of a format other than COCO's.

    Args:
        image: Where it lies.
        rle: Its mask as compressed run lengths.
        box_xywh: (left, top, width, height) in pixels; None takes it from the mask.
        category_id: Its class.
        iscrowd: A region that evaluation ignores.

    Returns:
        The object; its area is the mask's, else the box's.
    """
    if box_xywh is None:
        if rle is None:
            raise ValueError("an object must have a mask or a box")
        left, top, width, height = mask_box_xywh(rle)
        box_xywh = (left, top, width, height)
    return CocoAnnotation(
        image_id=image.id,
        segmentation=rle,
        box_xywh=box_xywh,
        area=mask_area(rle) if rle is not None else box_xywh[2] * box_xywh[3],
        score=1.0,
        category_id=category_id,
        iscrowd=iscrowd,
        index=0,
        id=1,
    )
