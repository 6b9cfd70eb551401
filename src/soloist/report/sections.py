"""The report's sections of figures, charts and tables, as HTML; empty ones are left out.

Everything that comes from outside is escaped where it enters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from soloist import __version__
from soloist.report.charts import bar_chart_svg, histogram_svg, line_chart_svg
from soloist.report.content import ReportContent
from soloist.training.stages import stage_title

_METRICS: tuple[tuple[str, str], ...] = (
    ("ap", "AP"),
    ("ap50", "AP50"),
    ("ap75", "AP75"),
    ("ap_s", "AP S"),
    ("ap_m", "AP M"),
    ("ap_l", "AP L"),
    ("ar1", "AR1"),
    ("ar10", "AR10"),
    ("ar100", "AR100"),
)
_HEADLINE = (("mask_ap50", "AP50"), ("mask_ap", "AP"), ("mask_ar100", "AR100"))
_ERRORS_SHOWN = 200

_CITATIONS = f"""\
@inproceedings{{wang2022freesolo,
  title     = {{FreeSOLO: Learning to Segment Objects without Annotations}},
  author    = {{Wang, Xinlong and Yu, Zhiding and De Mello, Shalini and Kautz, Jan and
               Anandkumar, Anima and Shen, Chunhua and Alvarez, Jose M.}},
  booktitle = {{IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)}},
  year      = {{2022}},
  note      = {{arXiv:2202.12181}}
}}

@software{{soloist,
  title   = {{Soloist: learning to segment objects from images nobody labelled}},
  author  = {{{{The Soloist developers}}}},
  version = {{{__version__}}},
  license = {{Apache-2.0}}
}}"""


def results_section(results: Mapping[str, Mapping[str, float | None]]) -> str:
    """Metrics of each stage, as bars and as tables."""
    if not results:
        return ""
    groups = {
        label: {stage_title(key): _times_100(m.get(name)) for key, m in results.items()}
        for name, label in _HEADLINE
    }
    chart = bar_chart_svg(groups, "Masks, stage by stage", "percent")
    return (
        '<p class="note">Class-agnostic average precision (AP) and recall (AR) as COCO defines '
        "them, in percent; the best of each column is bold. S, M and L are small, medium and "
        "large objects.</p>"
        f'<figure class="plot">{chart}</figure>{_metric_table(results, "mask")}'
        f"<details><summary>The same for boxes</summary>{_metric_table(results, 'box')}</details>"
    )


def _metric_table(results: Mapping[str, Mapping[str, float | None]], kind: str) -> str:
    best = {
        name: max((m.get(f"{kind}_{name}") or 0.0 for m in results.values()), default=0.0)
        for name, _ in _METRICS
    }
    rows = []
    for key, metrics in results.items():
        cells = [f'<th scope="row">{escape(stage_title(key))}</th>']
        for name, _ in _METRICS:
            value = metrics.get(f"{kind}_{name}")
            bold = len(results) > 1 and value is not None and value == best[name] > 0
            text = percent(value)
            cells.append(f"<td>{f'<strong>{text}</strong>' if bold else text}</td>")
        rows.append(cells)
    return _table(["Stage", *(label for _, label in _METRICS)], rows, f"{kind} metrics, percent")


def scores_section(content: ReportContent) -> str:
    """A histogram of the scores of each stage."""
    values = {
        stage.title: [
            annotation.score
            for annotations in stage.file.annotations.values()
            for annotation in annotations
        ]
        for stage in content.stages
    }
    if not any(values.values()):
        return ""
    chart = histogram_svg(values, "Scores of all masks", "score", "masks")
    return f'<figure class="plot">{chart}</figure>'


def training_section(metrics: Sequence[Mapping[str, float]]) -> str:
    """Curves of the losses and of the learning rate."""
    if not metrics:
        return ""
    terms = dict.fromkeys(name for row in metrics for name in row if name.startswith("loss_"))
    charts = []
    if terms:
        charts.append(_curve(metrics, "Sum of the losses", list(terms)))
    charts += [_curve(metrics, _term_title(name), [name]) for name in terms]
    if any("learning_rate" in row for row in metrics):
        charts.append(_curve(metrics, "Learning rate", ["learning_rate"]))
    figures = "".join(f'<figure class="plot">{chart}</figure>' for chart in charts)
    return f'<div class="plots">{figures}</div>' if figures else ""


def _curve(metrics: Sequence[Mapping[str, float]], title: str, names: Sequence[str]) -> str:
    """A chart of the sum of the named values over the steps, one line per round."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in metrics:
        values = [row[name] for name in names if name in row]
        if values:
            line = series.setdefault(_round_title(int(row.get("round", 0))), [])
            line.append((row["step"], sum(values)))
    # Free masks, which are not trained, have the first colour in the other charts.
    return line_chart_svg(series, title, "step", "", first_color=1, width=400, height=250)


def _round_title(number: int) -> str:
    """Round 0 trains the segmenter on free masks, the others on its labels."""
    names = {0: "segmenter", 1: "self_trained"}
    return stage_title(names.get(number, f"self_trained_{number}"))


def _term_title(name: str) -> str:
    return name.removeprefix("loss_").replace("_", " ").capitalize()


def timing_section(timing: Sequence[tuple[str, float]]) -> str:
    """The time each stage took."""
    if not timing:
        return ""
    total = sum(seconds for _, seconds in timing)
    rows = []
    for name, seconds in timing:
        share = 100 * seconds / total if total > 0 else 0.0
        bar = f'<span class="bar" style="width: {share:.1f}%"></span>'
        rows.append(
            [
                f'<th scope="row">{escape(name)}</th>',
                f"<td>{duration(seconds)}</td>",
                f'<td class="share">{bar}<span>{share:.0f} %</span></td>',
            ]
        )
    rows.append(['<th scope="row">In all</th>', f"<td>{duration(total)}</td>", "<td></td>"])
    return _table(["Stage", "Time", "Share"], rows, "time of each stage")


def failures_section(errors: Sequence[Mapping[str, Any]]) -> str:
    """Images that failed, and why."""
    if not errors:
        return ""
    keys = ("image", "stage", "error")
    rows = [
        [f"<td>{escape(str(error.get(key, '')))}</td>" for key in keys]
        for error in errors[:_ERRORS_SHOWN]
    ]
    more = len(errors) - len(rows)
    note = f'<p class="note">{more} more are in errors.jsonl.</p>' if more > 0 else ""
    table = _table(["Image", "Stage", "Reason"], rows, "images that failed", "texts")
    count = f"{len(errors)} image{'' if len(errors) == 1 else 's'}"
    return f"<details><summary>{count}</summary>{table}{note}</details>"


def settings_section(content: ReportContent) -> str:
    """Options and environment."""
    parts = []
    for title, values in (("Options", content.config), ("Environment", content.environment)):
        if values:
            rows = [
                [f'<th scope="row"><code>{escape(name)}</code></th>', f"<td>{escape(text)}</td>"]
                for name, text in _flat(values)
            ]
            table = _table(["Name", "Value"], rows, title.lower(), "texts")
            parts.append(f"<details><summary>{title}</summary>{table}</details>")
    return "".join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested options as (`section.name`, value) in their order."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, str):
            yield name, value
        else:
            yield name, json.dumps(value, default=str)


def citing_section() -> str:
    """What to cite."""
    return (
        "<p>Soloist implements FreeSOLO (Wang et al., CVPR 2022, "
        '<a href="https://arxiv.org/abs/2202.12181" rel="noreferrer">arXiv 2202.12181</a>). '
        "If this helps your research, please cite both.</p>"
        f'<pre tabindex="0"><code>{escape(_CITATIONS)}</code></pre>'
    )


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], label: str, kind: str = "numbers"
) -> str:
    """A table that scrolls sideways where the page is narrow; cells are HTML already."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
        f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _times_100(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def percent(fraction: float | None) -> str:
    """A fraction in percent, with one digit; a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def duration(seconds: float) -> str:
    """A time for readers."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
