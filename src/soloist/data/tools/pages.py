"""Images and the shapes drawn on them, as annotation tools keep them."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soloist.data.coco.faults import Fault, OddEntryError, Report
from soloist.data.coco.objects import read_segmentation
from soloist.data.coco.rle import encode_masks
from soloist.runtime.files import one_line, shown

Tool = Literal["labelme", "via", "label-studio"]
Size = tuple[int, int]
Points = Sequence[tuple[float, float]]

UNFINISHED = "unfinished"
"""The flag of labelme, or the attribute of VIA, of an image on which objects are missing."""

_CORNERS_OF_A_CIRCLE = 64
_READ_AHEAD = 2**16  # Bytes within which a file shows what wrote it.


@dataclass(frozen=True)
class Shape:
    """One shape.

    Attributes:
        where: Its place and file, for messages.
        label: Its class; None if it has none.
        group: Shapes of one group are parts of one object; None for an object of one shape.
        outline: Corners as x, y, x, y, ... in pixels; empty for what has no area.
        mask: Gives the mask (H, W) instead, of an image of a given size.
    """

    where: str
    label: str | None
    group: tuple[str | None, str] | None = None
    outline: Sequence[float] = ()
    mask: Callable[[Size], NDArray[np.bool_]] | None = None

    def rle(self, size: Size, report: Report) -> dict[str, Any]:
        """Its run lengths on an image of (height, width).

        Raises:
            OddEntryError: If it covers nothing, or is damaged.
        """
        if self.mask is not None:
            mask = self.mask(size)
            if not mask.any():
                raise OddEntryError(Fault.EMPTY, f"{self.where}: a mask of background alone")
            return encode_masks(mask[None])[0]
        record = {"segmentation": [self.outline], "bbox": [0, 0, 0, 0]}
        rle = read_segmentation(record, size, self.where, report)
        if rle is None:
            raise OddEntryError(Fault.EMPTY, f"{self.where}: no outline of three points")
        return rle


@dataclass(frozen=True)
class Page:
    """An image with its shapes.

    Attributes:
        name: The image's, as the file has it.
        path: Where the image is, or was expected.
        size: (height, width) that the file states; None if it states none.
        shapes: Of any class.
        unfinished: Somebody marked it so: shapes are missing.
    """

    name: str
    path: Path
    size: Size | None
    shapes: Sequence[Shape]
    unfinished: bool = False


def is_marked(flags: Any) -> bool:
    """Whether flags or attributes of an image say that it is unfinished.

    Text counts unless it says no, as do the boxes that are ticked of several.
    """
    value = flags.get(UNFINISHED) if isinstance(flags, dict) else None
    if isinstance(value, dict):
        return any(map(bool, value.values()))
    return str(value).strip().lower() not in ("", "none", "no", "false", "0", "undefined")


def tool_of(file: Path) -> Tool | None:
    """The tool that wrote a JSON file, by words at its beginning."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_READ_AHEAD)
    except OSError:
        return None

    def has(*words: str) -> bool:
        return all(f'"{word}"'.encode() in head for word in words)

    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        is_tasks = has("data") and (has("annotations") or has("predictions"))
        return "label-studio" if is_tasks or has("original_width") else None
    if has("shapes") and (has("imagePath") or has("version")):
        return "labelme"
    return "via" if has("_via_img_metadata") or has("regions", "filename") else None


def files_of(path: Path, tool: Tool) -> list[Path]:
    """The files of a tool in a folder, or the file itself."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and tool_of(path) == tool else []
    # labelme has one for each image.
    pattern = "**/*.json" if tool == "labelme" else "*.json"
    return [file for file in sorted(path.glob(pattern)) if tool_of(file) == tool]


def content_of(file: Path, report: Report) -> Any:
    """What a JSON file holds; None, which is reported, if it is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        report(Fault.BROKEN_ENTRY, f"{shown(file)}: {one_line(error)}")
        return None


def flat(points: Iterable[tuple[float, float]]) -> list[float]:
    """Corners as x, y, x, y, ..."""
    return [float(side) for point in points for side in point]


def box_corners(left: float, top: float, right: float, bottom: float) -> Points:
    """The corners of a box."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def ellipse(x: float, y: float, across: float, down: float, turn: float = 0.0) -> Points:
    """Corners of an ellipse.

    Args:
        x: Of its centre.
        y: Of its centre.
        across: Half of its width.
        down: Half of its height.
        turn: Radians, clockwise.
    """
    angles: Iterable[float] = np.linspace(0, 2 * math.pi, _CORNERS_OF_A_CIRCLE, endpoint=False)
    corners = [(across * math.cos(angle), down * math.sin(angle)) for angle in angles]
    return rotated(corners, x, y, turn)


def rotated(points: Points, x: float, y: float, turn: float) -> Points:
    """Points about the origin turned clockwise by radians, and moved to (x, y)."""
    cosine, sine = math.cos(turn), math.sin(turn)
    return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in points]


def pairs_of(value: Any) -> Iterator[tuple[float, float]]:
    """The points among the entries of a list: pairs of finite numbers."""
    for one in value if isinstance(value, list) else ():
        if isinstance(one, list) and len(one) == 2 and all(map(is_number, one)):
            yield one[0], one[1]


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def pasted(png: str, left: int, top: int, size: Size, where: str) -> NDArray[np.bool_]:
    """A mask that a PNG in base64 holds a part of.

    Args:
        png: Its text.
        left: Of the part.
        top: Of the part.
        size: (height, width) of the image.
        where: For messages.

    Raises:
        OddEntryError: If it is damaged.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(png))) as image:
            part = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise OddEntryError(Fault.BROKEN_MASK, f"{where}: {one_line(error)}") from error
    mask = np.zeros(size, dtype=np.bool_)
    part = part[max(-top, 0) :, max(-left, 0) :]
    top, left = max(top, 0), max(left, 0)
    part = part[: max(size[0] - top, 0), : max(size[1] - left, 0)]
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return mask
