"""Errors a user can cause; the command line prints their message as one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec


class SoloistError(ValueError):
    """Base class of everything a user can cause: what was wanted, what came, what to do."""


class ConfigError(SoloistError):
    """An unknown preset, field or value in the configuration."""


class DataError(SoloistError):
    """Images or annotation files that are missing, empty or malformed."""


class CheckpointError(SoloistError):
    """A file of weights that is missing, malformed or does not fit the network."""


class RunError(SoloistError):
    """A run folder that exists, belongs to another command or cannot be written."""


class TrainingError(SoloistError):
    """A training that cannot continue, such as a loss that is not finite."""


class StoppedError(SoloistError):
    """Work that ended early because it was asked to; the same command resumes from there."""


def near_names(name: str, known: Iterable[str], *, most: int = 20) -> str:
    """A hint at what the user may have meant: close names, else up to `most` of all.

    With `most` 0 it tells how many there are instead.
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if most == 0:
        return f"{len(known)} are known"
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return f"known: {', '.join(known[:most])}{more}"


def require(package: str, *, extra: str, wanted: str) -> None:
    """Checks that an optional package is installed.

    Args:
        package: What is imported.
        extra: The extra of soloist that brings it.
        wanted: What it is needed for.

    Raises:
        ConfigError: If it is absent.
    """
    if find_spec(package) is None:
        raise ConfigError(f"{wanted} needs {package}; pip install '.[{extra}]' in Soloist's folder")
