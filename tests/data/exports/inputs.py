"""Masks that formats find hard."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.rle import encode_masks

Mask = NDArray[np.bool_]
WriteHard = Callable[..., Path]
"""The fixture `write_hard`."""
KilledAt = Callable[[Any, str, int], AbstractContextManager[None]]
"""The fixture `killed_at`."""
SIZE = (60, 90)
PLAIN, EMPTY, COPY = "a.png", "no masks.png", "Straße/größe.png"
CATEGORIES = {3: "cat & dog", 7: "Vögel"}


def blank() -> Mask:
    return np.zeros(SIZE, dtype=np.bool_)


def disk(y: float, x: float, radius: float) -> Mask:
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    inside: Mask = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return inside


def bar(top: int, left: int, height: int, width: int) -> Mask:
    mask = blank()
    mask[top : top + height, left : left + width] = True
    return mask


HARD: dict[str, Mask] = {
    "square": bar(10, 12, 20, 20),
    "disk": disk(30, 45, 18),
    "ring": disk(30, 45, 20) & ~disk(30, 45, 9),
    "two holes": disk(30, 45, 25) & ~disk(30, 35, 6) & ~bar(26, 52, 6, 6),
    "two parts": disk(20, 20, 10) | bar(35, 60, 15, 20),
    "part in a hole": (disk(30, 45, 25) & ~disk(30, 45, 17)) | disk(30, 45, 8),
    "touching corners": bar(10, 10, 10, 10) | bar(20, 20, 10, 10),
    "whole image": ~blank(),
    "at the border": bar(0, 70, 25, 20) | bar(45, 0, 15, 30),
    "frame": ~bar(10, 10, 40, 70),
    "one pixel": bar(5, 7, 1, 1),
    "last pixel": bar(59, 89, 1, 1),
    "a line": bar(30, 5, 1, 70),
}
"""Masks of `SIZE` by what is hard about them."""
USABLE = [name for name, mask in HARD.items() if mask.sum() > 150]


def rle_of(mask: Mask) -> dict[str, Any]:
    return encode_masks(mask[None])[0]


def enlarged(mask: Mask, scale: int) -> Mask:
    """Each pixel as a square of `scale` pixels a side."""
    return np.kron(mask, np.ones((scale, scale), dtype=np.bool_))


def iou(mask: Mask, other: Mask) -> float:
    return float((mask & other).sum() / max((mask | other).sum(), 1))
