"""What the verbs share: opening and closing their runs, plans, durations, exit codes."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from soloist.config import Config
from soloist.errors import ConfigError
from soloist.runtime.launch import launched

if TYPE_CHECKING:
    from soloist.data.sources import ImageRef
    from soloist.training.run_folder import RunFolder

DONE, SOME_FAILED, USER_ERROR = 0, 1, 2

logger = logging.getLogger("soloist")


def parse_duration(text: str) -> float:
    """Seconds of `90m`, `1h`, `1h30m` or `45s`.

    Raises:
        ConfigError: If the text is no duration.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+)s)?", text.strip())
    if not text.strip() or match is None:
        raise ConfigError(f"--budget must be a time such as 90m, 1h or 1h30m, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


@contextmanager
def open_command(
    command: str,
    sources: list[str],
    out: Path,
    config: Config,
    overwrite: bool,
    *,
    images: Sequence[ImageRef] = (),
    labels_file: Path | None = None,
    **inputs: object,
) -> Iterator[RunFolder]:
    """The run folder of a verb, new or to be resumed; see `open_run`. Signals stop the verb."""
    from soloist.runtime.stopping import listening
    from soloist.training.run_folder import open_run

    named = {"images": " ".join(sources)}
    named |= {name: str(value) for name, value in inputs.items() if value is not None}
    with (
        listening(),
        open_run(
            out,
            command=command,
            inputs=named,
            config=config,
            overwrite=overwrite,
            images=images,
            labels_file=labels_file,
        ) as run,
    ):
        yield run


def tell_plan(command: str, out: Path, plan: Callable[[], list[str]]) -> int:
    """Prints what a command would do, headed by what it does not."""
    lines = [f"dry run of {command}: nothing is written to {out}", *plan()]
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE


def finish(run: RunFolder, warning: str | None = None) -> int:
    """Closes a run that is done and tells how it went.

    Args:
        run: The run.
        warning: What is wrong with its result; the exit code tells of it too.
    """
    from soloist.runtime.distributed import on_main

    run.finish()
    if launched().rank == 0 and (run.path / "report.html").is_file():
        sys.stdout.write(f"report: {run.path / 'report.html'}\n")
    # What failed in an earlier session stands in the main process's file alone.
    status = failures_status(on_main(lambda: run.errors.count), run.errors.path)
    if warning is None:
        return status
    logger.warning("done, but %s", warning)
    return SOME_FAILED


def failures_status(count: int, path: Path | None) -> int:
    """The exit code, and a warning if images failed."""
    if count == 0:
        return DONE
    logger.warning("%d images failed; they are listed in %s", count, path)
    return SOME_FAILED
