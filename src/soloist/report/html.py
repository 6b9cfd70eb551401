"""Writes a report as one HTML file that loads nothing.

The page is `page.html` with a template for each section that is more than charts; Jinja escapes
what it is given. Its look
is `style.css`, `gallery.css` and `closer.css`; its script `gallery.js` and `page.js`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from soloist import __version__
from soloist.data.sources import ImageRef, spread
from soloist.evaluation.stage_titles import stage_title
from soloist.report.cases import cases_data, judged_images
from soloist.report.columns import Column, make_columns
from soloist.report.content import ReportContent
from soloist.report.gallery import color_rules, gallery_data
from soloist.report.gallery_images import make_gallery_images
from soloist.report.sections import (
    CITATIONS,
    duration,
    failures_data,
    percent,
    results_data,
    scores_data,
    settings_data,
    timing_data,
    training_data,
)
from soloist.runtime.files import write_text

_STYLES = ("style.css", "gallery.css", "closer.css")


class _Section(NamedTuple):
    """A part of the page; one without data is left out.

    Its template is `ANCHOR.html`; what is charts alone is in `page.html`.
    """

    anchor: str
    title: str
    data: Any


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
    images, failures = make_gallery_images(shown_images(content), columns, advance)
    cases = _cases(content, columns)
    results = {key: metrics for key, metrics in content.results.items() if metrics}
    sections = [
        _Section("results", "Results", results_data(results)),
        _Section("gallery", "Images", gallery_data(content, columns, images)),
        _Section("cases", "Worst and best", cases_data(content, columns, images, *cases)),
        _Section("scores", "Scores", scores_data(content)),
        _Section("training", "Training", training_data(content.metrics)),
        _Section("time", "Time", timing_data(content.timing)),
        _Section("failures", "Images that failed", failures_data([*content.errors, *failures])),
        _Section("settings", "Settings", settings_data(content)),
        _Section("citing", "Citing", CITATIONS),
    ]
    script = _resource("gallery.js") + _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    styles = (*(_resource(name) for name in _STYLES), color_rules())
    templates = Environment(
        loader=PackageLoader("soloist.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("page.html").render(
        title=content.title,
        summary=content.summary,
        # Our own files.
        style=Markup("\n".join(styles)),
        script=Markup(script),
        # A browser runs this script and no other, wherever it might come from.
        script_hash=f"sha256-{digest}",
        facts=_facts(content, results),
        sections=[section for section in sections if section.data],
        version=__version__,
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


def _facts(
    content: ReportContent, results: Mapping[str, Mapping[str, float | None]]
) -> list[tuple[str, str]]:
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
    return facts
