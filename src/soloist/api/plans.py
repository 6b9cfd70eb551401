"""What a verb would do, before it does it, and how its options travel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, cast

from soloist.config import Config
from soloist.config.idle import refuse_idle_values
from soloist.config.presets import load_config
from soloist.runtime.device import Runtime, choose_runtime

Sources = str | Path | list[str] | list[Path] | list[str | Path] | tuple[str | Path, ...]
"""Images, folders, glob patterns, lists or COCO files; one or several of these."""

P = ParamSpec("P")
T = TypeVar("T")
Made = TypeVar("Made")
Given = TypeVar("Given", covariant=True)


class Setup(TypedDict, total=False):
    """The configuration of what learns or makes masks, and where it computes.

    Attributes:
        preset: `paper` (= `paper-r50`), `paper-r101`, `small`, `tiny` (the default) or `soloist`.
        file: YAML file whose values win over the preset's.
        options: Nested values that win over both, e.g. `{"free_mask": {"max_masks": 5}}`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto`, `bf16` or `fp32`.
    """

    preset: str
    file: str | Path | None
    options: Mapping[str, Any] | None
    device: str
    precision: str


class ModelSetup(TypedDict, total=False):
    """Which segmenter, and where it computes.

    Attributes:
        model: As for `soloist.load`; None for the bundled one.
        preset: Of a file of weights, as for `soloist.load`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto`, `bf16` or `fp32`.
    """

    model: str | Path | None
    preset: str | None
    device: str
    precision: str


@dataclass(frozen=True)
class Plan(Generic[Made]):
    """Work that is checked and not yet done: options, sources and labels are read.

    Attributes:
        lines: Tells what would be done; networks are built and weights read for it.
        run: Does it.
    """

    lines: Callable[[], list[str]]
    run: Callable[[], Made]


class Planned(Protocol[P, Given, Made]):
    """A function of `soloist`: called it does its work, `plan` only prepares it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Given:
        """Does the work."""

    def plan(self, *args: P.args, **kwargs: P.kwargs) -> Plan[Made]:
        """Checks the arguments and prepares the work; nothing is written."""


def planned(
    give: Callable[[Made], T],
) -> Callable[[Callable[P, Plan[Made]]], Planned[P, T, Made]]:
    """Makes a function out of one that plans.

    Args:
        give: What callers get of what the plan's work made.
    """

    def decorate(function: Callable[P, Plan[Made]]) -> Planned[P, T, Made]:
        @wraps(function)
        def whole(*args: P.args, **kwargs: P.kwargs) -> T:
            return give(function(*args, **kwargs).run())

        whole.plan = function  # type: ignore[attr-defined]  # functions have attributes
        return cast(Planned[P, T, Made], whole)

    return decorate


def as_it_is(made: T) -> T:
    """What the work made."""
    return made


def check_known(given: Mapping[str, object], kind: type[Setup] | type[ModelSetup]) -> None:
    """Refuses keywords that there are not.

    Raises:
        TypeError: If there is one.
    """
    unknown = given.keys() - kind.__annotations__.keys()
    if unknown:
        known = ", ".join(kind.__annotations__)
        raise TypeError(f"wanted some of {known}, got {', '.join(sorted(unknown))}")


def configured(setup: Setup, defaults: Mapping[str, Any] | None = None) -> tuple[Config, Runtime]:
    """The configuration and the device of a setup.

    Args:
        setup: What the caller said.
        defaults: Nested values that win over the preset's and yield to the caller's.

    Raises:
        ConfigError: If a value is wrong, or has no effect beside others.
    """
    check_known(setup, Setup)
    values = with_defaults(setup.get("options"), defaults or {})
    file = setup.get("file")
    config = load_config(setup.get("preset", "tiny"), path_or_none(file), values)
    refuse_idle_values(setup.get("options") or {}, config)
    return config, runtime_of(setup)


def runtime_of(setup: Setup) -> Runtime:
    """The device of a setup."""
    return choose_runtime(setup.get("device", "auto"), setup.get("precision", "auto"))


def with_defaults(values: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, and those of the defaults that they do not name."""
    given = dict(values or {})
    return {**given, **{name: {**own, **given.get(name, {})} for name, own in defaults.items()}}


def named(sources: Sources) -> list[str]:
    """The sources as their user named them."""
    return [str(sources)] if isinstance(sources, str | Path) else [str(one) for one in sources]


def path_or_none(given: str | Path | None) -> Path | None:
    """What may be left out, as a path."""
    return None if given is None else Path(given)
