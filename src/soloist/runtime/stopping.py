"""Stopping when asked to: a signal is noted, and work ends at its next safe place.

SIGTERM is what schedulers, containers and `kill` send first; SIGUSR1 is what SLURM can
send some time before a job ends. Needs no torch.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from soloist.errors import StoppedError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))

RESUMES = "the same command resumes"
STARTS_OVER = "the same command again starts over"

_noted: list[str] = []
# While this process listens: what it asks its user to do.
_remedies: list[str] = []


@contextmanager
def listening(remedy: str = RESUMES) -> Iterator[None]:
    """Notes the signals instead of dying of them.

    Only work that resumes, or leaves nothing behind, may be done inside. Threads other than the
    main one cannot listen: there nothing changes.

    Args:
        remedy: What becomes of work that is stopped, for the message.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _handle(_note)
    _remedies.append(remedy)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _remedies.pop()
        _noted.clear()


@contextmanager
def at_once() -> Iterator[None]:
    """Ends work wherever it is when a signal comes, as Ctrl-C does; inside `listening` only.

    For what waits or computes for long, and would save nothing at its next safe place either.

    Raises:
        StoppedError: If this process is, or was, asked to stop.
    """
    if not _remedies or threading.current_thread() is not threading.main_thread():
        yield
        return
    stop_if_asked()
    _handle(_end)
    try:
        yield
    except _Ended:
        raise stopped() from None
    finally:
        _handle(_note)


class _Ended(BaseException):
    """What ends work at once: like KeyboardInterrupt none that libraries catch and tell about."""


def is_asked() -> bool:
    """Whether this process was asked to stop."""
    return bool(_noted)


def stopped() -> StoppedError:
    """What work raises once everything is saved."""
    by = f" by {_noted[0]}" if _noted else ""
    return StoppedError(f"stopped{by}; {_remedies[-1] if _remedies else RESUMES}")


def stop_if_asked() -> None:
    """Ends work here, where nothing would be lost.

    Raises:
        StoppedError: If this process was asked to stop.
    """
    if is_asked():
        raise stopped()


def ignore() -> None:
    """For processes that help this one: it tells them when to end, also when all are signalled."""
    _handle(signal.SIG_IGN)


def _handle(handler: Any) -> dict[int, Any]:
    """Has the signals handled, and gives who did before."""
    return {number: signal.signal(number, handler) for number in SIGNALS}


def _note(number: int, _: FrameType | None) -> None:
    _noted.append(signal.Signals(number).name)


def _end(number: int, frame: FrameType | None) -> None:
    # A second signal must not disturb the clearing up after the first.
    is_first = not _noted
    _note(number, frame)
    if is_first:
        raise _Ended
