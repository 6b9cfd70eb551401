"""The formats by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from soloist.data.exports.coco import ANNOTATIONS, write_coco_folder
from soloist.data.exports.geojson import write_geojson, write_qupath
from soloist.data.exports.label_maps import (
    OBJECTS,
    write_label_maps,
    write_label_tiffs,
    write_overlays,
)
from soloist.data.exports.label_studio import CONFIGURATION, TASKS, write_label_studio
from soloist.data.exports.labelme import write_labelme
from soloist.data.exports.options import FormatName, ImageFiles, Segmentation
from soloist.data.exports.science import (
    CSV,
    PARQUET,
    ROIS,
    write_csv,
    write_parquet,
    write_rois,
)
from soloist.data.exports.target import Write
from soloist.data.exports.via import PROJECT, write_via
from soloist.data.exports.yolo import DATA_FILE, write_yolo


@dataclass(frozen=True)
class ExportFormat:
    """A format that masks are written in.

    Attributes:
        write: Writes it.
        segmentations: How it can hold masks, the usual way first.
        label: Where the labels of an image are, by its place; None if all is written together.
        shared: Files that all images share.
        images: What may become of the image files, the usual thing first.
        holds_crowds: Whether regions of many objects are marked as such.
        needs_images: It cannot be made without the images.
        measures_images: It has values of the images that are there.
        has_addresses: It names images by address.
    """

    write: Write
    segmentations: tuple[Segmentation, ...]
    label: Callable[[Path], Path] | None = None
    shared: tuple[Path, ...] = ()
    images: tuple[ImageFiles, ...] = ("none", "link", "copy")
    holds_crowds: bool = False
    needs_images: bool = False
    measures_images: bool = False
    has_addresses: bool = False


def _of_suffix(suffix: str, *, below: str = "") -> Callable[[Path], Path]:
    return lambda place: Path(below, place).with_suffix(suffix)


EXPORT_FORMATS: dict[FormatName, ExportFormat] = {
    "coco": ExportFormat(
        write_coco_folder, ("mask", "polygon"), shared=(ANNOTATIONS,), holds_crowds=True
    ),
    "yolo": ExportFormat(
        write_yolo,
        ("polygon",),
        _of_suffix(".txt", below="labels"),
        (Path(DATA_FILE),),
        images=("link", "copy", "none"),
    ),
    "label-studio": ExportFormat(
        write_label_studio,
        ("mask", "polygon"),
        shared=(Path(TASKS), Path(CONFIGURATION)),
        images=("none",),
        has_addresses=True,
    ),
    "labelme": ExportFormat(write_labelme, ("polygon", "mask"), _of_suffix(".json")),
    "via": ExportFormat(write_via, ("polygon",), shared=(Path(PROJECT),)),
    "label-maps": ExportFormat(
        write_label_maps, ("mask",), _of_suffix(".png", below="masks"), (Path(OBJECTS),)
    ),
    "label-tiffs": ExportFormat(
        write_label_tiffs, ("mask",), _of_suffix(".tif", below="masks"), (Path(OBJECTS),)
    ),
    "imagej": ExportFormat(write_rois, ("polygon",), _of_suffix(ROIS)),
    "csv": ExportFormat(
        write_csv, ("mask",), shared=(Path(CSV),), images=("none",), measures_images=True
    ),
    "parquet": ExportFormat(
        write_parquet, ("mask",), shared=(Path(PARQUET),), images=("none",), measures_images=True
    ),
    "geojson": ExportFormat(write_geojson, ("polygon",), _of_suffix(".geojson")),
    "qupath": ExportFormat(write_qupath, ("polygon",), _of_suffix(".geojson")),
    "overlays": ExportFormat(write_overlays, ("mask",), images=("none",), needs_images=True),
}
