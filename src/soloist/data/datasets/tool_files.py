"""What labelme, X-AnyLabeling and VIA write: outlines in JSON, a file an image or one for all."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soloist.data.coco.faults import Fault, OddEntryError, Report
from soloist.data.coco.objects import read_segmentation
from soloist.data.coco.rle import encode_masks, joined_mask
from soloist.data.coco.types import NO_CLASS, CocoAnnotation
from soloist.data.datasets.dataset import Dataset, DatasetImage, true_object
from soloist.data.names import NameMatches, match_names
from soloist.data.sources import find_images
from soloist.runtime.files import shown

Tool = Literal["labelme", "via"]

_CORNERS_OF_A_CIRCLE = 64
_CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type")
_READ_AHEAD = 2**16  # Bytes within which a file shows what wrote it.


@dataclass(frozen=True)
class _Shape:
    """One shape: where it stands, its class and what it covers."""

    where: str
    label: str | None
    group: tuple[str | None, Any] | None
    polygons: Sequence[Sequence[float]]
    png: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class _Page:
    """An image with its shapes."""

    name: str
    path: Path
    size: tuple[int, int] | None
    shapes: Sequence[_Shape]


def tool_of(file: Path) -> Tool | None:
    """The tool that wrote a JSON file, by words at its beginning."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_READ_AHEAD)
    except OSError:
        return None
    if b'"shapes"' in head and (b'"imagePath"' in head or b'"version"' in head):
        return "labelme"
    is_via = b'"_via_img_metadata"' in head or (b'"regions"' in head and b'"filename"' in head)
    return "via" if is_via else None


def labelme_splits(path: Path) -> tuple[str, ...]:
    """One split without a name, if there is a file of labelme's."""
    return ("",) if _files(path, "labelme") else ()


def via_splits(path: Path) -> tuple[str, ...]:
    """One split without a name, if there is one project of VIA's."""
    return ("",) if len(_files(path, "via")) == 1 else ()


def read_labelme(path: Path, split: str, report: Report) -> Dataset:
    """A folder of labelme's files, also of X-AnyLabeling's, with their images beside them.

    Shapes of one label and group are parts of one object.

    Args:
        path: The folder, or one file.
        split: Always empty.
        report: Told what is wrong.
    """
    root = path if path.is_dir() else path.parent
    pages = []
    for file in _files(path, "labelme"):
        content = _content(file, report)
        if content is not None:
            pages.append(_labelme_page(root, file, content, report))
    return _dataset("labelme", path, pages, None)


def read_via(path: Path, split: str, report: Report) -> Dataset:
    """A project or an export of VIA; a region's class is its attribute `class`, or its first.

    Args:
        path: The file, or the folder it lies in.
        split: Always empty.
        report: Told what is wrong.
    """
    (file,) = _files(path, "via")
    content = _content(file, report) or {}
    records = content.get("_via_img_metadata", content)
    entries = [one for one in records.values() if isinstance(one, dict) and "filename" in one]
    refs = find_images(file.parent)
    matches = match_names([str(one["filename"]) for one in entries], [ref.name for ref in refs])
    pages = []
    for place, entry in enumerate(entries):
        name = str(entry["filename"])
        there = matches.found.get(place)
        found = file.parent / name if there is None else refs[there].path
        regions = entry.get("regions") or []
        listed = list(regions.values()) if isinstance(regions, dict) else regions
        shapes = [
            _via_shape(region, f"region {number} of {shown(name)} in {shown(file)}")
            for number, region in enumerate(listed)
        ]
        pages.append(_Page(name, found, None, shapes))
    return _dataset("via", file, pages, matches)


def _files(path: Path, tool: Tool) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and tool_of(path) == tool else []
    pattern = "**/*.json" if tool == "labelme" else "*.json"
    return [file for file in sorted(path.glob(pattern)) if tool_of(file) == tool]


def _content(file: Path, report: Report) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        report(Fault.BROKEN_ENTRY, f"{shown(file)}: {error}")
        return None
    if not isinstance(content, dict):
        report(Fault.BROKEN_ENTRY, f"{shown(file)}: no object with keys")
        return None
    return content


def _labelme_page(root: Path, file: Path, content: Mapping[str, Any], report: Report) -> _Page:
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
    sides = [content.get(key) for key in ("imageHeight", "imageWidth")]
    size = None
    if all(type(side) is int and side > 0 for side in sides):
        size = (int(sides[0] or 0), int(sides[1] or 0))
    shapes = content.get("shapes")
    listed = shapes if isinstance(shapes, list) else []
    return _Page(
        name,
        path,
        size,
        [
            _labelme_shape(one, f"shape {number} of {shown(file)}")
            for number, one in enumerate(listed)
        ],
    )


def _labelme_shape(record: Any, where: str) -> _Shape:
    fields = record if isinstance(record, dict) else {}
    label = fields.get("label")
    label = None if label is None else str(label)
    group = None if fields.get("group_id") is None else (label, str(fields["group_id"]))
    points = [(float(x), float(y)) for x, y in _points(fields.get("points"))]
    kind = fields.get("shape_type") or "polygon"
    if kind == "mask" and len(points) == 2 and isinstance(fields.get("mask"), str):
        (left, top), _ = points
        return _Shape(where, label, group, [], (fields["mask"], round(left), round(top)))
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    elif kind == "circle" and len(points) == 2:
        radius = math.dist(points[0], points[1])
        points = _ellipse(*points[0], radius, radius)
    elif kind not in ("polygon", "rectangle", "rotation"):
        points = []
    return _Shape(where, label, group, [[side for point in points for side in point]])


def _via_shape(region: Any, where: str) -> _Shape:
    fields = region if isinstance(region, dict) else {}
    attributes = fields.get("region_attributes")
    label = _via_class(attributes if isinstance(attributes, dict) else {})
    shape = fields.get("shape_attributes")
    shape = shape if isinstance(shape, dict) else {}
    kind = shape.get("name")
    points: list[tuple[float, float]] = []
    try:
        if kind in ("polygon", "polyline"):
            pairs = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
            points = [(float(x), float(y)) for x, y in pairs]
        elif kind == "rect":
            x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
            points = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        elif kind == "circle":
            x, y, radius = (float(shape[key]) for key in ("cx", "cy", "r"))
            points = _ellipse(x, y, radius, radius)
        elif kind == "ellipse":
            x, y, across, down = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
            points = _ellipse(x, y, across, down, float(shape.get("theta", 0)))
    except (LookupError, TypeError, ValueError):
        points = []
    return _Shape(where, label, None, [[side for point in points for side in point]])


def _via_class(attributes: Mapping[str, Any]) -> str | None:
    """The class among a region's attributes; of a tick list the first one ticked."""
    keys = sorted(attributes, key=lambda key: key.lower() not in _CLASS_ATTRIBUTES)
    for key in keys:
        value = attributes[key]
        if isinstance(value, dict):
            value = next((name for name, ticked in value.items() if ticked), None)
        if value not in (None, "", "undefined"):
            return str(value)
    return None


def _dataset(
    tool: Tool, path: Path, pages: Sequence[_Page], matches: NameMatches | None
) -> Dataset:
    names = sorted({one.label for page in pages for one in page.shapes if one.label is not None})
    classes = {name: number for number, name in enumerate(names, start=1)}
    by_id = dict(enumerate(pages, start=1))

    def read_objects(image: DatasetImage, report: Report) -> list[CocoAnnotation]:
        size = image.true_size()
        objects: dict[object, CocoAnnotation] = {}
        for number, shape in enumerate(by_id[image.id].shapes):
            try:
                rle = _mask(shape, size, report)
            except OddEntryError as error:
                report(error.fault, str(error))
                continue
            if shape.label is None:
                report(Fault.NO_CLASS, shape.where)
            key: object = number if shape.group is None else shape.group
            if key in objects:
                rle = joined_mask([objects[key].rle, rle])
            own = NO_CLASS if shape.label is None else classes[shape.label]
            objects[key] = true_object(image, rle=rle, category_id=own)
        return list(objects.values())

    return Dataset(
        format=tool,
        path=path,
        split="",
        images=tuple(
            DatasetImage(number, page.path, page.name, page.size) for number, page in by_id.items()
        ),
        categories={number: name for name, number in classes.items()},
        read_objects=read_objects,
        outlines=not any(one.png for page in pages for one in page.shapes),
        matches=matches,
    )


def _mask(shape: _Shape, size: tuple[int, int], report: Report) -> dict[str, Any]:
    """The run lengths of a shape.

    Raises:
        OddEntryError: If it covers nothing.
    """
    if shape.png is not None:
        return encode_masks(_pasted(shape, size)[None])[0]
    record = {"segmentation": shape.polygons, "bbox": [0, 0, 0, 0]}
    rle = read_segmentation(record, size, shape.where, report)
    if rle is None:
        raise OddEntryError(Fault.EMPTY, f"{shape.where}: no outline of three points")
    return rle


def _pasted(shape: _Shape, size: tuple[int, int]) -> NDArray[np.bool_]:
    assert shape.png is not None
    text, left, top = shape.png
    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            part = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise OddEntryError(Fault.BROKEN_MASK, f"{shape.where}: {error}") from error
    mask = np.zeros(size, dtype=np.bool_)
    top, left = max(top, 0), max(left, 0)
    part = part[: max(size[0] - top, 0), : max(size[1] - left, 0)]
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    if not mask.any():
        raise OddEntryError(Fault.EMPTY, f"{shape.where}: a mask of background alone")
    return mask


def _points(value: Any) -> Iterator[tuple[Any, Any]]:
    for one in value if isinstance(value, list) else ():
        if isinstance(one, list) and len(one) == 2 and all(_is_number(side) for side in one):
            yield one[0], one[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _ellipse(
    x: float, y: float, across: float, down: float, turn: float = 0.0
) -> list[tuple[float, float]]:
    angles: Iterable[float] = np.linspace(0, 2 * math.pi, _CORNERS_OF_A_CIRCLE, endpoint=False)
    cosine, sine = math.cos(turn), math.sin(turn)
    corners = ((across * math.cos(angle), down * math.sin(angle)) for angle in angles)
    return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in corners]


def _literal(stem: str) -> str:
    """A stem for `glob`, its brackets taken literally."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in stem)
