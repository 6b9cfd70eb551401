"""A learning curve: how much each further labelled image is worth, as a table and a plot."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soloist.api import finetune
from soloist.data.datasets.labels import Reading
from soloist.errors import ConfigError
from soloist.report.charts import line_chart_svg
from soloist.runtime.device import choose_runtime
from soloist.runtime.distributed import join, on_main
from soloist.runtime.files import write_text
from soloist.training.experiments.figures import in_percent
from soloist.training.experiments.finished import results_of
from soloist.training.finetuning import choose_labelled

logger = logging.getLogger(__name__)

RANDOM = "random"
"""The row of images drawn at random."""
METRIC = "mask_ap50"
"""What is plotted, of all classes taken as one."""


@dataclass(frozen=True)
class Point:
    """One learning of the curve.

    Attributes:
        choice: How its images were chosen: `RANDOM`, or the name of a list.
        count: Labelled images.
        seed: Of the draw and of the learning.
        chosen: The images, the first of a list; empty where they are drawn.
    """

    choice: str
    count: int
    seed: int
    chosen: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.choice}-{self.count}-seed{self.seed}"


def plan_points(
    counts: Sequence[int], seeds: Sequence[int], lists: Sequence[Path] = ()
) -> list[Point]:
    """All learnings, the small ones first.

    Args:
        counts: Numbers of labelled images.
        seeds: Each number is drawn and learned from once with each.
        lists: Text lists of images, best first, whose first ones are learned from beside those
            that are drawn; one that is shorter than a number has no point there.

    Raises:
        ConfigError: If a number or seed comes twice or is none, or a list cannot be read.
    """
    for what, values in (("labels", counts), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"--{what} must be different ones, got {list(values)}")
    if min(counts) < 1:
        raise ConfigError(f"--labels must be at least 1, got {min(counts)}")
    points = [Point(RANDOM, count, seed) for count in sorted(counts) for seed in seeds]
    for file in lists:
        try:
            names = tuple(file.read_text(encoding="utf-8").split("\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--lists: cannot read {file} ({error}); check the path") from error
        names = tuple(name for name in names if name)
        stem = file.stem.replace(".", "-")
        points += [
            Point(stem, count, seed, names[:count])
            for count in sorted(counts)
            if count <= len(names)
            for seed in seeds
        ]
    return sorted(points, key=lambda point: point.count)


def make_curve(
    points: Sequence[Point],
    data: Path,
    ground_truth: Path,
    out: Path,
    **learning: Any,
) -> Path:
    """Does the learnings that are left, and writes table and plot after each.

    Args:
        points: The learnings.
        data: As for `finetune`.
        ground_truth: COCO file of a validation set with the same categories.
        out: Folder; each learning is a run folder in it.
        learning: Further arguments of `finetune`: `init`, `learn`, `device` and so on.

    Returns:
        The path of curve.md; curve.svg lies beside it.

    Raises:
        RunError: If a finished learning in the folder had other settings.
        SoloistError: For what `finetune` refuses.
    """
    where = choose_runtime(learning.get("device", "auto"), learning.get("precision", "auto"))
    join(where.device)
    done: list[tuple[Point, float]] = []
    points = _within(points, choose_labelled(data, "100%", 0, learning.get("how", Reading())).total)
    for number, point in enumerate(points, start=1):
        folder = out / point.name
        settings = {"data": data, "gt": ground_truth, "chosen": point.chosen, **learning}
        labels = str(point.count)
        if point.chosen:
            labels = str(folder.with_name(f"{folder.name}.txt"))
            listed = "".join(f"{name}\n" for name in point.chosen)
            on_main(partial(write_text, Path(labels), listed))
        make = partial(
            finetune,
            data,
            folder,
            labels=labels,
            ground_truth=ground_truth,
            options={"seed": point.seed},
            **learning,
        )
        title = f"curve: {number} of {len(points)}: {point.name}"
        results = results_of(folder, settings, title, make)
        done.append((point, results["finetuned"][METRIC]))
        on_main(partial(write_text, out / "curve.md", markdown(done)))
        on_main(partial(write_text, out / "curve.svg", str(plot(done))))
    return out / "curve.md"


def _within(points: Sequence[Point], labelled: int) -> list[Point]:
    """The points of no more images than are labelled; how many are left out is logged.

    Raises:
        ConfigError: If there is none.
    """
    kept = [point for point in points if point.count <= labelled]
    least = min(point.count for point in points)
    if not kept:
        raise ConfigError(f"--labels must be at most {labelled}, the labelled images, got {least}")
    if len(kept) < len(points):
        logger.warning(
            "%d points of more than the %d labelled images are left out",
            len(points) - len(kept),
            labelled,
        )
    return kept


def markdown(done: Sequence[tuple[Point, float]]) -> str:
    """A row for each way of choosing, a column for each number of images; in percent.

    Args:
        done: Learnings with their AP50, as fractions.
    """
    counts = list(dict.fromkeys(point.count for point, _ in done))
    lines = [
        "AP50 in percent, all classes taken as one: mean ± standard deviation over the seeds.",
        "",
        "| labelled images | " + " | ".join(str(count) for count in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for choice in dict.fromkeys(point.choice for point, _ in done):
        cells = [in_percent(_values(done, choice, count)) for count in counts]
        lines.append(f"| {choice} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(done: Sequence[tuple[Point, float]]) -> str:
    """The means as lines over the number of images, one for each way of choosing."""
    series = {}
    for choice in dict.fromkeys(point.choice for point, _ in done):
        counts = dict.fromkeys(point.count for point, _ in done if point.choice == choice)
        series[choice] = [
            (float(count), 100 * sum(values) / len(values))
            for count in counts
            if (values := _values(done, choice, count))
        ]
    return line_chart_svg(series, "Learning curve", "labelled images", "AP50, percent")


def _values(done: Sequence[tuple[Point, float]], choice: str, count: int) -> list[float]:
    return [value for point, value in done if (point.choice, point.count) == (choice, count)]
