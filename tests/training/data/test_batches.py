from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from soloist.errors import StoppedError
from soloist.runtime import stopping
from soloist.training.data import batches as batches_module
from soloist.training.data.batches import batch_indices, step_batches

CPU = torch.device("cpu")


def indices(step: int, *, batch_size: int, length: int, seed: int = 0) -> list[int]:
    return batch_indices(step, batch_size=batch_size, length=length, seed=seed)


@pytest.mark.parametrize(
    ("length", "batch_size", "epochs"),
    [
        pytest.param(12, 4, 3, id="whole-batches"),
        pytest.param(10, 4, 2, id="batches-across-two-passes"),
        pytest.param(3, 8, 8, id="set-smaller-than-a-batch"),
        pytest.param(1, 4, 4, id="one-image"),
        pytest.param(5, 5, 3, id="one-batch-a-pass"),
        pytest.param(7, 1, 2, id="one-image-a-batch"),
    ],
)
def test_each_pass_is_a_permutation(length: int, batch_size: int, epochs: int) -> None:
    steps = length * epochs // batch_size
    assert steps * batch_size == length * epochs
    seen = [
        item
        for step in range(steps)
        for item in indices(step, batch_size=batch_size, length=length)
    ]
    for epoch in range(epochs):
        assert sorted(seen[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_passes_differ_in_order() -> None:
    orders = {tuple(indices(step, batch_size=20, length=20)) for step in range(5)}
    assert len(orders) == 5


def test_seeds_differ_in_order() -> None:
    orders = {tuple(indices(0, batch_size=20, length=20, seed=seed)) for seed in range(5)}
    assert len(orders) == 5


def test_a_step_gives_the_same_items_whenever_it_is_asked() -> None:
    forward = [indices(step, batch_size=4, length=10) for step in range(8)]
    state = torch.get_rng_state()
    backward = [indices(step, batch_size=4, length=10) for step in reversed(range(8))]
    assert forward == backward[::-1]
    # Nor does asking disturb who else draws.
    assert torch.equal(state, torch.get_rng_state())


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
    batches = list(step_batches(squared, first=first, end=end, workers=workers, device=CPU))
    assert [batch.tolist() for batch in batches] == [[step, step**2] for step in expected]


def test_batches_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def note(step: int) -> int:
        made.append(step)
        return step

    batches = step_batches(note, first=0, end=10**9, workers=0, device=CPU)
    assert [next(batches), next(batches)] == [0, 1]
    assert made == [0, 1]


def test_an_exception_in_a_batch_reaches_the_loop() -> None:
    def fail(step: int) -> int:
        raise ValueError(f"step {step}")

    with pytest.raises(ValueError, match="step 3"):
        next(step_batches(fail, first=3, end=5, workers=0, device=CPU))


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda:1", True), ("mps", False)])
def test_batches_for_cuda_are_pinned(
    monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool
) -> None:
    """What the loader is asked for: pinning itself needs a GPU."""
    asked: list[bool] = []

    def loader(*arguments: object, pin_memory: bool, **options: object) -> list[int]:
        asked.append(pin_memory)
        return [7]

    monkeypatch.setattr(batches_module, "DataLoader", loader)
    made = step_batches(lambda step: step, first=0, end=1, workers=0, device=torch.device(device))
    assert list(made) == [7]
    assert asked == [pinned]


def test_little_shared_memory_is_gone_on_with_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches_module, "_shared_memory", lambda: 1e5)

    def make(step: int) -> torch.Tensor:
        return torch.full((100_000,), float(step))

    made = step_batches(make, first=2, end=5, workers=2, device=torch.device("cpu"))
    assert [int(batch[0]) for batch in made] == [2, 3, 4]
    assert "going on with 0" in caplog.text
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
    monkeypatch.setattr(batches_module, "_shared_memory", lambda: free)
    assert batches_module._fitting_workers(int(batch), 4) == workers


@pytest.mark.slow
def test_waiting_for_a_batch_ends_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "_PATIENCE", 0.0)
    monkeypatch.setattr(batches_module, "_shared_memory", lambda: 1e12)

    def never(step: int) -> torch.Tensor:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(600)
        raise AssertionError

    with stopping.listening(), pytest.raises(StoppedError, match="stopped by SIGTERM"):
        next(step_batches(never, first=0, end=2, workers=1, device=torch.device("cpu")))
