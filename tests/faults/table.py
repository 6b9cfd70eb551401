"""The table that `make faults` ends with: its rows, counted by whichever test breaks something."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Fault:
    """A row of the table.

    Attributes:
        injected: How often it was made to happen.
        lost: Runs that the same command could not finish.
        differing: Results that are not those of an unbroken run.
    """

    injected: int = 0
    lost: int = 0
    differing: int = 0


@dataclass
class Inputs:
    """A row of the second table: inputs tried, and those that were not refused or taken cleanly."""

    tried: int = 0
    crashes: int = 0


FAULTS: dict[str, Fault] = {}
INPUTS: dict[str, Inputs] = {}


def fault(name: str) -> Fault:
    """The row of a fault."""
    return FAULTS.setdefault(name, Fault())


def inputs(kind: str) -> Inputs:
    """The row of a kind of input."""
    return INPUTS.setdefault(kind, Inputs())
