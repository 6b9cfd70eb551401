from __future__ import annotations

import os
import signal
import threading

import pytest

from soloist.engine import stopping
from soloist.errors import StoppedError


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
