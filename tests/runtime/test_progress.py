from __future__ import annotations

import logging

import pytest

from soloist.runtime import progress
from soloist.runtime.progress import duration, track


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(0, "0 s", id="nothing"),
        pytest.param(42.4, "42 s", id="seconds"),
        pytest.param(89.4, "89 s", id="last-in-seconds"),
        pytest.param(90, "2 min", id="first-in-minutes"),
        pytest.param(200, "3 min", id="minutes"),
        pytest.param(59.6 * 60, "1 h 00 min", id="rounds-up-to-an-hour"),
        pytest.param(65 * 60, "1 h 05 min", id="two-digits"),
        pytest.param(30 * 3600, "30 h 00 min", id="more-than-a-day"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_line_now_and_then_tells_how_long_the_rest_takes(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    with track("masks", 100) as tracker:
        for _ in range(10):
            clock.now += 10
            tracker.advance(note="latest")
    assert caplog.messages == [
        "masks 3/100, 16 min left latest",
        "masks 6/100, 16 min left latest",
        "masks 9/100, 15 min left latest",
    ]


def test_the_first_line_comes_early_and_the_next_ones_follow_the_load(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    with track("masks", 100) as tracker:
        for seconds in [1.0] * 5 + [5.0] * 12 + [1.0] * 30:
            clock.now += seconds
            tracker.advance()
    assert [message.split(",")[1] for message in caplog.messages] == [
        " 2 min left ",  # 1 s each so far.
        " 7 min left ",  # 5 s each by now, whatever it was before.
        " 7 min left ",
        " 2 min left ",  # Quicker again: the mean of all, which is slower.
    ]


def test_what_an_earlier_run_did_does_not_count_for_the_pace(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    with track("train", 1000, done=900) as tracker:
        clock.now += 40
        tracker.advance(20)
    assert caplog.messages == ["train 920/1000, 3 min left "]


def test_nothing_done_yet_gives_no_division_by_zero(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    with track("train", 3) as tracker:
        clock.now += 31
        tracker.advance(0, note="loss 1.0")
    assert caplog.messages == ["train 0/3, 2 min left loss 1.0"]


def test_the_total_may_change(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    with track("train", 1000) as tracker:
        tracker.set_total(20)
        clock.now += 60
        tracker.advance(10)
    assert caplog.messages == ["train 10/20, 60 s left "]


def test_a_terminal_shows_a_bar_and_no_lines(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    clock: Clock,
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with track("masks", 3, done=1) as tracker:
        clock.now += 1
        tracker.advance(note="12 masks")
        tracker.set_total(2)
    shown = capsys.readouterr()
    assert "masks" in shown.err
    assert "2/2" in shown.err
    assert "12 masks" in shown.err
    assert shown.out == ""
    assert caplog.messages == []


def test_what_other_processes_did_counts(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    with track("masks", 100) as tracker:
        tracker.advance(20)
        clock.now += 100
        tracker.reach(10)
        assert caplog.messages == []
        tracker.reach(50)
    assert caplog.messages == ["masks 50/100, 2 min left "]
