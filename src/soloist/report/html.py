"""Writes a report as one HTML file that loads nothing.

The page's frame is `template.html`; its look `style.css`, `gallery.css` and `closer.css`; its
script `gallery.js` and `page.js`. Everything that comes from outside is escaped where it enters.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from soloist import __version__
from soloist.data.sources import ImageRef, spread
from soloist.report.cases import cases_section, judged_images
from soloist.report.columns import Column, make_columns
from soloist.report.content import ReportContent
from soloist.report.gallery import color_rules, gallery_section
from soloist.report.pictures import make_pictures
from soloist.report.sections import (
    citing_section,
    duration,
    failures_section,
    percent,
    results_section,
    scores_section,
    settings_section,
    timing_section,
    training_section,
)
from soloist.runtime.files import write_text
from soloist.training.stages import stage_title

_STYLES = ("style.css", "gallery.css", "closer.css")


class _Section(NamedTuple):
    """A part of the page; one with an empty body is left out."""

    anchor: str
    title: str
    body: str


def write_report(
    path: str | Path, content: ReportContent, *, advance: Callable[[], None] = lambda: None
) -> None:
    """Writes the report, whole or not at all.

    Images that cannot be read are left out of the gallery and listed among the failures.

    Args:
        path: The HTML file; its folder is made if needed.
        content: What it tells.
        advance: Called after each of the `shown_images`.

    Raises:
        RunError: If the file cannot be written.
    """
    write_text(path, render_report(content, advance))


def shown_images(content: ReportContent) -> list[ImageRef]:
    """The images a report shows: at most `max_images` of the whole sequence, and all cases."""
    chosen = spread(content.images, content.max_images)
    worst, best = _cases(content, make_columns(content))
    known = {ref.name for ref in chosen}
    return [*chosen, *(ref for ref in (*worst, *best) if ref.name not in known)]


def render_report(content: ReportContent, advance: Callable[[], None] = lambda: None) -> str:
    """The report's HTML.

    Args:
        content: What it tells.
        advance: Called after each of the `shown_images`.

    Returns:
        A whole document.
    """
    columns = make_columns(content)
    pictures, failures = make_pictures(shown_images(content), columns, advance)
    cases = _cases(content, columns)
    results = {key: metrics for key, metrics in content.results.items() if metrics}
    sections = [
        _Section("results", "Results", results_section(results)),
        _Section("gallery", "Pictures", gallery_section(content, columns, pictures)),
        _Section("cases", "Worst and best", cases_section(content, columns, pictures, *cases)),
        _Section("scores", "Scores", scores_section(content)),
        _Section("training", "Training", training_section(content.metrics)),
        _Section("time", "Time", timing_section(content.timing)),
        _Section("failures", "Images that failed", failures_section([*content.errors, *failures])),
        _Section("settings", "Settings", settings_section(content)),
        _Section("citing", "Citing", citing_section()),
    ]
    present = [section for section in sections if section.body]
    script = _resource("gallery.js") + _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return Template(_resource("template.html")).substitute(
        title=escape(content.title),
        summary=f'<p class="summary">{escape(content.summary)}</p>' if content.summary else "",
        style="\n".join((*(_resource(name) for name in _STYLES), color_rules())),
        script=script,
        # A browser runs this script and no other, wherever it might come from.
        script_hash=f"sha256-{digest}",
        facts=_facts(content, results),
        links="".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in present),
        sections="\n".join(
            f'<section id="{s.anchor}" aria-labelledby="{s.anchor}-title">'
            f'<h2 id="{s.anchor}-title">{escape(s.title)}</h2>{s.body}</section>'
            for s in present
        ),
        version=escape(__version__),
    )


def _cases(
    content: ReportContent, columns: Sequence[Column]
) -> tuple[list[ImageRef], list[ImageRef]]:
    """The worst and the best images of the last stage; none without both stages and truth."""
    if not content.stages or content.ground_truth is None:
        return [], []
    return judged_images(content.images, columns[-2])


def _resource(name: str) -> str:
    return files("soloist.report").joinpath("templates", name).read_text(encoding="utf-8")


def _facts(content: ReportContent, results: Mapping[str, Mapping[str, float | None]]) -> str:
    """The few numbers a reader looks for first."""
    facts: list[tuple[str, str]] = []
    if results:
        key, metrics = list(results.items())[-1]
        facts += [
            (f"{percent(metrics.get(name))} %", f"mask {label}, {stage_title(key)}")
            for name, label in (("mask_ap50", "AP50"), ("mask_ar100", "AR100"))
            if metrics.get(name) is not None
        ]
    if content.stages:
        stage = content.stages[-1]
        facts.append((f"{len(stage.file.images):,}", "images"))
        facts.append((f"{len(stage.file):,}", f"masks, {stage.title}"))
    if content.timing:
        facts.append((duration(sum(seconds for _, seconds in content.timing)), "in all"))
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for v, k in facts)
    return f'<dl class="facts">{items}</dl>' if items else ""
