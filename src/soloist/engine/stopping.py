"""Stopping when asked to: a signal is noted, and work ends at its next safe place.

SIGTERM is what schedulers, containers and `kill` send first; SIGUSR1 is what SLURM can be
told to send some time before a job's end. Needs no torch.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from soloist.errors import StoppedError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))

_noted: list[str] = []


@contextmanager
def listening() -> Iterator[None]:
    """Notes the signals instead of dying of them; only work that resumes may be done inside.

    Threads other than the main one cannot listen: there nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _noted.clear()


def is_asked() -> bool:
    """Whether this process was asked to stop."""
    return bool(_noted)


def stopped() -> StoppedError:
    """What work raises once everything is saved."""
    by = f" by {_noted[0]}" if _noted else ""
    return StoppedError(f"stopped{by}; the same command again goes on from here")


def stop_if_asked() -> None:
    """Ends work here, where nothing would be lost.

    Raises:
        StoppedError: If this process was asked to stop.
    """
    if is_asked():
        raise stopped()


def ignore() -> None:
    """For processes that help this one: it tells them when to end, also when all are signalled."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _note(number: int, _: FrameType | None) -> None:
    _noted.append(signal.Signals(number).name)
