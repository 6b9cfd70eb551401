from __future__ import annotations

import os
import signal
import threading

import pytest

from soloist.errors import StoppedError
from soloist.runtime import stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_ends_work_at_a_safe_place(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stopping.listening():
        stopping.stop_if_asked()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stopping.is_asked()
        with pytest.raises(StoppedError, match=rf"^stopped by {number.name}; the same command"):
            stopping.stop_if_asked()
    assert not stopping.is_asked()
    assert signal.getsignal(number) is before


def test_what_becomes_of_the_work_is_reported() -> None:
    with stopping.listening(stopping.STARTS_OVER):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError, match=r"^stopped by SIGTERM; .* again starts over$"):
            stopping.stop_if_asked()


def test_waiting_ends_at_once_and_clearing_up_does_not() -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleared = []

    def wait() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it went on")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleared.append(True)

    with stopping.listening():
        with pytest.raises(StoppedError, match="SIGTERM"), stopping.at_once():
            wait()
        # Noted again: the place that saves is not to be interrupted.
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.is_asked()
        with pytest.raises(StoppedError), stopping.at_once():
            pytest.fail("it began")
    assert cleared == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_who_does_not_listen_is_not_made_to() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping.at_once():
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def listen() -> None:
        with stopping.listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_helping_process_leaves_its_end_to_the_one_it_helps() -> None:
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    try:
        stopping.ignore()
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stopping.is_asked()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
