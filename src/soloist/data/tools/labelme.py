"""labelme's files, also X-AnyLabeling's: one of JSON for each image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from soloist.data.coco.faults import Fault, Report
from soloist.data.tools.pages import (
    Page,
    Shape,
    box_corners,
    content_of,
    ellipse,
    flat,
    is_marked,
    pairs_of,
    pasted,
)
from soloist.runtime.files import shown


def labelme_pages(root: Path, files: Sequence[Path], report: Report) -> list[Page]:
    """The pages of files of labelme.

    Shapes of one label and group are parts of one object.

    Args:
        root: What names are relative to.
        files: The files.
        report: Receives what is wrong.
    """
    pages = []
    for file in files:
        content = content_of(file, report)
        if isinstance(content, dict):
            pages.append(_page(root, file, content))
        elif content is not None:
            report(Fault.BROKEN_ENTRY, f"{shown(file)}: no object with keys")
    return pages


def _page(root: Path, file: Path, content: Mapping[str, Any]) -> Page:
    named = str(content.get("imagePath") or "").replace("\\", "/")
    beside = sorted(
        one
        for one in file.parent.glob(f"{_literal(file.stem)}.*")
        if one.suffix.lower() not in (".json", "")
    )
    places = [file.parent / named, file.parent / Path(named).name, *beside]
    path = next((place for place in places if place.is_file()), places[0])
    try:
        name = path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        name = Path(named).name
    height, width = (content.get(key) for key in ("imageHeight", "imageWidth"))
    size = None
    if type(height) is int and type(width) is int and min(height, width) > 0:
        size = (height, width)
    shapes = content.get("shapes")
    listed = shapes if isinstance(shapes, list) else []
    return Page(
        name,
        path,
        size,
        [_shape(one, f"shape {number} of {shown(file)}") for number, one in enumerate(listed)],
        is_marked(content.get("flags")),
    )


def _shape(record: Any, where: str) -> Shape:
    fields = record if isinstance(record, dict) else {}
    label = fields.get("label")
    label = None if label is None else str(label)
    group = None if fields.get("group_id") is None else (label, str(fields["group_id"]))
    points = list(pairs_of(fields.get("points")))
    kind = fields.get("shape_type") or "polygon"
    if kind == "mask" and len(points) == 2 and isinstance(fields.get("mask"), str):
        left, top = (round(side) for side in points[0])
        mask = partial(pasted, fields["mask"], left, top, where=where)
        return Shape(where, label, group, mask=mask)
    if kind == "rectangle" and len(points) == 2:
        points = list(box_corners(*points[0], *points[1]))
    elif kind == "circle" and len(points) == 2:
        radius = math.dist(points[0], points[1])
        points = list(ellipse(*points[0], radius, radius))
    elif kind not in ("polygon", "rectangle", "rotation"):
        points = []
    return Shape(where, label, group, flat(points))


def _literal(stem: str) -> str:
    """A stem for `glob`, its brackets taken literally."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in stem)
