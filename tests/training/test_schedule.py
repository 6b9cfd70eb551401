from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from soloist.training.schedule import learning_rate, make_optimizer, set_rate


@pytest.mark.parametrize(
    ("step", "schedule", "expected"),
    [
        pytest.param(0, "constant", 0.25, id="the-first-step-is-not-lost"),
        pytest.param(3, "constant", 1.0, id="end-of-the-warm-up"),
        pytest.param(4, "constant", 1.0, id="constant-after-it"),
        pytest.param(99, "constant", 1.0, id="constant-to-the-end"),
        pytest.param(1, "cosine", 0.5, id="cosine-warms-up-too"),
        pytest.param(4, "cosine", 1.0, id="cosine-starts-at-the-peak"),
        pytest.param(8, "cosine", 0.5, id="cosine-half-way"),
        pytest.param(12, "cosine", 0.0, id="cosine-ends-at-zero"),
        pytest.param(20, "cosine", 0.0, id="and-stays-there"),
    ],
)
def test_learning_rate(step: int, schedule: Literal["constant", "cosine"], expected: float) -> None:
    rate = learning_rate(step, peak=1.0, steps=12, warmup_steps=4, schedule=schedule)
    assert rate == pytest.approx(expected)


@pytest.mark.parametrize("warmup_steps", [0, 5, 12, 30])
def test_the_rate_is_always_in_its_range(warmup_steps: int) -> None:
    rates = [
        learning_rate(step, peak=0.3, steps=12, warmup_steps=warmup_steps, schedule="cosine")
        for step in range(12)
    ]
    assert all(0 < rate <= 0.3 for rate in rates)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.mark.parametrize(("kind", "made"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_only_matrices_decay(
    kind: Literal["sgd", "adamw"], made: type[torch.optim.Optimizer]
) -> None:
    net = network()
    optimizer = make_optimizer(net, kind=kind, rate=0.1, weight_decay=0.5)
    assert type(optimizer) is made
    decayed, kept = optimizer.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 1, 1)]
    assert [tuple(p.shape) for p in kept["params"]] == [(4,), (4,), (4,)]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.5, 0.0)


def test_frozen_weights_are_left_out() -> None:
    net = network()
    net[0].requires_grad_(False)
    optimizer = make_optimizer(net, kind="sgd", rate=0.1, weight_decay=0.5)
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 2]


def test_the_rate_of_all_groups_is_set() -> None:
    optimizer = make_optimizer(network(), kind="sgd", rate=0.1, weight_decay=0.5)
    set_rate(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]


def test_a_step_without_gradient_shrinks_matrices_only() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.named_parameters()}
    optimizer = make_optimizer(net, kind="adamw", rate=0.1, weight_decay=0.5)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(net.named_parameters())
    torch.testing.assert_close(after["0.weight"], 0.95 * before["0.weight"])
    for name in ("0.bias", "1.weight", "1.bias"):
        torch.testing.assert_close(after[name], before[name])
