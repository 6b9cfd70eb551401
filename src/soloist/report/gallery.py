"""The report's gallery: pictures with the masks of each stage, and what chooses among them.

Doubt, one of the orders, is the number of masks whose score is near the least score that the slider
stands at: those are the pictures to look at while choosing it. `gallery.js` counts them.

Without a script the gallery shows the best masks of all stages side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from soloist.data.drawing.pictures import mask_colors
from soloist.report.columns import MOST_MASKS, SCORE_UNITS, Column
from soloist.report.content import ReportContent
from soloist.report.pictures import Layer, Picture, Shape

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
_AREA_END = 100  # Of the sliders; `gallery.js` knows which share of a picture each place is.


def gallery_section(
    content: ReportContent, columns: Sequence[Column], pictures: Sequence[Picture]
) -> str:
    """The section's HTML; empty without pictures.

    Args:
        content: What the report tells.
        columns: Stages, and the ground truth if there is one.
        pictures: All that are shown.
    """
    if not pictures:
        return ""
    shown = f"{len(pictures)} of {len(content.images)} images"
    if len(pictures) >= len(content.images):
        shown = "One image" if len(pictures) == 1 else f"{len(pictures)} images"
    note = [f"{shown}."]
    if any(not column.is_truth for column in columns):
        note.append(
            f"At first each stage shows its best masks, {content.masks_per_image} an image on "
            "average."
        )
    left = sum(layer.total - len(layer.shapes) for one in pictures for layer in one.layers if layer)
    if left:
        note.append(
            f"Of each image the page has at most a stage's {MOST_MASKS} best masks; {left:,} more "
            "are in the files."
        )
    if any(column.verdicts for column in columns):
        note.append(
            "An object is found if one of a stage's 100 best masks has an IoU of 0.5 with it, "
            "wherever the sliders stand."
        )
    note.append("Colours tell masks of one picture apart and mean nothing else.")
    cells = "".join(_article(picture, columns) for picture in pictures)
    alone = " alone" if len(columns) < 2 else ""
    return (
        f'<p class="note">{escape(" ".join(note))}</p><div class="browser{alone}">'
        f'{_controls(columns)}<div class="gallery" style="--columns: {max(1, len(columns))}">'
        f"{cells}</div></div>{_dialog(columns)}"
    )


def color_rules() -> str:
    """CSS that gives the masks their colours."""
    return "\n".join(
        f".c{place} {{ --color: rgb({red} {green} {blue}); }}"
        for place, (red, green, blue) in enumerate(mask_colors(_COLORS).tolist())
    )


def _article(picture: Picture, columns: Sequence[Column]) -> str:
    name = escape(picture.name)
    pixels = (
        f'<image id="pixels-{picture.number}" width="{picture.width}" height="{picture.height}" '
        f'href="data:image/jpeg;base64,{picture.jpeg}"/>'
    )
    # The pixels stand in the page once; other columns refer to them.
    layers = picture.layers or (None,)
    figures = []
    for place, layer in enumerate(layers):
        column = columns[place] if columns else None
        body = pixels if place == 0 else f'<use href="#pixels-{picture.number}"/>'
        figures.append(_figure(picture, place, column, layer, body))
    return (
        f'<article class="picture" id="picture-{picture.number}" '
        f'aria-labelledby="name-{picture.number}"><h3 id="name-{picture.number}" title="{name}">'
        f'{name}</h3><div class="cells">{"".join(figures)}</div></article>'
    )


def _figure(
    picture: Picture, place: int, column: Column | None, layer: Layer | None, pixels: str
) -> str:
    title = column.title if column else ""
    told = "" if column is None else "not in this file" if layer is None else _counted(layer)
    label = ": ".join(filter(None, (picture.name, ", ".join(filter(None, (title, told))))))
    masks = judged = verdict = ""
    if layer:
        kind = " truth" if column and column.is_truth else ""
        masks = f'<g class="masks{kind}">{"".join(_path(shape) for shape in layer.shapes)}</g>'
    if layer and layer.verdict:
        recall = layer.verdict.found / layer.verdict.objects
        judged = f' data-recall="{recall:.4f}" data-overlap="{layer.verdict.overlap:.4f}"'
        verdict = f" · {layer.verdict.summary()}"
    return (
        f'<figure data-column="{place}"{judged}><svg viewBox="0 0 {picture.width} {picture.height}"'
        f' role="img" aria-label="{escape(label)}">{pixels}{masks}</svg>'
        f'<figcaption><span class="stage">{escape(title)}</span> <span class="count">{told}'
        f'</span><span class="verdict">{verdict}</span></figcaption></figure>'
    )


def _counted(layer: Layer) -> str:
    count = sum(shape.on for shape in layer.shapes)
    held = len(layer.shapes)
    return f"{'' if count == held else f'{count} of '}{held} mask{'' if held == 1 else 's'}"


def _path(shape: Shape) -> str:
    off = "" if shape.on else " off"
    label = f' data-label="{escape(shape.label)}"' if shape.label else ""
    return (
        f'<path class="c{shape.color % _COLORS}{off}" data-score="{shape.score}" '
        f'data-area="{shape.area}"{label} d="{shape.path}"/>'
    )


def _controls(columns: Sequence[Column]) -> str:
    """What `gallery.js` listens to; hidden until it does."""
    orders = _ORDERS + (_JUDGED_ORDERS if any(column.verdicts for column in columns) else ())
    views = ""
    if len(columns) > 1:
        stages = [(str(place), column.title) for place, column in enumerate(columns)]
        options = _options((("all", "All, side by side"), *stages))
        views = f'<label>Show<select id="view">{options}</select></label>'
    sliders = "".join(_score_slider(place, column) for place, column in enumerate(columns))
    truth = any(column.is_truth for column in columns) and len(columns) > 1
    outlines = _checkbox("true-outlines", "True outlines") if truth else ""
    return (
        '<form class="controls" aria-label="Choose masks and pictures" hidden>'
        '<output id="remaining"></output>'
        f'{views}<label>Sort by<select id="order">{_options(orders)}</select></label>'
        f"<fieldset><legend>Masks</legend>{sliders}"
        f"{_area_slider('least-area', 'Least area', 0)}"
        f"{_area_slider('largest-area', 'Largest area', _AREA_END)}</fieldset>"
        f'<div class="boxes">{_checkbox("masks-on", "Masks", checked=True)}{outlines}'
        f"{_checkbox('hide-empty', 'Hide pictures without masks')}</div>"
        '<div class="buttons"><button type="button" id="every-mask">All masks</button>'
        '<button type="reset">Start again</button></div>'
        '<details class="keys"><summary>Keys and words</summary><p><kbd>Tab</kbd> goes to a '
        "picture, the arrow keys to the next ones, <kbd>Enter</kbd> opens it with a list of its "
        "masks. There <kbd>←</kbd> <kbd>→</kbd> turn pages and <kbd>Esc</kbd> closes.</p>"
        "<p>Doubt counts the masks whose score is near the least score chosen, above it or below: "
        "a mask at that score counts 1, one a tenth of the slider away 0.</p></details>"
        "</form>"
    )


def _options(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<option value="{key}">{escape(title)}</option>' for key, title in pairs)


def _score_slider(place: int, column: Column) -> str:
    scores = column.scores
    if scores is None:
        return ""
    return (
        f'<label class="slider" data-column="{place}"><span>Least score, {escape(column.title)}'
        f'</span><span class="value" aria-hidden="true">{scores.start / SCORE_UNITS:g}</span>'
        f'<input type="range" class="least-score" data-column="{place}" min="{scores.low}" '
        f'max="{scores.high}" step="{scores.step}" value="{scores.start}"></label>'
    )


def _area_slider(identity: str, title: str, value: int) -> str:
    return (
        f'<label class="slider"><span>{title}</span><span class="value" aria-hidden="true"></span>'
        f'<input type="range" id="{identity}" min="0" max="{_AREA_END}" step="1" value="{value}">'
        "</label>"
    )


def _checkbox(identity: str, title: str, *, checked: bool = False) -> str:
    state = " checked" if checked else ""
    return f'<label class="box"><input type="checkbox" id="{identity}"{state}>{title}</label>'


def _dialog(columns: Sequence[Column]) -> str:
    """A picture by itself, with a list of its masks; `gallery.js` fills it."""
    stages = [(str(place), column.title) for place, column in enumerate(columns)]
    chooser = ""
    if len(columns) > 1:
        chooser = f'<label>Show<select id="closer-view">{_options(stages)}</select></label>'
    return (
        '<dialog id="closer" aria-labelledby="closer-name"><div class="closer-head">'
        '<h3 id="closer-name"></h3><span id="closer-place" role="status"></span>'
        f'{chooser}<button type="button" id="previous">← Previous</button>'
        '<button type="button" id="next">Next →</button>'
        '<button type="button" id="close" autofocus>Close</button></div>'
        '<div class="closer-body"><div id="closer-picture"></div><div class="closer-side">'
        '<p id="closer-told"></p><ol id="closer-masks" aria-label="Masks, best first"></ol>'
        "</div></div></dialog>"
    )
