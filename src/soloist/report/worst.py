"""The report's worst images: what was there and what was found, in one picture each."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from soloist.data.images import read_image
from soloist.errors import DataError
from soloist.pictures import draw_outlines, thumbnail
from soloist.report.content import ReportContent
from soloist.report.gallery import THUMBNAIL_SIDE, Column, picture_cell, small_masks

logger = logging.getLogger(__name__)

_TRUE, _FOUND = (0, 190, 130), (255, 145, 0)


def worst_cells(
    content: ReportContent, columns: Sequence[Column]
) -> tuple[list[str], list[dict[str, str]]]:
    """A picture of each of the worst images.

    Args:
        content: What the report tells.
        columns: Those of the gallery; of the last two, one has what was found, one the truth.

    Returns:
        cells: HTML, one string per image that could be read.
        errors: `image`, `stage` and `error` of the others.
    """
    cells: list[str] = []
    errors: list[dict[str, str]] = []
    for worst in content.worst:
        ref = worst.image
        try:
            read = read_image(ref.path, reading=ref.reading, short_side=THUMBNAIL_SIDE)
            pixels = thumbnail(read, THUMBNAIL_SIDE)
        except DataError as error:
            logger.warning("left out of the report: %s", error)
            errors.append({"image": ref.name, "stage": "report", "error": str(error)})
            continue
        found, true = (column.objects(ref) or [] for column in columns[-2:])
        # The truth is drawn last: where both agree, it is what shows.
        best = small_masks(found[: content.masks_per_image], pixels.shape[:2])
        drawn = draw_outlines(pixels, best, _FOUND)
        drawn = draw_outlines(drawn, small_masks(true, pixels.shape[:2]), _TRUE, line_width=1)
        cells.append(picture_cell(drawn, "Worst", ref.name, worst.summary))
    return cells, errors
