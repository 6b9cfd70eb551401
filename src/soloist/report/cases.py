"""The report's worst and best images: what was there and what was found, in one picture each."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from soloist.data.sources import ImageRef
from soloist.report.columns import Column
from soloist.report.content import ImageVerdict, ReportContent
from soloist.report.pictures import Layer, Picture

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


def cases_section(
    content: ReportContent,
    columns: Sequence[Column],
    pictures: Sequence[Picture],
    worst: Sequence[ImageRef],
    best: Sequence[ImageRef],
) -> str:
    """The section's HTML; empty without a case that could be read.

    Args:
        content: What the report tells.
        columns: The last two are the stage that is judged and the truth.
        pictures: All of the page, those of the cases among them.
        worst: As from `judged_images`.
        best: As from `judged_images`.
    """
    by_name = {picture.name: picture for picture in pictures}
    groups = []
    for title, refs in (("Worst", worst), ("Best", best)):
        shown = [by_name[ref.name] for ref in refs if ref.name in by_name]
        if shown:
            cells = "".join(_cell(picture, title) for picture in shown)
            groups.append(f'<h3>{title}</h3><div class="cases">{cells}</div>')
    if not groups:
        return ""
    table = escape(content.per_image)
    link = f' All images are in <a href="{table}">{table}</a>.' if table else ""
    return (
        f'<p class="note">Where {escape(columns[-2].title)} found the smallest and the largest '
        'share of the true objects (IoU of 0.5 or more). <span class="key true">Green</span>: true '
        f'objects; <span class="key found">orange</span>: its best masks.{link}</p>'
        f"{''.join(groups)}"
    )


def _cell(picture: Picture, title: str) -> str:
    found, truth = picture.layers[-2:]
    verdict = found.verdict if found else None
    told = verdict.summary() if isinstance(verdict, ImageVerdict) else ""
    name = escape(picture.name)
    return (
        f'<figure><svg viewBox="0 0 {picture.width} {picture.height}" role="img" '
        f'aria-label="{name}: {title}, {told}"><use href="#pixels-{picture.number}"/>'
        f'<g class="found">{_paths(found)}</g><g class="true">{_paths(truth)}</g></svg>'
        f'<figcaption><a href="#picture-{picture.number}">{name}</a> <span>{told}</span>'
        "</figcaption></figure>"
    )


def _paths(layer: Layer | None) -> str:
    return "".join(f'<path d="{one.path}"/>' for one in layer.shapes if one.on) if layer else ""
