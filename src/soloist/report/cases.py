"""The report's worst and best images: what was there and what was found, in one drawing each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soloist.data.sources import ImageRef
from soloist.report.columns import Column
from soloist.report.content import ReportContent
from soloist.report.gallery_images import GalleryImage

CASES_SHOWN = 8
"""Worst images, and best ones."""


def judged_images(
    refs: Sequence[ImageRef], column: Column
) -> tuple[list[ImageRef], list[ImageRef]]:
    """Where a stage missed most, and where it missed least.

    Args:
        refs: All images.
        column: The stage.

    Returns:
        worst: Images with a missed object, the worst first.
        best: Images with a found object, the best first; none that is among the worst.
    """
    judged = [(ref, verdict) for ref in refs if (verdict := column.verdict(ref)) is not None]
    judged.sort(key=lambda pair: pair[1].order)
    missed = [ref for ref, verdict in judged if verdict.found < verdict.objects]
    worst = missed[:CASES_SHOWN]
    rest = [ref for ref, verdict in judged if verdict.found and ref not in worst]
    return worst, rest[: -CASES_SHOWN - 1 : -1]


def cases_data(
    content: ReportContent,
    columns: Sequence[Column],
    images: Sequence[GalleryImage],
    worst: Sequence[ImageRef],
    best: Sequence[ImageRef],
) -> dict[str, Any] | None:
    """What the section shows; None without a case that could be read.

    Args:
        content: What the report tells.
        columns: The last two are the stage that is judged and the truth.
        images: All of the page, those of the cases among them.
        worst: As from `judged_images`.
        best: As from `judged_images`.
    """
    by_name = {image.name: image for image in images}
    groups = []
    for title, refs in (("Worst", worst), ("Best", best)):
        shown = [by_name[ref.name] for ref in refs if ref.name in by_name]
        if shown:
            groups.append((title, shown))
    if not groups:
        return None
    return {"stage": columns[-2].title, "table": content.per_image, "groups": groups}
