"""Random numbers that depend on what is done, never on what was done before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seeds torch's global CPU generator from numbers, and restores it afterwards."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
