"""Masks as the outlines that the page draws: paths of SVG, short and small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from soloist.data.coco.outlines import Ring, exact_parts, simplified, twice_area
from soloist.data.coco.rle import decode_mask, mask_area, mask_box_xywh
from soloist.data.drawing.rendering import resize_masks

TOLERANCES = (1.0, 2.0, 4.0, 8.0)
"""Pixels of the drawing by which an outline may leave a mask's border; the first that makes it
short enough is taken."""
_TOLERANCE_SHARE = 1 / 64  # Of the height and width of a mask together.
MAX_CHARACTERS = 3000
"""Of a short outline; hardly any mask of an object needs a third of it."""
MAX_RINGS = 40
"""Parts and holes of a mask that are drawn, the largest; the others are specks."""


def svg_path(rle: Mapping[str, Any], size: tuple[int, int]) -> str:
    """The outline of a mask as the `d` of an SVG path, holes by the even-odd rule.

    Args:
        rle: Its checked, compressed run lengths, of any size.
        size: (height, width) of the drawing in pixels; corners are whole numbers of them.

    Returns:
        The path; a mask that vanishes at this size is drawn as its box; empty for a mask
        without a pixel.
    """
    if mask_area(rle) == 0:
        return ""
    mask = resize_masks(decode_mask(rle)[None], size)[0]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return _subpath(_box(rle, size))
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    corner = (columns[0], rows[0])
    rings = [ring + corner for part in exact_parts(inside) for ring in (part.outer, *part.holes)]
    rings.sort(key=lambda ring: -abs(twice_area(ring)))
    path = ""
    for tolerance in TOLERANCES:
        # A pixel is much of a small mask, which has few corners to save.
        near = min(tolerance, sum(inside.shape) * _TOLERANCE_SHARE)
        path = "".join(_subpath(simplified(ring, near)) for ring in rings[:MAX_RINGS])
        if len(path) <= MAX_CHARACTERS:
            break
    return path


def _subpath(ring: Ring) -> str:
    """A closed line, each corner relative to the one before."""
    corners = np.rint(ring).astype(np.int64)
    (x, y), *steps = np.diff(corners, axis=0, prepend=[[0, 0]]).tolist()
    return f"M{x} {y}l{_numbers(value for step in steps for value in step)}z"


def _numbers(values: Any) -> str:
    """Whole numbers in a row; a minus parts two of them as well as a space."""
    text = " ".join(str(value) for value in values)
    return text.replace(" -", "-")


def _box(rle: Mapping[str, Any], size: tuple[int, int]) -> Ring:
    """The corners of a mask's box in a drawing, at least a pixel wide and high."""
    left, top, width, height = mask_box_xywh(rle)
    down, across = size[0] / rle["size"][0], size[1] / rle["size"][1]
    x0, y0 = int(left * across), int(top * down)
    x1 = max(x0 + 1, round((left + width) * across))
    y1 = max(y0 + 1, round((top + height) * down))
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)
