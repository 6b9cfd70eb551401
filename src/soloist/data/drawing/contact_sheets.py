"""Contact sheets: masks cut out of their images, side by side in a grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from soloist.data.coco.rle import decode_mask, mask_box_xywh
from soloist.data.drawing.rendering import draw_masks, jpeg_bytes, resize_masks
from soloist.data.images import read_image
from soloist.errors import DataError
from soloist.runtime.files import atomic_path

logger = logging.getLogger(__name__)

TILE_SIDE = 112
"""Of each cut-out, in pixels."""
SHEET_COLUMNS = 8
"""Cut-outs on a line."""
_AROUND = 0.15
"""Room around a mask, as a share of the longer side of its box."""
_FADE = 0.6
"""How far what lies outside the mask is faded to white."""
_EMPTY = 232
_GAP = 6
_TITLE_HEIGHT, _CAPTION_HEIGHT = 26, 16


@dataclass(frozen=True)
class CutOut:
    """A mask to be shown.

    Attributes:
        path: The image it lies on.
        segmentation: Its checked, compressed run lengths.
        caption: A few characters below it; none takes no room.
    """

    path: Path
    segmentation: dict[str, Any]
    caption: str = ""


def draw_cut_outs(cut_outs: Sequence[CutOut]) -> list[NDArray[np.uint8]]:
    """The cut-outs as square tiles, outlined, what is around them faded.

    Each image is read once. One that cannot be read, or is of another size than the mask, gives
    a grey tile and a warning.

    Returns:
        N arrays of (TILE_SIDE, TILE_SIDE, 3) uint8 RGB.
    """
    tiles = [_grey() for _ in cut_outs]
    by_path: dict[Path, list[int]] = {}
    for index, one in enumerate(cut_outs):
        by_path.setdefault(one.path, []).append(index)
    for path, indices in by_path.items():
        try:
            pixels = read_image(path)
        except DataError as error:
            logger.warning("left out of the contact sheets: %s", error)
            continue
        for index in indices:
            mask = decode_mask(cut_outs[index].segmentation)
            if mask.shape != pixels.shape[:2]:
                logger.warning(
                    "left out of the contact sheets: a mask of %d x %d on %s of %d x %d",
                    *mask.shape,
                    path,
                    *pixels.shape[:2],
                )
                continue
            tiles[index] = _tile(pixels, mask, mask_box_xywh(cut_outs[index].segmentation))
    return tiles


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[CutOut]]], *, columns: int = SHEET_COLUMNS
) -> NDArray[np.uint8]:
    """An image of titled grids of cut-outs, one below the other.

    Args:
        rows: Title and cut-outs of each grid; a grid has as many lines as it needs.
        columns: Cut-outs on a line.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    tiles = iter(draw_cut_outs([one for _, grid in rows for one in grid]))
    step = TILE_SIDE + _GAP
    captioned = any(one.caption for _, grid in rows for one in grid)
    line_height = step + (_CAPTION_HEIGHT if captioned else 0)
    heights = [_TITLE_HEIGHT + -(-len(grid) // columns) * line_height + _GAP for _, grid in rows]
    drawn = Image.new("RGB", (columns * step + _GAP, sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(drawn)
    top = _GAP
    for (title, grid), height in zip(rows, heights, strict=True):
        draw.text((_GAP, top + 2), title, fill="black", font=ImageFont.load_default(15))
        for place, one in enumerate(grid):
            x = _GAP + place % columns * step
            y = top + _TITLE_HEIGHT + place // columns * line_height
            drawn.paste(Image.fromarray(next(tiles)), (x, y))
            if one.caption:
                font = ImageFont.load_default(11)
                draw.text((x, y + TILE_SIDE), one.caption, fill="black", font=font)
        top += height
    return np.asarray(drawn).copy()


def write_sheet(path: Path, sheet: NDArray[np.uint8]) -> Path:
    """Writes a contact sheet as a JPEG, whole or not at all.

    Raises:
        RunError: If it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(jpeg_bytes(sheet, quality=85))
    return path


def _tile(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], box_xywh: Sequence[float]
) -> NDArray[np.uint8]:
    """A square around the mask's box, which may reach beyond the image."""
    left, top, width, height = (int(value) for value in box_xywh)
    longest = max(width, height)
    side = longest + 2 * max(1, round(_AROUND * longest))
    y, x = top + height // 2 - side // 2, left + width // 2 - side // 2
    rows = slice(max(0, y), min(mask.shape[0], y + side))
    columns = slice(max(0, x), min(mask.shape[1], x + side))
    inside = (
        slice(rows.start - y, rows.stop - y),
        slice(columns.start - x, columns.stop - x),
    )
    square = np.full((side, side, 3), 255, dtype=np.uint8)
    square[inside] = pixels[rows, columns]
    square_mask = np.zeros((side, side), dtype=np.bool_)
    square_mask[inside] = mask[rows, columns]
    size = (TILE_SIDE, TILE_SIDE)
    resized = np.asarray(Image.fromarray(square).resize(size, Image.Resampling.LANCZOS)).copy()
    small = resize_masks(square_mask[None], size)
    outside = ~small[0]
    faded = resized[outside] * (1 - _FADE) + 255 * _FADE
    resized[outside] = np.rint(faded).astype(np.uint8)
    return draw_masks(resized, small, alpha=0.0, line_width=2)


def _grey() -> NDArray[np.uint8]:
    return np.full((TILE_SIDE, TILE_SIDE, 3), _EMPTY, dtype=np.uint8)
