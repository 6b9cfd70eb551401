"""A labelled data set, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soloist.data.coco.faults import Fault, Report, refuse
from soloist.data.coco.objects import BoxXYWH
from soloist.data.coco.rle import mask_area, mask_box_xywh
from soloist.data.coco.types import CATEGORIES, CocoAnnotation, CocoFile, CocoImage
from soloist.data.datasets.frames import Exif, settle
from soloist.data.georeference import Georeference
from soloist.data.images import image_size
from soloist.data.inputs import state_of
from soloist.data.names import NameMatches
from soloist.runtime.files import shown

_BORDER = 1.0  # Pixels a box may reach out of its image: many tools round outwards.


@dataclass(frozen=True, slots=True)
class DatasetImage:
    """An image of a data set, not yet read.

    Attributes:
        id: Different for each image of the data set.
        path: Where the file is, or where it was expected.
        name: Path relative to the data set's images, with forward slashes.
        size: (height, width) in pixels that the annotations state; None where they state none.
        source_id: The id it has in the file, where that is no integer.
        georeference: Where it is on the earth, if the file says so.
    """

    id: int
    path: Path
    name: str
    size: tuple[int, int] | None = None
    source_id: str | None = None
    georeference: Georeference | None = None

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
        info: What a COCO file says of itself; of tools' files, which images are unfinished.
        outlines: Objects can be read on an image of any size, by `DatasetImage.size`.
        matches: The account of how image files were found, where names had to be matched.
    """

    format: str
    path: Path
    split: str
    images: tuple[DatasetImage, ...]
    categories: Mapping[int, str]
    read_objects: ObjectReader
    remarks: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    outlines: bool = False
    matches: NameMatches | None = None

    def objects(self, image: DatasetImage, report: Report = refuse) -> list[CocoAnnotation]:
        """The true objects of an image: masks as run lengths, or boxes alone.

        Args:
            image: One of `images`.
            report: Receives what is wrong; what is wrong is left out.

        Raises:
            DataError: If something is wrong, with the default report.
        """
        return self.read_objects(image, report)

    def to_coco(self, report: Report = refuse, *, exif: Exif | None = None) -> CocoFile:
        """The whole data set as a COCO file in memory, on images of their own size.

        Args:
            report: Receives what is wrong; what cannot be used is left out.
            exif: What labels of images with an EXIF orientation were made on; see `settle`.

        Raises:
            DataError: If something is wrong, with the default report, or there is no telling the
                size of an image.
        """
        images: list[CocoImage] = []
        annotations: dict[int, tuple[CocoAnnotation, ...]] = {}
        ids: set[int] = set()
        count = 0
        for one in self.images:
            image, objects = settle(self, one, report, exif)
            if image.size is None:
                report(Fault.MISSING_IMAGE, f"{shown(image.path)}, and no size is stated")
                continue
            objects = sound(objects, image, report)
            place = image.georeference
            state = state_of(image.path)
            images.append(
                CocoImage(image.id, image.name, *image.size, place, image.source_id, state)
            )
            ids.update(one.id for one in objects)
            annotations[image.id] = tuple(
                replace(one, index=index) for index, one in enumerate(objects, start=count)
            )
            count += len(objects)
        if len(ids) < count:
            annotations = {
                key: tuple(replace(one, id=one.index + 1) for one in ones)
                for key, ones in annotations.items()
            }
        return CocoFile(
            path=self.path,
            images=tuple(images),
            annotations=annotations,
            # A COCO file without names may mean any classes.
            categories=self.categories or ({} if self.format == "coco" else CATEGORIES),
            embeddings=None,
            info=self.info,
        )


def sound(
    objects: Sequence[CocoAnnotation], image: DatasetImage, report: Report
) -> list[CocoAnnotation]:
    """The objects that have a pixel; what is odd about them is reported.

    Args:
        objects: Of any format.
        image: Where they lie, with its size.
        report: Receives what is wrong.
    """
    kept = []
    assert image.size is not None
    for one in objects:
        left, top, width, height = one.box_xywh
        where = f"{[round(side, 1) for side in one.box_xywh]} on {shown(image.name)}"
        is_empty = one.segmentation is not None and mask_area(one.segmentation) == 0
        if is_empty or width <= 0 or height <= 0:
            report(Fault.EMPTY, where)
            continue
        out = min(left, top, image.size[1] - left - width, image.size[0] - top - height)
        if out < -_BORDER:
            report(Fault.OUTSIDE, where)
        kept.append(one)
    return kept


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
