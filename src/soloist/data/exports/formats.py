"""The formats by name."""

from __future__ import annotations

from dataclasses import dataclass

from soloist.data.exports.coco import write_coco_folder
from soloist.data.exports.geojson import write_geojson
from soloist.data.exports.label_maps import write_label_maps
from soloist.data.exports.label_studio import write_label_studio
from soloist.data.exports.labelme import write_labelme
from soloist.data.exports.options import FormatName, ImageFiles, Segmentation
from soloist.data.exports.pictures import write_pictures
from soloist.data.exports.target import Write
from soloist.data.exports.via import write_via
from soloist.data.exports.yolo import write_yolo


@dataclass(frozen=True)
class ExportFormat:
    """A format that masks are written in.

    Attributes:
        write: Writes it.
        segmentations: How it can hold masks, the usual way first.
        images: What may become of the image files, the usual thing first.
        holds_crowds: Regions of many objects are told from objects.
        needs_images: It cannot be made without the images.
        has_addresses: It names images by address.
    """

    write: Write
    segmentations: tuple[Segmentation, ...]
    images: tuple[ImageFiles, ...] = ("none", "link", "copy")
    holds_crowds: bool = False
    needs_images: bool = False
    has_addresses: bool = False


EXPORT_FORMATS: dict[FormatName, ExportFormat] = {
    "coco": ExportFormat(write_coco_folder, ("mask", "polygon"), holds_crowds=True),
    "yolo": ExportFormat(write_yolo, ("polygon",), images=("link", "copy", "none")),
    "label-studio": ExportFormat(
        write_label_studio, ("mask", "polygon"), images=("none",), has_addresses=True
    ),
    "labelme": ExportFormat(write_labelme, ("polygon", "mask")),
    "via": ExportFormat(write_via, ("polygon",)),
    "label-maps": ExportFormat(write_label_maps, ("mask",)),
    "geojson": ExportFormat(write_geojson, ("polygon",)),
    "overlays": ExportFormat(write_pictures, ("mask",), images=("none",), needs_images=True),
}
