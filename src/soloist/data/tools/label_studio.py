"""Exports of Label Studio, `JSON` and `JSON-MIN`, and tasks with predictions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.faults import Fault, OddEntryError, Report
from soloist.data.tools.pages import (
    Page,
    Shape,
    Size,
    box_corners,
    content_of,
    ellipse,
    flat,
    is_number,
    pairs_of,
    rotated,
)
from soloist.runtime.files import shown

_PART = re.compile(r"(\d+)-\d+")
"""Ids of the parts of one object, in what Soloist writes."""
_CHANNELS = 4  # Red, green, blue and opacity, which is the mask.
_LENGTHS = 4
_GEOMETRY = ("points", "rle", "radiusX", "width")


def label_studio_pages(file: Path, report: Report) -> list[Page]:
    """The pages of an export, or of tasks.

    Of a task the annotation counts that is first among those that were not cancelled. Where no task
    has one, they are predictions, the first of each; where some have, the others wait for somebody,
    and what a model said of them is no label.

    Args:
        file: The file.
        report: Receives what is wrong.
    """
    content = content_of(file, report)
    tasks = content if isinstance(content, list) else []
    labelled = any(map(_annotated, tasks))
    pages = []
    for number, task in enumerate(tasks):
        where = f"task {number} of {shown(file)}"
        data = task.get("data", task) if isinstance(task, dict) else {}
        name = _image_name(data if isinstance(data, dict) else {})
        if name is None:
            report(Fault.BROKEN_ENTRY, f"{where}: no image in its data")
            continue
        if labelled and "data" in task and not _annotated(task):
            report(Fault.NOBODY_ANNOTATED, where)
            continue
        if not labelled and _listed(task, "predictions"):
            report(Fault.PREDICTED, where)
        results = _results(task, where, report)
        shapes = list(_shapes(results, f"{shown(name)} in {shown(file)}", report))
        pages.append(Page(name, file.parent / name, _size(results), shapes))
    return pages


def _image_name(data: Mapping[str, Any]) -> str | None:
    """The image of a task: what a configuration calls it is free, `image` as a rule."""
    for key in ("file_name", "image", "img", *data):
        value = data.get(key)
        if isinstance(value, str) and re.search(r"\.\w{2,5}($|[?#])", value):
            return value
    return None


def _annotated(task: Any) -> bool:
    """Whether somebody submitted an annotation of a task."""
    return any(_listed(task, key) for key in ("annotations", "completions"))


def _listed(task: Any, key: str) -> list[dict[str, Any]]:
    """What a task has under a key, without what was cancelled."""
    several = task.get(key) if isinstance(task, dict) else None
    return [
        one
        for one in (several if isinstance(several, list) else ())
        if isinstance(one, dict) and not one.get("was_cancelled")
    ]


def _results(task: Mapping[str, Any], where: str, report: Report) -> list[Mapping[str, Any]]:
    """The results of the annotation that counts."""
    several: list[dict[str, Any]] = []
    for key in ("annotations", "completions", "predictions"):
        several = _listed(task, key)
        if several:
            break
    if len(several) > 1:
        report(Fault.SEVERAL_ANNOTATIONS, f"{where}: {len(several)} {key}")
    found = several[0].get("result") if several else None
    if not several and "data" not in task:
        # JSON-MIN: lists of regions, whatever they are called.
        lists = [value for value in task.values() if isinstance(value, list)]
        found = [one for ones in lists for one in ones]
        found = [
            {"value": one, **{key: one.get(key) for key in ("original_width", "original_height")}}
            for one in found
            if isinstance(one, dict)
        ]
    return [one for one in found or () if isinstance(one, dict)]


def _size(results: Sequence[Mapping[str, Any]]) -> Size | None:
    for one in results:
        height, width = one.get("original_height"), one.get("original_width")
        if type(height) is int and type(width) is int and min(height, width) > 0:
            return height, width
    return None


def _shapes(results: Sequence[Mapping[str, Any]], where: str, report: Report) -> Iterator[Shape]:
    labels: dict[str, str] = {}
    for number, one in enumerate(results):
        label = _label(one.get("value"))
        if label is not None:
            labels.setdefault(_identity(one, number), label)
    drawn: set[str] = set()
    for number, one in enumerate(results):
        identity, value = _identity(one, number), one.get("value")
        # Region and label may be two results with one id.
        is_region = isinstance(value, dict) and any(key in value for key in _GEOMETRY)
        if not is_region or identity in drawn:
            continue
        drawn.add(identity)
        assert isinstance(value, dict)
        place = f"region {identity} of {where}"
        size = _size([one])
        if size is None or one.get("image_rotation"):
            got = "no original_width" if size is None else f"turned by {one['image_rotation']}"
            report(Fault.BROKEN_ENTRY, f"{place}: {got}")
            continue
        label = labels.get(identity)
        part = _PART.fullmatch(identity)
        yield Shape(
            place,
            label,
            None if part is None else (label, part[1]),
            _outline(value, size),
            partial(_brushed, value["rle"], stated=size, where=place) if "rle" in value else None,
        )


def _identity(result: Mapping[str, Any], number: int) -> str:
    return str(result["id"]) if result.get("id") is not None else f"#{number}"


def _label(value: Any) -> str | None:
    """The first of the labels of a region, under `polygonlabels`, `brushlabels` and the like."""
    for key, names in value.items() if isinstance(value, dict) else ():
        if key.endswith("labels") and isinstance(names, list) and names:
            return str(names[0])
    return None


def _outline(value: Mapping[str, Any], size: Size) -> list[float]:
    """The outline of a region in pixels, from percents; empty for what has none."""
    down, across = size[0] / 100, size[1] / 100
    if "points" in value:
        return flat((x * across, y * down) for x, y in pairs_of(value["points"]))
    sides = [value.get(key, 0) for key in ("x", "y", "rotation")]
    x, y, degrees = (float(side) if is_number(side) else 0.0 for side in sides)
    turn = math.radians(degrees)
    if is_number(value.get("radiusX")) and is_number(value.get("radiusY")):
        radii = value["radiusX"] * across, value["radiusY"] * down
        return flat(ellipse(x * across, y * down, *radii, turn))
    if is_number(value.get("width")) and is_number(value.get("height")):
        corners = box_corners(0, 0, value["width"] * across, value["height"] * down)
        return flat(rotated(corners, x * across, y * down, turn))
    return []


def _brushed(rle: Any, size: Size, *, stated: Size, where: str) -> NDArray[np.bool_]:
    """The mask of a brush.

    Raises:
        OddEntryError: If it is damaged, or of another size than its image.
    """
    if size != stated:
        raise OddEntryError(
            Fault.MASK_SIZE,
            f"{where}: wanted a mask of {size[0]} x {size[1]} (height x width) like its image, got "
            f"{stated[0]} x {stated[1]}",
        )
    try:
        values = decode_brush(bytes(rle))
        opacity = values.reshape(*stated, _CHANNELS)[..., -1]
    except (TypeError, ValueError) as error:
        raise OddEntryError(Fault.BROKEN_MASK, f"{where}: {error}") from error
    return np.asarray(opacity > 0)


def decode_brush(packed: bytes) -> NDArray[np.uint8]:
    """The values that the run lengths of the npm package `@thi.ng/rle-pack` stand for.

    A head of 53 bits tells how many values there are, the bits of one, and four numbers of bits
    that lengths have. Then come runs: a flag, which of the four, the length less one, and the
    value; without the flag as many values as the length says.

    Args:
        packed: The bytes.

    Raises:
        ValueError: If they are damaged.
    """
    bits = "".join(f"{one:08b}" for one in packed)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("run lengths of a brush that end too early")
        return int(bits[place - count : place], 2)

    total, width = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(_LENGTHS)]
    if width != 8:
        raise ValueError(f"wanted brush values of 8 bits, got {width}")
    values = bytearray()
    while len(values) < total:
        is_run = take(1)
        count = take(lengths[take(2)]) + 1
        if is_run:
            values += bytes([take(width)]) * count
        else:
            values += bytes(take(width) for _ in range(count))
    if len(values) != total:
        raise ValueError(f"wanted {total} brush values, got {len(values)}")
    return np.frombuffer(values, dtype=np.uint8)
