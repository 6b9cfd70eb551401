"""Files for measuring: tables of objects, and ROI sets of ImageJ."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from soloist.data.coco.rle import decode_mask, mask_box_xywh
from soloist.data.coco.types import CocoAnnotation
from soloist.data.exports.polygons import single_ring
from soloist.data.exports.target import LabelledImage, Note, Target
from soloist.data.images import read_values
from soloist.errors import DataError, require
from soloist.runtime.files import atomic_path, write_text

CSV, PARQUET, ROIS = "objects.csv", "objects.parquet", ".rois.zip"
SHAPE_COLUMNS = (
    "area",
    "centroid_x",
    "centroid_y",
    "left",
    "top",
    "right",
    "bottom",
    "perimeter",
    "eccentricity",
)
"""What is measured of a mask: in pixels; centroids in pixels from the middle of the first one."""
_PROPERTIES = ("area", "centroid", "bbox", "perimeter", "eccentricity")
_GROUPS = 255
"""Of ROIs; ImageJ gives each a colour."""

Row = dict[str, Any]


def measure(rle: Mapping[str, Any], values: NDArray[Any] | None = None) -> Row:
    """What can be measured of an object, by scikit-image's `regionprops_table`.

    Args:
        rle: Its mask.
        values: (H, W, C) values of the image as they are stored; None measures the shape alone.

    Returns:
        `SHAPE_COLUMNS`, and for each channel c `mean_c` and `sum_c` of the values in the mask. A
        mask without a pixel has an area of 0 and nothing else but None.
    """
    left, top, width, height = (int(side) for side in mask_box_xywh(rle))
    channels = range(0 if values is None else values.shape[2])
    names = [f"{what}_{channel}" for channel in channels for what in ("mean", "sum")]
    if width == 0 or height == 0:
        return {**dict.fromkeys([*SHAPE_COLUMNS, *names]), "area": 0}
    window = (slice(top, top + height), slice(left, left + width))
    mask = decode_mask(rle)[window]
    found = regionprops_table(mask.astype(np.uint8), properties=_PROPERTIES)
    row: Row = {
        "area": int(found["area"][0]),
        "centroid_x": float(found["centroid-1"][0]) + left,
        "centroid_y": float(found["centroid-0"][0]) + top,
        "left": left,
        "top": top,
        "right": left + width,
        "bottom": top + height,
        "perimeter": float(found["perimeter"][0]),
        "eccentricity": float(found["eccentricity"][0]),
    }
    if values is not None:
        inside = values[window][mask].astype(np.float64)  # (area, C)
        for channel in channels:
            row[f"mean_{channel}"] = float(inside[:, channel].mean())
            row[f"sum_{channel}"] = float(inside[:, channel].sum())
    return row


def write_csv(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `objects.csv`: a row an object, with intensities where the image is there."""
    rows = _rows(target, labelled_images)
    text = io.StringIO()
    table = csv.DictWriter(text, _columns(rows), lineterminator="\n", restval="")
    table.writeheader()
    table.writerows(rows)
    write_text(target.folder / CSV, text.getvalue())


def write_parquet(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `objects.parquet`: the same table with its types.

    Raises:
        ConfigError: If pyarrow is absent.
    """
    require("pyarrow", extra="parquet", wanted="--format parquet")
    import pyarrow
    from pyarrow import parquet

    rows = _rows(target, labelled_images)
    columns = {name: [row.get(name) for row in rows] for name in _columns(rows)}
    with atomic_path(target.folder / PARQUET) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)


def write_rois(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `NAME.rois.zip` for each image, which ImageJ's ROI manager opens; images beside them.

    A class is a group of ROIs, which have its colour.

    Raises:
        ConfigError: If roifile is absent.
    """
    require("roifile", extra="science", wanted="--format imagej")
    from roifile import ImagejRoi, roiwrite

    groups = {key: min(at, _GROUPS) for at, key in enumerate(target.file.categories, start=1)}
    for labelled in labelled_images:
        target.put_image(labelled, labelled.place)
        target.notes[Note.NO_SCORE] += len(labelled.objects) if target.scored else 0
        rois = []
        for one in labelled.objects:
            name = f"{one.id:06d}-{target.file.categories[one.category_id]}"
            roi = ImagejRoi.frompoints(single_ring(one, target).astype(np.float32), name=name)
            roi.group = groups[one.category_id]
            rois.append(roi)
        path = target.folder / labelled.place.with_suffix("")
        with atomic_path(path.with_name(path.name + ROIS)) as temporary:
            roiwrite(temporary, rois, name=[f"{roi.name}.roi" for roi in rois], mode="w")


def _rows(target: Target, labelled_images: Iterator[LabelledImage]) -> list[Row]:
    rows: list[Row] = []
    for labelled in labelled_images:
        values = _values_of(labelled, target)
        for one in labelled.objects:
            shared = _shared_columns(one, labelled, target)
            rows.append({**shared, **measure(one.rle, values)})
    return rows


def _shared_columns(one: CocoAnnotation, labelled: LabelledImage, target: Target) -> Row:
    return {
        "image": labelled.image.file_name,
        "id": one.id,
        "class": target.file.categories[one.category_id],
        "score": one.score if target.scored else None,
    }


def _values_of(labelled: LabelledImage, target: Target) -> NDArray[Any] | None:
    """The values of an image; None, and a note, where there is none of the size of its masks."""
    if labelled.path is None:
        target.notes[Note.NO_IMAGE] += 1
        return None
    try:
        values = read_values(labelled.path, reading=target.file.reading)
        if values.shape[:2] != labelled.size:
            raise DataError(
                f"wanted an image of {labelled.size[0]} x {labelled.size[1]}, as its masks, got "
                f"{values.shape[0]} x {values.shape[1]}"
            )
    except DataError as error:
        target.errors.add(labelled.image.file_name, "values", error)
        return None
    return values


def _columns(rows: Sequence[Row]) -> list[str]:
    """The names of all columns; those that all have first."""
    first = ["image", "id", "class", "score", *SHAPE_COLUMNS]
    others = dict.fromkeys(name for row in rows for name in row)
    return [*first, *(name for name in others if name not in first)]
