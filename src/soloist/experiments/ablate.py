"""Makes the tables of the ablations: what is left of their trials, and the files."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from soloist.experiments.ablations import Column, Kind, Row, Table, Trial, trials_of
from soloist.experiments.figures import in_percent, mean_and_spread
from soloist.experiments.trials import Materials, Outcome, do_trial, find_outcome
from soloist.runtime.device import Runtime
from soloist.runtime.distributed import on_main
from soloist.runtime.files import write_text
from soloist.runtime.progress import duration
from soloist.runtime.stopping import stop_if_asked

logger = logging.getLogger(__name__)

TRIALS = "trials"
SOURCES = (
    "The paper's figures are of COCO, in percent; [P]: from the paper itself, [S]: from a digest "
    "of it, likely but not proved."
)

Outcomes = Mapping[Trial, Outcome]


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
    """Time of a row's own trials, the mean of its seeds; what they go on from is not in it."""
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
