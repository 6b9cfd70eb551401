"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from soloist.runtime.distributed import is_main

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
FIRST_UNITS = 5
"""Units after which the first line is written, if the others take longer than a line does."""


class Tracker:
    """Counts finished units of one piece of work and tells how long the rest takes."""

    def __init__(self, title: str, total: int, done: int, bar: Progress | None) -> None:
        self._title = title
        self._total = total
        self._first = done
        self._done = done
        self._start = time.monotonic()
        self._last_line: float | None = None
        # Time and units of the last line: what comes after it is the pace now.
        self._before = (self._start, done)
        self._bar = bar
        self._task = bar.add_task(title, total=total, completed=done, note="") if bar else None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Reports `count` more finished units, with a word about the latest."""
        self._done += count
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count, note=note)
        if self._bar is not None or not is_main():
            return
        now = time.monotonic()
        if self._is_due(now):
            self._last_line = now
            left = duration((self._total - self._done) / self._rate(now))
            self._before = (now, self._done)
            logger.info("%s %d/%d, %s left %s", self._title, self._done, self._total, left, note)

    def _is_due(self, now: float) -> bool:
        if self._last_line is None and self._done - self._first >= FIRST_UNITS:
            left = (self._total - self._done) / self._rate(now)
            if left >= SECONDS_BETWEEN_LINES:
                return True
        return now - (self._last_line or self._start) >= SECONDS_BETWEEN_LINES

    def _rate(self, now: float) -> float:
        """Units a second: the slower of the pace since the last line and that of all.

        Other programs come and go, and the first units are rarely the dearest.
        """
        paces = ((self._start, self._first), self._before)
        return min(max(self._done - done, 1) / max(now - since, 1e-6) for since, done in paces)

    def reach(self, done: int) -> None:
        """Counts what other processes did: at least `done` units are finished."""
        if done > self._done:
            self.advance(done - self._done)

    def set_total(self, total: int) -> None:
        """Changes how many units there are."""
        self._total = total
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=total)


@contextmanager
def track(title: str, total: int, *, done: int = 0) -> Iterator[Tracker]:
    """Tracks `total` units of which `done` were finished by an earlier run."""
    console = Console(stderr=True)
    if not console.is_terminal or not is_main():
        yield Tracker(title, total, done, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield Tracker(title, total, done, bar)


def duration(seconds: float) -> str:
    """A time as people say it: `42 s`, `3 min`, `1 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
