"""Makes the tables of the ablations: what is left of their trials, and the files."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

from soloist.api.labelling import extract_masks
from soloist.api.plans import Plan, Setup, Sources, runtime_of
from soloist.config.presets import load_config
from soloist.data.coco.partial import is_finished
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.evaluation.evaluate import load_ground_truth
from soloist.runtime.device import Runtime
from soloist.runtime.distributed import join, on_main
from soloist.runtime.files import write_text
from soloist.runtime.progress import duration
from soloist.runtime.stopping import stop_if_asked
from soloist.training.experiments.ablations import (
    Column,
    Kind,
    Row,
    Table,
    Trial,
    plan_tables,
    trials_of,
    with_steps,
)
from soloist.training.experiments.figures import in_percent, mean_and_spread
from soloist.training.experiments.trials import (
    Materials,
    Outcome,
    check_backbones,
    do_trial,
    find_outcome,
)
from soloist.training.finetuning import choose_labelled

logger = logging.getLogger(__name__)

TRIALS = "trials"
SOURCES = (
    "The paper's figures are of COCO, in percent; [P]: from the paper itself, [S]: from a digest "
    "of it, likely but not proved."
)

Outcomes = Mapping[Trial, Outcome]


@dataclass(frozen=True)
class Wanted:
    """Which tables, and of what.

    Attributes:
        tables: Names of tables, or `all`.
        masks: COCO file of the images' free masks; made first where None.
        labelled: COCO file of true masks with categories, for the table `semantic`.
        labels: How many of the labelled images it uses: a percentage or a number.
        backbones: More rows of the table `pretrain`.
        steps: Steps of each training; None keeps the preset's.
        seeds: Each training is done once with each.
        budget_seconds: No trial is begun later than this; None does all.
    """

    tables: Sequence[str] = ("all",)
    masks: Path | None = None
    labelled: Path | None = None
    labels: str = "10%"
    backbones: Sequence[str] = ()
    steps: int | None = None
    seeds: Sequence[int] = (0,)
    budget_seconds: float | None = None


def ablate(
    images: Sources,
    out: Path,
    *,
    ground_truth: Path,
    wanted: Wanted = Wanted(),  # immutable
    made_by: str = "",
    **setup: Unpack[Setup],
) -> Plan[list[Path]]:
    """Repeats the paper's ablations on images; see `soloist bench ablate`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: Folder of the tables and their trials.
        ground_truth: COCO file of a validation set; never trained on.
        wanted: Which tables, and of what.
        made_by: The command, for the heading of the tables.
        setup: `preset`, `options`, `device` and `precision`: `soloist.api.plans.Setup`.

    Raises:
        SoloistError: For what a caller can cause.
    """
    preset = setup.get("preset", "tiny")
    config = load_config(preset, None, setup.get("options"))
    if wanted.steps is not None:
        config = with_steps(config, wanted.steps)
    tables = plan_tables(
        wanted.tables,
        config,
        seeds=wanted.seeds,
        backbones=wanted.backbones,
        finetuning=wanted.labelled is not None,
    )
    found = find_images(images)
    load_ground_truth(ground_truth)
    if wanted.masks is not None:
        load_coco(wanted.masks)
    if wanted.labelled is not None:
        choose_labelled(wanted.labelled, wanted.labels, wanted.seeds[0])
    trials = trials_of(tables)
    check_backbones(trials)
    runtime = runtime_of(setup)
    seeds = ", ".join(map(str, wanted.seeds))
    heading = [
        f"`{made_by}`",
        "",
        f"{time.strftime('%Y-%m-%d')}, {runtime}, preset `{preset}`, {len(found):,} images, "
        f"{config.train.steps} steps a training, seeds {seeds}; validation on "
        f"`{ground_truth.name}`.",
    ]

    def run() -> list[Path]:
        join(runtime.device)
        coarse = out / "free_masks.json" if wanted.masks is None else wanted.masks
        trains = any(trial.kind == "training" for trial in trials)
        if wanted.masks is None and trains and not on_main(lambda: is_finished(coarse)):
            extract_masks(images, coarse, **setup)
        return make_tables(
            tables,
            Materials(found, coarse, ground_truth, wanted.labelled, wanted.labels),
            out,
            runtime,
            heading=heading,
            budget_seconds=wanted.budget_seconds,
        )

    return Plan(lambda: [trial.name for trial in trials], run)


def make_tables(
    tables: Sequence[Table],
    materials: Materials,
    out: Path,
    runtime: Runtime,
    *,
    heading: Sequence[str] = (),
    budget_seconds: float | None = None,
) -> list[Path]:
    """Does the trials that are left, and writes the tables after each.

    Args:
        tables: The plans.
        materials: What trials are made from.
        out: Folder of the tables; their trials are in its folder `trials`.
        runtime: Device and precision.
        heading: Lines at the top of each table on how it was made.
        budget_seconds: No trial is begun later than this; None does all.

    Returns:
        The Markdown files, one a table; a CSV file lies beside each.

    Raises:
        RunError: If a finished trial in the folder had other settings.
        SoloistError: For what a trial refuses.
        StoppedError: If the process was asked to stop; finished work is kept.
    """
    trials = trials_of(tables)
    folder = out / TRIALS
    outcomes: dict[Trial, Outcome] = {}
    for trial in trials:
        found = on_main(partial(find_outcome, trial, materials, folder))
        if found is not None:
            outcomes[trial] = found
    left = [trial for trial in trials if trial not in outcomes]
    steps = sum(_steps(trial) for trial in left)
    logger.info(
        "ablate: %d trials, %d of them done; those left train for %d steps together",
        len(trials),
        len(outcomes),
        steps,
    )
    start = time.monotonic()
    for number, trial in enumerate(left):
        stop_if_asked()
        if budget_seconds is not None and time.monotonic() - start >= budget_seconds:
            logger.warning(
                "ablate: the time is used up, %d trials are left; the same command does them",
                len(left) - number,
            )
            break
        logger.info(
            "ablate: trial %d of %d, %s%s",
            len(trials) - len(left) + number + 1,
            len(trials),
            trial.name,
            time_left(left[number:], outcomes),
        )
        outcomes[trial] = do_trial(trial, materials, folder, runtime)
        on_main(partial(_write, tables, outcomes, out, heading))
    on_main(partial(_write, tables, outcomes, out, heading))
    return [out / f"{table.name}.md" for table in tables]


def time_left(left: Sequence[Trial], outcomes: Outcomes) -> str:
    """`; about 1 h 05 min left`, from the trials that are done; nothing before there are some.

    Kinds of trials none of which is done yet are not counted, and that is said.
    """
    paces: dict[Kind, float] = {}
    for kind in {trial.kind for trial in left}:
        known = [
            (outcome.seconds, _size(trial))
            for trial, outcome in outcomes.items()
            if trial.kind == kind and outcome.figures
        ]
        if known:
            paces[kind] = sum(one[0] for one in known) / sum(one[1] for one in known)
    if not paces:
        return ""
    seconds = sum(paces[one.kind] * _size(one) for one in left if one.kind in paces)
    word = "about" if all(one.kind in paces for one in left) else "more than"
    return f"; {word} {duration(seconds)} left"


def markdown(table: Table, outcomes: Outcomes, heading: Sequence[str] = ()) -> str:
    """A table with a row for each of its rows, in percent; trials that are left are dashes.

    Args:
        table: The plan.
        outcomes: Of the trials that are done.
        heading: Lines on how it was made.
    """
    titles = [column.title for column in table.columns]
    lines = [f"## {table.title}", "", *heading, "", SOURCES, ""]
    lines += [
        "| | " + " | ".join(titles) + " | minutes | the paper |",
        "|---" * (len(titles) + 3) + "|",
    ]
    for row in table.rows:
        figures = [in_percent(_values(row, column, outcomes)) for column in table.columns]
        lines.append(
            f"| {row.title} | {' | '.join(figures)} | {_minutes(row, outcomes)} | {row.paper} |"
        )
    notes = {
        f"{row.title}: {outcomes[trial].note} (seed {trial.config.seed})"
        for row in table.rows
        for trial in _trials(row)
        if trial in outcomes and outcomes[trial].note
    }
    lines += ["", *(f"- {note}" for note in sorted(notes))] if notes else []
    return "\n".join(lines) + "\n"


def comma_separated(table: Table, outcomes: Outcomes) -> str:
    """The same as CSV, as fractions, with the number of seeds behind each mean.

    Args:
        table: The plan.
        outcomes: Of the trials that are done.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [
        f"{column.title} {what}" for column in table.columns for what in ("mean", "spread", "seeds")
    ]
    writer.writerow(["row", *names, "seconds", "paper"])
    for row in table.rows:
        cells: list[object] = [row.title]
        for column in table.columns:
            values = _values(row, column, outcomes)
            cells += [*(mean_and_spread(values) or (None, None)), len(values)]
        done = [outcomes[trial].seconds for trial in _trials(row) if trial in outcomes]
        writer.writerow([*cells, round(sum(done), 1), row.paper])
    return text.getvalue()


def _write(tables: Sequence[Table], outcomes: Outcomes, out: Path, heading: Sequence[str]) -> None:
    for table in tables:
        write_text(out / f"{table.name}.md", markdown(table, outcomes, heading))
        write_text(out / f"{table.name}.csv", comma_separated(table, outcomes))


def _values(row: Row, column: Column, outcomes: Outcomes) -> list[float | None]:
    trials = row.trials.get(column.kind, ())
    done = [outcomes[trial].figures for trial in trials if trial in outcomes]
    return [figures[column.metric] for figures in done if figures]


def _trials(row: Row) -> list[Trial]:
    return [trial for trials in row.trials.values() for trial in trials]


def _minutes(row: Row, outcomes: Outcomes) -> str:
    """Time of a row's own trials, the mean of its seeds; what they resume from is not in it."""
    seconds = [
        [outcomes[trial].seconds for trial in trials if trial in outcomes]
        for trials in row.trials.values()
    ]
    if not all(seconds):
        return "–"
    return f"{sum(sum(one) / len(one) for one in seconds) / 60:.1f}"


def _steps(trial: Trial) -> int:
    return trial.config.train.steps if trial.kind in ("training", "finetuning") else 0


def _size(trial: Trial) -> int:
    return _steps(trial) or 1
