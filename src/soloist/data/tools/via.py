"""Projects and exports of the VGG Image Annotator (VIA 2): one file of JSON for all images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soloist.data.coco.faults import Fault, Report
from soloist.data.sources import identity
from soloist.data.tools.pages import (
    Page,
    Shape,
    Size,
    box_corners,
    content_of,
    ellipse,
    flat,
    is_marked,
)
from soloist.runtime.files import shown

PART_OF = "object"
"""The attribute whose value the parts of one object share, in what Soloist writes."""

_CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type")


def via_pages(file: Path, report: Report) -> list[Page]:
    """The pages of a project or an export.

    A region's class is its attribute `class`, or its first.

    Args:
        file: The file.
        report: Receives what is wrong.
    """
    content = content_of(file, report)
    if not isinstance(content, dict):
        return []
    records = content.get("_via_img_metadata", content)
    pages = []
    for key, entry in records.items() if isinstance(records, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
            report(Fault.BROKEN_ENTRY, f"{shown(file)}: {key!r:.60} has no filename")
            continue
        name = entry["filename"]
        regions = entry.get("regions") or []
        listed = list(regions.values()) if isinstance(regions, dict) else regions
        shapes = [
            _shape(region, f"region {number} of {shown(name)} in {shown(file)}")
            for number, region in enumerate(listed)
        ]
        attributes = entry.get("file_attributes")
        path = file.parent / name
        pages.append(Page(name, path, _size(attributes), shapes, is_marked(attributes)))
    return pages


def _size(attributes: Any) -> Size | None:
    """(height, width), if attributes of the file say so, as Soloist writes them."""
    fields = attributes if isinstance(attributes, dict) else {}
    height, width = (identity(fields.get(key)) for key in ("height", "width"))
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        return height, width
    return None


def _shape(region: Any, where: str) -> Shape:
    fields = region if isinstance(region, dict) else {}
    attributes = fields.get("region_attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    label = _class_of(attributes)
    part = attributes.get(PART_OF)
    # An attribute of this name may well be somebody's class.
    is_part = isinstance(part, str) and part.isdecimal() and label != part
    shape = fields.get("shape_attributes")
    return Shape(
        where,
        label,
        (label, str(part)) if is_part else None,
        _outline(shape if isinstance(shape, dict) else {}),
    )


def _outline(shape: Mapping[str, Any]) -> list[float]:
    """The outline of a shape; empty for what has no area, or is damaged."""
    kind = shape.get("name")
    try:
        if kind in ("polygon", "polyline"):
            pairs = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
            return flat((float(x), float(y)) for x, y in pairs)
        if kind == "rect":
            x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
            return flat(box_corners(x, y, x + width, y + height))
        if kind == "circle":
            x, y, radius = (float(shape[key]) for key in ("cx", "cy", "r"))
            return flat(ellipse(x, y, radius, radius))
        if kind == "ellipse":
            x, y, across, down = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
            return flat(ellipse(x, y, across, down, float(shape.get("theta", 0))))
    except (LookupError, TypeError, ValueError):
        return []
    return []


def _class_of(attributes: Mapping[str, Any]) -> str | None:
    """The class among a region's attributes; of a tick list the first one ticked."""
    keys = sorted(attributes, key=lambda key: key.lower() not in _CLASS_ATTRIBUTES)
    for key in keys:
        value = attributes[key]
        if isinstance(value, dict):
            value = next((name for name, ticked in value.items() if ticked), None)
        if value not in (None, "", "undefined"):
            return str(value)
    return None
