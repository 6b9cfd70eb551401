from __future__ import annotations

import pytest
import torch

from soloist.training.data.batches import batch_indices


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
