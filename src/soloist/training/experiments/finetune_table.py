"""What a segmenter learned without labels is worth: finetuned, beside other starts, as a table."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from soloist.api import finetune
from soloist.errors import ConfigError
from soloist.runtime.device import choose_runtime
from soloist.runtime.distributed import join, on_main
from soloist.runtime.files import write_text
from soloist.training.experiments.figures import in_percent, mean_and_spread
from soloist.training.experiments.finished import results_of
from soloist.training.starts import BACKBONE, SCRATCH

logger = logging.getLogger(__name__)

STEPS: Mapping[str, int] = {"2%": 80, "5%": 100, "10%": 120, "100%": 220}
"""Steps of a training with each share of the labels; few, so that the table takes hours, not days,
on two cores (docs/finetune.md)."""
WARMUP_SHARE = 0.1
"""Share of the steps that warm up."""
METRICS: Mapping[str, tuple[str, str]] = {
    "class mask AP": ("finetuned_by_class", "mask_ap"),
    "class mask AP50": ("finetuned_by_class", "mask_ap50"),
    "class box AP": ("finetuned_by_class", "box_ap"),
    "class-agnostic mask AP": ("finetuned", "mask_ap"),
    "class-agnostic mask AR100": ("finetuned", "mask_ar100"),
}
"""What the table shows: stage and name in results.json."""

Figures = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Cell:
    """One training of the table.

    Attributes:
        start: What the row is called: `scratch`, `backbone` or `run`.
        init: What `finetune` starts from.
        labels: Share of the labels.
        steps: Of the training.
        seed: Of the split and the training.
    """

    start: str
    init: str
    labels: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.start}-{self.labels.replace('%', 'pc')}-seed{self.seed}"


def plan_cells(
    run: str, labels: Sequence[str], steps: Sequence[int], seeds: Sequence[int]
) -> list[Cell]:
    """All trainings, seed by seed, so that an unfinished table has whole seeds.

    Args:
        run: Run folder of the segmenter.
        labels: Shares of the labels, at least one.
        steps: Steps with each share; none takes those of `STEPS`.
        seeds: At least one.

    Raises:
        ConfigError: If steps are missing, or a share or a seed comes twice.
    """
    for what, values in (("labels", labels), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"--{what} must be different ones, got {list(values)}")
    if not steps:
        unknown = [share for share in labels if share not in STEPS]
        if unknown:
            raise ConfigError(
                f"--steps must be given, one for each of --labels: {unknown[0]} has none of its own"
            )
        steps = [STEPS[share] for share in labels]
    if len(steps) != len(labels) or min(steps) < 1:
        raise ConfigError(
            f"--steps must be a positive number for each of the {len(labels)} --labels, got "
            f"{list(steps)}"
        )
    starts = {SCRATCH: SCRATCH, BACKBONE: BACKBONE, "run": run}
    return [
        Cell(start, init, share, count, seed)
        for seed, (share, count), (start, init) in product(
            seeds, zip(labels, steps, strict=True), starts.items()
        )
    ]


def make_table(
    cells: Sequence[Cell],
    data: Path,
    ground_truth: Path,
    out: Path,
    *,
    preset: str = "tiny",
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Path:
    """Does the trainings that are left, and writes the table after each.

    Args:
        cells: The trainings.
        data: COCO file of true masks with categories.
        ground_truth: COCO file of a validation set with the same categories.
        out: Folder; each training is a run folder in it.
        preset: As for `finetune`.
        options: Nested values that win over the preset's and the cells'.
        device: As for `finetune`.
        precision: As for `finetune`.

    Returns:
        The path of table.md; table.csv lies beside it.

    Raises:
        RunError: If a finished training in the folder had other settings.
        SoloistError: For what `finetune` refuses.
    """
    join(choose_runtime(device, precision).device)
    done: list[tuple[Cell, Figures]] = []
    for number, cell in enumerate(cells, start=1):
        settings: dict[str, Any] = {
            "data": str(data),
            "gt": str(ground_truth),
            "init": cell.init,
            "labels": cell.labels,
            "preset": preset,
            "options": _options(cell, options or {}),
        }
        folder = out / cell.name
        make = partial(
            finetune,
            data,
            folder,
            init=cell.init,
            labels=cell.labels,
            preset=preset,
            options=settings["options"],
            ground_truth=ground_truth,
            device=device,
            precision=precision,
        )
        title = f"table: training {number} of {len(cells)}: {cell.name}"
        figures = results_of(folder, settings, title, make)
        done.append((cell, figures))
        on_main(partial(write_text, out / "table.md", markdown(done)))
        on_main(partial(write_text, out / "table.csv", comma_separated(done)))
    return out / "table.md"


def markdown(done: Sequence[tuple[Cell, Figures]]) -> str:
    """A table a metric: a row for each start, a column for each share; in percent.

    Args:
        done: Trainings with their results.json.
    """
    starts = list(dict.fromkeys(cell.start for cell, _ in done))
    shares = list(dict.fromkeys(cell.labels for cell, _ in done))
    lines = ["In percent: mean ± standard deviation over the seeds (number of seeds).", ""]
    for title, keys in METRICS.items():
        lines += [
            f"| {title} | " + " | ".join(shares) + " |",
            "|---" * (len(shares) + 1) + "|",
            *(
                f"| {start} | "
                + " | ".join(_shown(_values(done, start, share, keys)) for share in shares)
                + " |"
                for start in starts
            ),
            "",
        ]
    return "\n".join(lines)


def comma_separated(done: Sequence[tuple[Cell, Figures]]) -> str:
    """The same as CSV, a row for each start and share, as fractions.

    Args:
        done: Trainings with their results.json.
    """
    text = io.StringIO()
    names = [f"{title} {what}" for title in METRICS for what in ("mean", "spread")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["start", "labels", "steps", "seeds", *names])
    rows = list(dict.fromkeys((cell.start, cell.labels, cell.steps) for cell, _ in done))
    for start, share, steps in rows:
        seeds = [str(cell.seed) for cell, _ in done if (cell.start, cell.labels) == (start, share)]
        figures: list[object] = []
        for keys in METRICS.values():
            figures += mean_and_spread(_values(done, start, share, keys)) or (None, None)
        writer.writerow([start, share, steps, " ".join(seeds), *figures])
    return text.getvalue()


def _values(
    done: Sequence[tuple[Cell, Figures]], start: str, share: str, keys: tuple[str, str]
) -> list[float | None]:
    stage, name = keys
    return [
        figures[stage][name]
        for cell, figures in done
        if (cell.start, cell.labels) == (start, share)
    ]


def _shown(values: Sequence[float | None]) -> str:
    return f"{in_percent(values)} ({len(values)})" if mean_and_spread(values) else "–"


def _options(cell: Cell, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell sets, changed by what a user gave; weights are for the start `backbone` alone."""
    warmup = round(WARMUP_SHARE * cell.steps)
    train = {"steps": cell.steps, "warmup_steps": warmup, **given.get("train", {})}
    options = {**given, "seed": cell.seed, "train": train}
    if cell.init != BACKBONE and "backbone" in given:
        options["backbone"] = {**given["backbone"]}
        options["backbone"].pop("weights", None)
    return options
