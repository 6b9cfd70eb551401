from __future__ import annotations

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from soloist.errors import RunError, StoppedError
from soloist.runtime import stopping
from soloist.runtime import workers as workers_module
from soloist.runtime.workers import done_ahead, helpers, report_lost_workers


def squared(step: int) -> torch.Tensor:
    return torch.tensor([step, step * step])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("first", "end", "expected"),
    [
        pytest.param(0, 4, [0, 1, 2, 3], id="from-the-start"),
        pytest.param(2, 4, [2, 3], id="resumed"),
        pytest.param(4, 4, [], id="nothing-left"),
    ],
)
def test_batches_are_those_of_the_steps_left(
    first: int, end: int, expected: list[int], workers: int
) -> None:
    batches = list(done_ahead(squared, first=first, end=end, workers=workers))
    assert [batch.tolist() for batch in batches] == [[step, step**2] for step in expected]


def test_batches_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def note(step: int) -> int:
        made.append(step)
        return step

    batches = done_ahead(note, first=0, end=10**9, workers=0)
    assert [next(batches), next(batches)] == [0, 1]
    assert made == [0, 1]


def test_an_exception_in_a_batch_reaches_the_loop() -> None:
    def fail(step: int) -> int:
        raise ValueError(f"step {step}")

    with pytest.raises(ValueError, match="step 3"):
        next(done_ahead(fail, first=3, end=5, workers=0))


@pytest.mark.parametrize("pinned", [False, True])
def test_results_for_a_gpu_are_pinned(monkeypatch: pytest.MonkeyPatch, pinned: bool) -> None:
    """What the loader is asked for: pinning itself needs a GPU."""
    asked: list[bool] = []

    def loader(*arguments: object, pin_memory: bool, **options: object) -> list[int]:
        asked.append(pin_memory)
        return [7]

    monkeypatch.setattr(workers_module, "DataLoader", loader)
    made = done_ahead(lambda step: step, first=0, end=1, workers=0, pinned=pinned)
    assert list(made) == [7]
    assert asked == [pinned]


def test_little_shared_memory_is_gone_on_with_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "_shared_memory", lambda: 1e5)

    def make(step: int) -> torch.Tensor:
        return torch.full((100_000,), float(step))

    made = done_ahead(make, first=2, end=5, workers=2)
    assert [int(batch[0]) for batch in made] == [2, 3, 4]
    assert "continuing with 0" in caplog.text
    assert "--shm-size" in caplog.text


@pytest.mark.parametrize(
    ("free", "batch", "workers"),
    [
        pytest.param(64e6, 1e5, 4, id="small-batches"),
        pytest.param(64e6, 2e6, 4, id="just-enough"),
        pytest.param(64e6, 4e6, 2, id="fewer"),
        pytest.param(64e6, 2e7, 0, id="none"),
    ],
)
def test_as_many_workers_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, free: float, batch: float, workers: int
) -> None:
    monkeypatch.setattr(workers_module, "_shared_memory", lambda: free)
    assert workers_module._fitting_workers(int(batch), 4, 4) == workers


@pytest.mark.slow
def test_waiting_for_a_batch_ends_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_PATIENCE", 0.0)
    monkeypatch.setattr(workers_module, "_shared_memory", lambda: 1e12)

    def never(step: int) -> torch.Tensor:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(600)
        raise AssertionError

    with stopping.listening(), pytest.raises(StoppedError, match="stopped by SIGTERM"):
        next(done_ahead(never, first=0, end=2, workers=1))


def test_arrays_come_back_as_they_are() -> None:
    made = done_ahead(np.arange, first=1, end=3, workers=1)
    assert [type(one) for one in made] == [np.ndarray, np.ndarray]


def test_a_lost_worker_is_reported_in_one_line() -> None:
    def die(number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return number

    lost = report_lost_workers("counts", "starts over", RunError)
    with pytest.raises(RunError, match=r"^a process that counts died .* again starts over$"), lost:
        list(done_ahead(die, end=2, workers=1))


def test_no_worker_is_left_when_an_exception_ends_it() -> None:
    """A traceback may keep the generator for long, and they would keep pipes open."""

    def fail(number: int) -> int:
        raise ZeroDivisionError(f"mine {number}")

    made = done_ahead(fail, end=4, workers=2)
    with pytest.raises(ZeroDivisionError) as caught:
        list(made)
    assert caught.tb is not None
    assert multiprocessing.active_children() == []


def test_no_worker_is_left_when_the_rest_is_not_wanted() -> None:
    made = done_ahead(squared, end=40, workers=2)
    next(made)
    assert len(multiprocessing.active_children()) == 2
    made.close()  # type: ignore[attr-defined]  # a generator
    assert multiprocessing.active_children() == []


ORPHANED = """
import os, signal
import numpy as np
from soloist.runtime.workers import done_ahead
made = done_ahead(lambda number: (os.getpid(), np.zeros(10**6)), end=50, workers=2)
print({next(made)[0] for _ in range(2)} | {next(made)[0]}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_workers_end_when_the_process_that_started_them_was_killed() -> None:
    """They wait for room in a pipe meanwhile: what they made is larger."""
    done = subprocess.run(
        [sys.executable, "-c", ORPHANED], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    workers = ast.literal_eval(done.stdout)
    assert len(workers) == 2
    end = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("cores", "items", "gigabytes", "helping"),
    [
        pytest.param(4, 100, 16, 4, id="as-many-as-cores"),
        pytest.param(64, 1000, 64, 8, id="no-more-than-one-can-take-from"),
        pytest.param(1, 100, 16, 0, id="one-core"),
        pytest.param(4, 7, 16, 0, id="few-items"),
        pytest.param(4, 12, 16, 3, id="some-items"),
        pytest.param(4, 100, 4, 2, id="little-memory"),
        pytest.param(4, 100, 3, 0, id="less-memory"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody helps")
def test_as_many_help_as_cores_items_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch, cores: int, items: int, gigabytes: int, helping: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(workers_module, "_memory", lambda: gigabytes * 1e9)
    assert helpers(items, 1e9) == helping
