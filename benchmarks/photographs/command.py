"""Scores masks on real photographs with true masks, whoever makes them.

    python benchmarks/photographs/bench.py [ENTRY ...] [--sets NAME_OR_FOLDER ...] [--limit N]

An entry is `bundled`, a model's path, `preset:NAME` (the coarse masks of a preset, whatever their
scores), a baseline (`otsu-watershed`, `felzenszwalb`), `free-mask` or `regions` (the coarse masks
of the presets `tiny` and `soloist`), or `results:PATH` (a COCO file or bare result list of any
tool, for the set it fits). Without one it is the standard table. Sets are the folders of
`../shared/photos/dev`, or any others of images/ and annotations.json.

Each entry and set runs in a process of its own and gives a line of `--out`; lines of the same code
and options are not measured again. Tables of all that was asked for are printed. Those sets are for
selecting; figures of a chosen option on them are "selected on this set".
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from benchmarks.photographs.entries import STANDARD, Entry, find_entry
from benchmarks.photographs.rows import (
    ROOT,
    Row,
    append_row,
    code_version,
    cores,
    find_row,
    machine,
    read_rows,
    versions,
)
from benchmarks.photographs.scores import MAX_DETS, renamed, score
from benchmarks.photographs.sets import find_sets, fitting_set, read_set
from benchmarks.photographs.sheets import draw_sheet
from benchmarks.photographs.tables import all_tables, percent
from cyclopts import App, Parameter

from soloist.data.coco.read import load_coco
from soloist.errors import ConfigError, SoloistError
from soloist.evaluation.coco_backends import choose_backend

RESULTS = ROOT / "benchmarks" / "results" / "photographs.jsonl"

Several = Parameter(consume_multiple=True, negative="")

app = App(help=__doc__)
logger = logging.getLogger(__name__)


@app.default
def main(
    *entries: str,
    sets: Annotated[tuple[str, ...], Several] = (),
    limit: int | None = None,
    out: Path = RESULTS,
    again: bool = False,
    sheets: Path | None = None,
    seed: int = 0,
    keep: Path | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> int:
    """Measures what is not measured yet and prints the tables.

    Args:
        entries: What to score; the standard table if none is named.
        sets: Names of usual sets or folders; all usual ones if none is named.
        limit: Most images of a set, drawn evenly.
        out: File of results, a line for each entry and set.
        again: Measure too what has a line of the same code and options.
        sheets: Folder for a contact sheet of each entry and set.
        seed: Draws the images of the sheets.
        keep: Folder for the masks as COCO files.
        threads: Of each process; all cores if not given.
        backend: What matches: `pycocotools`, `faster-coco-eval`, which gives the same sooner, or
            `auto`: the latter where it is installed.

    Returns:
        0, or 1 if an entry failed, 2 if something was asked for that there is not, 130 if stopped.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if limit is not None and limit < 1:
            raise ConfigError(f"--limit must be 1 or more, got {limit}")
        chosen = [find_entry(name) for name in dict.fromkeys(entries or STANDARD)]
        folders = find_sets(sets)
        work = [(entry, folder) for entry in chosen for folder in _folders_of(entry, folders)]
        options: dict[str, Any] = {"limit": limit, "threads": threads or cores()}
        options |= {"backend": choose_backend(backend), "max_dets": list(MAX_DETS)}
        rows, failed = _measure_all(work, options, out, sheets, seed, keep, again=again)
    except SoloistError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        return 130
    if rows:
        print(all_tables(_by_set(rows, folders)))
    return 1 if failed else 0


def _measure_all(
    work: Sequence[tuple[Entry, Path]],
    options: Mapping[str, Any],
    out: Path,
    sheets: Path | None,
    seed: int,
    keep: Path | None,
    *,
    again: bool,
) -> tuple[list[Row], bool]:
    """The rows of the work, old and new, and whether any is missing."""
    rows: list[Row] = []
    failed = False
    for number, (entry, folder) in enumerate(work, start=1):
        place = f"({number}/{len(work)}) {entry.name} on {folder.name}"
        photos = read_set(folder, options["limit"])
        files = {
            "sheet": sheets and sheets / f"{folder.name}-{_file_name(entry.name)}.jpg",
            "keep": keep and keep / folder.name / f"{_file_name(entry.name)}.json",
        }
        wanted = {
            "entry": entry.name,
            "set": folder.name,
            **code_version(),
            "options": {**options, "digests": [entry.digest, photos.digest]},
        }
        known = None if again else find_row(read_rows(out), wanted)
        if known is not None and all(path is None or path.is_file() for path in files.values()):
            logger.info("%s: measured before", place)
            rows.append(known)
            continue
        task = {"entry": entry.name, "folder": str(folder), "seed": seed, **options}
        task |= {name: path and str(path.absolute()) for name, path in files.items()}
        logger.info(place)
        measured = _in_a_process(task, options["threads"])
        if measured is None:
            logger.error("%s: failed, see above", place)
            failed = True
            continue
        row = {**wanted, **measured}
        append_row(out, row)
        rows.append(row)
        logger.info("%s: AP50 %s", place, percent(row["figures"]["ap50"]))
    return rows, failed


def _in_a_process(task: Mapping[str, Any], threads: int) -> dict[str, Any] | None:
    """What `measure` prints; None if it failed, which it says itself."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.photographs.command", "measure", json.dumps(task)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        if done.returncode < 0:
            logger.error("killed by signal %d: out of memory?", -done.returncode)
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@app.command(show=False)
def measure(task: str) -> int:
    """Scores one entry on one set in this process and prints what it gave.

    Args:
        task: As JSON.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        print(json.dumps(measured_row(json.loads(task))))
    except SoloistError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def measured_row(task: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that is measured.

    Args:
        task: `entry`, `folder`, `limit`, `backend`, `seed`, `threads`, and the paths `sheet` and
            `keep`, which may be None.

    Raises:
        SoloistError: For what a caller can cause.
    """
    entry = find_entry(task["entry"])
    photos = read_set(Path(task["folder"]), task["limit"])
    costs: dict[str, float | None] = dict.fromkeys(("seconds", "base_mb", "peak_mb"))
    if entry.make is None:
        assert entry.results is not None
        whole = load_coco(photos.truth.path)
        found, shown = load_coco(entry.results, images=whole.images), None
    else:
        # Imported here: it takes torch along, which results of others do without.
        from benchmarks.photographs.measuring import run_proposer

        with tempfile.TemporaryDirectory() as temporary:
            path = Path(task["keep"] or Path(temporary) / "masks.json")
            title = f"{entry.name} on {photos.name}"
            found, shown, own = run_proposer(entry.make(), photos, path, title)
            costs = asdict(own)
    found = renamed(found, photos.truth)
    scored = score(found, photos.truth, shown=shown, backend=task["backend"])
    if task["sheet"] is not None:
        draw_sheet(
            Path(task["sheet"]),
            photos,
            found,
            shown=shown,
            title=f"{entry.name} on {photos.name}",
            seed=task["seed"],
        )
    return {
        "images": len(photos.images),
        "of": photos.total,
        "objects": photos.objects,
        **scored,
        "seconds_per_image": costs["seconds"],
        "base_mb": costs["base_mb"],
        "peak_mb": costs["peak_mb"],
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(task["threads"]),
        "versions": versions(),
    }


@app.command
def show(out: Path = RESULTS, *, limit: int | None = None) -> int:
    """Prints the tables of a file: the newest row of each entry and set.

    Args:
        out: File of results.
        limit: Of the rows that are wanted; those of all images if not given.
    """
    try:
        rows = [row for row in read_rows(out) if row["options"]["limit"] == limit]
    except SoloistError as error:
        print(error, file=sys.stderr)
        return 2
    newest = {(row["set"], row["entry"]): row for row in rows}
    if not newest:
        print(f"no such rows in {out}", file=sys.stderr)
        return 2
    print(all_tables(list(newest.values())))
    return 0


def _folders_of(entry: Entry, folders: Sequence[Path]) -> Sequence[Path]:
    """The sets an entry is scored on."""
    return folders if entry.results is None else [fitting_set(entry.results, folders)]


def _by_set(rows: Sequence[Row], folders: Sequence[Path]) -> list[Row]:
    """Rows in the order of the sets, and of the entries within each."""
    order = [folder.name for folder in folders]
    return sorted(rows, key=lambda row: order.index(row["set"]))


def _file_name(entry: str) -> str:
    """An entry's name as that of a file."""
    return re.sub(r"[^\w.-]+", "-", entry).strip("-.")


if __name__ == "__main__":
    sys.exit(app())
