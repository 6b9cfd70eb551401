"""What `torchrun` and `accelerate launch` tell a process about itself; needs no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Launch:
    """One process among those that were started together.

    Attributes:
        rank: Its number among all, from 0.
        world_size: How many there are.
        local_rank: Its number among those of its machine, from 0.
        local_world_size: How many this machine has.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def launched() -> Launch:
    """What the environment says; one process alone if a launcher's variables are not all there."""
    values = [os.environ.get(name, "") for name in _NAMES]
    if not all(value.isdigit() for value in values):
        return Launch()
    return Launch(*(int(value) for value in values))
