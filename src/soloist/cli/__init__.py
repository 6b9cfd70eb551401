"""The `soloist` command: one function a verb, nothing but wiring.

torch is imported inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import io
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

from cyclopts import App, CycloptsError

from soloist import __version__
from soloist.cli import (
    annotating,
    converting,
    exploring,
    introduction,
    labelling,
    learning,
    measuring,
)
from soloist.cli.data_sets import data
from soloist.cli.experiments import bench
from soloist.cli.runs import DONE, SOME_FAILED, USER_ERROR
from soloist.errors import SoloistError, StoppedError, TrainingError
from soloist.runtime.files import disk_trouble
from soloist.runtime.launch import launched

app = App(
    name="soloist",
    version=__version__,
    help="Unsupervised instance segmentation: finds every object, learned from unlabelled images.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for verb in (
    introduction.demo,
    learning.pretrain,
    labelling.masks,
    learning.train,
    learning.fit,
    learning.finetune,
    labelling.predict,
    labelling.merge,
    converting.convert,
    converting.export,
    exploring.cluster,
    exploring.estimate,
    measuring.report,
    annotating.studio,
    introduction.backbones,
    introduction.doctor,
):
    app.command(verb)
app.command(measuring.evaluate, name="eval")
app.command(data)
app.command(bench)


CLOSED_PIPE = 141
"""What a shell says of a command that wrote where nobody reads."""


SPINS = "3000"
"""How often a thread of torch looks for work before it sleeps; the usual 300,000 keep a core from
other programs, which makes both slow (docs/performance.md)."""


def main() -> None:
    """Runs the command line and exits.

    0: done. 1: done, but some images failed or nothing was found. 2: the user's mistake.
    """
    # Before torch is there to read it.
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # An ending interpreter looks for garbage among all objects of torch, which takes a second.
    atexit.register(gc.freeze)
    # Of several processes the main one speaks for all.
    level = logging.INFO if launched().rank == 0 else logging.ERROR
    # A file may be called anything; what cannot be printed is escaped.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Of the libraries it uses only warnings are news.
    logging.basicConfig(level=max(level, logging.WARNING), format="%(message)s", stream=sys.stderr)
    logging.getLogger("soloist").setLevel(level)
    try:
        status = run_command(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read this has had enough, as `head` has.
        _forget(sys.stdout)
        status = CLOSED_PIPE
    try:
        sys.stderr.flush()
    except BrokenPipeError:
        _forget(sys.stderr)
    sys.exit(status)


def _forget(stream: TextIO) -> None:
    """Has the interpreter write nowhere at its exit what nobody reads; it would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run_command(arguments: list[str]) -> int:
    """Runs one command; errors a user can cause end in one line on stderr."""
    try:
        status = app(arguments, exit_on_error=False, print_error=False)
    except StoppedError as stopped:
        _tell(str(stopped))
        return DONE
    except OSError as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        _tell(trouble)
        return USER_ERROR
    except (CycloptsError, SoloistError) as error:
        _tell(" ".join(str(error).split()))
        return SOME_FAILED if isinstance(error, TrainingError) else USER_ERROR
    except KeyboardInterrupt:
        _tell("stopped; the same command resumes")
        return 130
    return status if isinstance(status, int) else DONE


def _tell(message: str) -> None:
    """One line on stderr, once on each machine: its files may be what is wrong."""
    if launched().local_rank == 0:
        with suppress(BrokenPipeError):
            sys.stderr.write(f"soloist: {message}\n")
