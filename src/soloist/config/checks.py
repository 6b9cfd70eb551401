"""What values a field may have; a mistake is reported in one line."""

from __future__ import annotations

from typing import Literal

from soloist.errors import ConfigError

Compat = Literal["none", "released"]
"""Whose behaviour a section follows where a defect of the released code can be switched on."""


def check(condition: bool, message: str) -> None:
    """Raises the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def at_least(least: float, section: object, stage: str, *names: str) -> None:
    """Each named field must be at least this."""
    for name in names:
        value = getattr(section, name)
        check(value >= least, f"{stage}.{name} must be at least {least}, got {value}")


def at_most(most: float, section: object, stage: str, *names: str) -> None:
    """Each named field must be at most this, or each entry of it."""
    for name in names:
        value = getattr(section, name)
        largest = max(value) if isinstance(value, tuple) else value
        check(largest <= most, f"{stage}.{name} must be at most {most}, got {value}")


def above_zero(section: object, stage: str, *names: str) -> None:
    """Each named field must be above 0."""
    for name in names:
        value = getattr(section, name)
        check(value > 0, f"{stage}.{name} must be above 0, got {value}")


def share(section: object, stage: str, *names: str) -> None:
    """Each named field must lie in [0, 1]."""
    for name in names:
        value = getattr(section, name)
        check(0 <= value <= 1, f"{stage}.{name} must lie in [0, 1], got {value}")
