"""The report's gallery: images with the masks of each stage, and what chooses among them.

Doubt, one of the orders, is the number of masks whose score is near the least score that the slider
stands at: those are the images to look at while choosing it. `gallery.js` counts them.

Without a script the gallery shows the best masks of all stages side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soloist.data.drawing.rendering import mask_colors
from soloist.report.columns import MAX_MASKS, SCORE_UNITS, Column
from soloist.report.content import ReportContent
from soloist.report.gallery_images import GalleryImage, Layer

_COLORS = 21  # Of masks; then they repeat.
_ORDERS = (
    ("file", "Order of the files"),
    ("score-high", "Best score, highest first"),
    ("score-low", "Best score, lowest first"),
    ("count-high", "Masks shown, most first"),
    ("count-low", "Masks shown, fewest first"),
    ("doubt", "Doubt, most first"),
)
_JUDGED_ORDERS = (("worst", "Worst first, by true objects"), ("best", "Best first"))
_AREA_END = 100  # Of the sliders; `gallery.js` knows which share of an image each place is.


def gallery_data(
    content: ReportContent, columns: Sequence[Column], images: Sequence[GalleryImage]
) -> dict[str, Any] | None:
    """What the section shows; None without images.

    Args:
        content: What the report tells.
        columns: Stages, and the ground truth if there is one.
        images: All that are shown.
    """
    if not images:
        return None
    judged = any(column.verdicts for column in columns)
    return {
        "note": _note(content, columns, images),
        "columns": [
            {
                "place": place,
                "title": column.title,
                "scores": column.scores,
                "start": f"{column.scores.start / SCORE_UNITS:g}" if column.scores else "",
            }
            for place, column in enumerate(columns)
        ],
        "views": [(str(place), column.title) for place, column in enumerate(columns)],
        "orders": _ORDERS + (_JUDGED_ORDERS if judged else ()),
        "true_outlines": any(column.is_truth for column in columns) and len(columns) > 1,
        "area_end": _AREA_END,
        "colors": _COLORS,
        "images": [
            {
                "number": image.number,
                "name": image.name,
                "width": image.width,
                "height": image.height,
                "jpeg": image.jpeg,
                "figures": [
                    _figure(image, columns[place] if columns else None, layer)
                    for place, layer in enumerate(image.layers or (None,))
                ],
            }
            for image in images
        ],
    }


def color_rules() -> str:
    """CSS that gives the masks their colours."""
    return "\n".join(
        f".c{place} {{ --color: rgb({red} {green} {blue}); }}"
        for place, (red, green, blue) in enumerate(mask_colors(_COLORS).tolist())
    )


def _note(content: ReportContent, columns: Sequence[Column], images: Sequence[GalleryImage]) -> str:
    shown = f"{len(images)} of {len(content.images)} images"
    if len(images) >= len(content.images):
        shown = "One image" if len(images) == 1 else f"{len(images)} images"
    note = [f"{shown}."]
    if any(not column.is_truth for column in columns):
        note.append(
            f"At first each stage shows its best masks, {content.masks_per_image} an image on "
            "average."
        )
    left = sum(layer.total - len(layer.shapes) for one in images for layer in one.layers if layer)
    if left:
        note.append(
            f"Of each image the page has at most a stage's {MAX_MASKS} best masks; {left:,} more "
            "are in the files."
        )
    if any(column.verdicts for column in columns):
        note.append(
            "An object is found if one of a stage's 100 best masks has an IoU of 0.5 with it, "
            "wherever the sliders stand."
        )
    note.append("Colours tell masks of one image apart and mean nothing else.")
    return " ".join(note)


def _figure(image: GalleryImage, column: Column | None, layer: Layer | None) -> dict[str, Any]:
    title = column.title if column else ""
    summary = "" if column is None else "not in this file" if layer is None else _counted(layer)
    return {
        "title": title,
        "summary": summary,
        "label": ": ".join(filter(None, (image.name, ", ".join(filter(None, (title, summary)))))),
        "shapes": layer.shapes if layer else None,
        "verdict": layer.verdict if layer else None,
        "is_truth": column is not None and column.is_truth,
    }


def _counted(layer: Layer) -> str:
    count = sum(shape.on for shape in layer.shapes)
    held = len(layer.shapes)
    return f"{'' if count == held else f'{count} of '}{held} mask{'' if held == 1 else 's'}"
