"""Markdown tables of rows: one a set, its errors, and a compact one over all sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.photographs.rows import Row
from benchmarks.quality.errors import MASK_KINDS, OBJECT_KINDS

NONE = "–"


@dataclass(frozen=True)
class Published:
    """A figure of others, copied from its source and not measured here.

    Attributes:
        name: The method.
        set: The name of the set whose table shows it.
        ap: Mask AP, a fraction.
        ap50: Mask AP50, a fraction.
        source: Where it is printed.
    """

    name: str
    set: str
    ap: float
    ap50: float
    source: str

    @property
    def title(self) -> str:
        """Name, source and what it was measured on."""
        return f"{self.name} (reported, all of val2017; {self.source})"


PUBLISHED = (
    # Table 1; the abstract has AP50 too.
    Published("FreeSOLO", "coco", 0.040, 0.098, "arXiv 2202.12181"),
    # Zero-shot, the final detector.
    Published("CutLER", "coco", 0.097, 0.189, "arXiv 2301.11320"),
)

_FIGURES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "S": "ap_s",
    "M": "ap_m",
    "L": "ap_l",
    "AR10": "ar10",
    "AR100": "ar100",
    "AR1000": "ar1000",
    "AP50 of 1000": "ap50_1000",
}
_COSTS: dict[str, Callable[[Row], str]] = {
    "masks": lambda row: f"{row['masks'] / row['images']:.1f}",
    "shown": lambda row: f"{row['masks_shown'] / row['images']:.1f}",
    "precision": lambda row: percent(row["figures"]["precision_shown"]),
    "recall": lambda row: percent(row["figures"]["recall_shown"]),
    # Rows of before have none.
    "calibration": lambda row: percent(row["figures"].get("calibration_error")),
    "seconds": lambda row: _number(row["seconds_per_image"], 2),
    "MB": lambda row: (
        NONE
        if row["peak_mb"] is None
        else f"{row['peak_mb'] - row['base_mb']:.0f} + {row['base_mb']:.0f}"
    ),
}
LEGEND = (
    "Masks, classes taken as one, percent. AP to AR100 count up to 100 predictions an image, "
    "AR1000 and AP50 of 1000 up to 1,000. Masks an image: all, and those shown by default, whose "
    "precision and recall (IoU >= 0.5) follow; the expected calibration error of all scores. "
    "Seconds an image. MB: the peak over all images above what was loaded, + that."
)


def set_tables(name: str, rows: Sequence[Row]) -> str:
    """Figures and errors of the entries on a set.

    Args:
        name: Of the set.
        rows: At least one, of this set, in the order of the lines.
    """
    first = rows[0]
    part = "images"
    if first["images"] < first["of"]:
        part = f"of {first['of']} images, drawn evenly"
    columns = [*_FIGURES, *_COSTS]
    lines = [
        f"### {name}: {first['images']} {part}, {first['objects']:,} objects",
        "",
        _line(["entry", *columns]),
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows:
        cells = [percent(row["figures"][key]) for key in _FIGURES.values()]
        lines.append(_line([_title(row), *cells, *(show(row) for show in _COSTS.values())]))
    for one in PUBLISHED:
        if one.set == name:
            blank = [NONE] * (len(columns) - 2)
            lines.append(_line([one.title, percent(one.ap), percent(one.ap50), *blank]))
    kinds = [*OBJECT_KINDS, *(f"mask: {kind}" for kind in MASK_KINDS)]
    lines += [
        "",
        "Share of the objects, and of as many best masks as there are objects, percent:",
        "",
        _line(["entry", *kinds]),
        "|---" * (len(kinds) + 1) + "|",
    ]
    for row in rows:
        cells = [
            *_shares(row["objects_by_kind"], OBJECT_KINDS),
            *_shares(row["masks_by_kind"], MASK_KINDS),
        ]
        lines.append(_line([_title(row), *cells]))
    return "\n".join(lines)


def compact_table(rows: Sequence[Row]) -> str:
    """AP50 and AR100 of each entry, set by set.

    Args:
        rows: Of several sets, in the order of the lines and columns.
    """
    sets = list(dict.fromkeys(row["set"] for row in rows))
    lines = [
        "### All sets: AP50 / AR100",
        "",
        _line(["entry", *sets]),
        "|---" * (len(sets) + 1) + "|",
    ]
    for entry in dict.fromkeys(row["entry"] for row in rows):
        by_set = {row["set"]: row for row in rows if row["entry"] == entry}
        cells = [
            f"{percent(by_set[name]['figures']['ap50'])} / "
            f"{percent(by_set[name]['figures']['ar100'])}"
            if name in by_set
            else NONE
            for name in sets
        ]
        lines.append(_line([f"`{entry}`", *cells]))
    for one in PUBLISHED:
        if one.set in sets:
            cells = [f"{percent(one.ap50)} / {NONE}" if one.set == name else NONE for name in sets]
            lines.append(_line([one.title, *cells]))
    return "\n".join(lines)


def all_tables(rows: Sequence[Row]) -> str:
    """The table of each set, then the compact one, and what was measured with."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    parts = [set_tables(name, [row for row in rows if row["set"] == name]) for name in sets]
    if len(sets) > 1:
        parts.append(compact_table(rows))
    return "\n\n".join([*parts, LEGEND, _origin(rows)])


def percent(value: float | None) -> str:
    """A fraction in percent; a dash where there is none."""
    return NONE if value is None else f"{100 * value:.1f}"


def _origin(rows: Sequence[Row]) -> str:
    """Commits, days and machines of the rows."""
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    dates = sorted({row["date"] for row in rows})
    machines = "; ".join(
        dict.fromkeys(
            f"{row['machine']['cpu']}, {row['machine']['cores']} cores, "
            f"{row['machine']['threads']} threads"
            for row in rows
        )
    )
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"Measured at {commits}, {days}; {machines}."


def _title(row: Row) -> str:
    return f"`{row['entry']}`"


def _shares(counts: dict[str, int], names: Sequence[str]) -> list[str]:
    total = sum(counts.values())
    return [f"{100 * counts.get(name, 0) / total:.0f}" if total else NONE for name in names]


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
