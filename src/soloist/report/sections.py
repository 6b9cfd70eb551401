"""What the report's sections of figures, charts and tables show; empty ones are left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from soloist import __version__
from soloist.evaluation.stage_titles import stage_title
from soloist.report.charts import bar_chart_svg, histogram_svg, line_chart_svg
from soloist.report.content import ReportContent

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

CITATIONS = f"""\
@inproceedings{{wang2022freesolo,
  title     = {{FreeSOLO: Learning to Segment Objects without Annotations}},
  author    = {{Wang, Xinlong and Yu, Zhiding and De Mello, Shalini and Kautz, Jan and
               Anandkumar, Anima and Shen, Chunhua and Alvarez, Jose M.}},
  booktitle = {{IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)}},
  year      = {{2022}},
  note      = {{arXiv:2202.12181}}
}}

@software{{soloist,
  title   = {{Soloist: unsupervised instance segmentation}},
  author  = {{{{The Soloist developers}}}},
  version = {{{__version__}}},
  license = {{Apache-2.0}}
}}"""


def results_data(results: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any] | None:
    """Metrics of each stage, as bars and as tables."""
    if not results:
        return None
    groups = {
        label: {stage_title(key): _times_100(m.get(name)) for key, m in results.items()}
        for name, label in _HEADLINE
    }
    return {
        "chart": bar_chart_svg(groups, "Masks, stage by stage", "percent"),
        "heads": ["Stage", *(label for _, label in _METRICS)],
        **{kind: _metric_rows(results, kind) for kind in ("mask", "box")},
    }


def _metric_rows(
    results: Mapping[str, Mapping[str, float | None]], kind: str
) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Each stage with its cells, and whether they are bold."""
    best = {
        name: max((m.get(f"{kind}_{name}") or 0.0 for m in results.values()), default=0.0)
        for name, _ in _METRICS
    }
    rows = []
    for key, metrics in results.items():
        values = [(metrics.get(f"{kind}_{name}"), best[name]) for name, _ in _METRICS]
        cells = [
            (percent(value), len(results) > 1 and value is not None and value == most > 0)
            for value, most in values
        ]
        rows.append((stage_title(key), cells))
    return rows


def scores_data(content: ReportContent) -> Markup | None:
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
        return None
    return histogram_svg(values, "Scores of all masks", "score", "masks")


def training_data(metrics: Sequence[Mapping[str, float]]) -> list[Markup]:
    """Curves of the losses and of the learning rate."""
    terms = dict.fromkeys(name for row in metrics for name in row if name.startswith("loss_"))
    charts = []
    if terms:
        charts.append(_curve(metrics, "Sum of the losses", list(terms)))
    charts += [_curve(metrics, _term_title(name), [name]) for name in terms]
    if any("learning_rate" in row for row in metrics):
        charts.append(_curve(metrics, "Learning rate", ["learning_rate"]))
    return charts


def _curve(metrics: Sequence[Mapping[str, float]], title: str, names: Sequence[str]) -> Markup:
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


def timing_data(timing: Sequence[tuple[str, float]]) -> dict[str, Any] | None:
    """The time each stage took."""
    if not timing:
        return None
    total = sum(seconds for _, seconds in timing)
    rows = [
        (name, duration(seconds), 100 * seconds / total if total > 0 else 0.0)
        for name, seconds in timing
    ]
    return {"rows": rows, "total": duration(total)}


def failures_data(errors: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Images that failed, and why."""
    if not errors:
        return None
    keys = ("image", "stage", "error")
    rows = [[str(error.get(key, "")) for key in keys] for error in errors[:_ERRORS_SHOWN]]
    return {"count": len(errors), "rows": rows}


def settings_data(content: ReportContent) -> list[tuple[str, list[tuple[str, str]]]]:
    """Options and environment."""
    groups = (("Options", content.config), ("Environment", content.environment))
    return [(title, list(_flat(values))) for title, values in groups if values]


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
