"""Every field of the configuration as a command-line option, `--stage.field`.

The options are made from the dataclasses in `config/`, so that names, types and help cannot
drift. All are optional: what is not given comes from the preset.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from functools import cache
from itertools import pairwise, repeat
from typing import Annotated, Any, get_type_hints

from cyclopts import Parameter

from soloist.checkpoints.published import backbone_choice
from soloist.config import Config
from soloist.config.presets import PRESETS

CHOICE = "backbone_choice"
CHOICE_HELP = (
    "Network and weights in one: a timm name (with timm's weights), `densecl-r50`, `densecl-r101`, "
    "a file, a run folder or `hf:owner/repo/file`; the options below win over it."
)
READING_FLAGS = "--channels", "--stretch", "--stretch-percentiles", "--max-pixels"


SHOWN_PRESETS = ("paper", "paper-r101", "small", "tiny", "soloist")
"""Presets whose values help names."""

Change = Callable[[Config], Config]


def option_group(
    *sections: str, of_model: bool = False, change: Change = lambda config: config
) -> type[Any]:
    """A dataclass whose fields are the named sections of `Config`, every value optional.

    Args:
        sections: Fields of `Config`, such as `free_mask`; plain fields (`seed`) may be named too.
        of_model: What is not given is the model's own, not a preset's.
        change: What the verb makes of a preset, for the defaults that help shows.
    """
    presets = {} if of_model else {name: change(PRESETS[name]) for name in SHOWN_PRESETS}
    hints = get_type_hints(Config)
    docs = field_docs(Config)
    made: list[tuple[str, Any, Any]] = []
    for name in sections:
        kind = hints[name]
        if is_dataclass(kind):
            flags = READING_FLAGS if name == "reading" else ()
            own = {preset: getattr(config, name) for preset, config in presets.items()}
            options = _all_optional(kind, flags, own)  # type: ignore[arg-type]  # a class
            title = name.replace("_", " ").capitalize()
            if name == "backbone":
                short = Parameter(name="--backbone", help=CHOICE_HELP, group=title)
                made.append((CHOICE, Annotated[str | None, short], field(default=None)))
            group = Parameter(group=title)
            made.append((name, Annotated[options, group], field(default=options())))
        else:
            own = {preset: config for preset, config in presets.items()}
            help_text = Parameter(help=docs[name] + _defaults(name, own))
            made.append((name, Annotated[kind | None, help_text], field(default=None)))
    # cyclopts looks a dataclass's annotations up in its module.
    return make_dataclass("Options", made, frozen=True, namespace={"__module__": __name__})


def given(options: Any) -> dict[str, Any]:
    """The values a user gave, nested by section; what was left out is absent.

    `--backbone` becomes the name and weights it stands for, if these are not given themselves.
    """
    values: dict[str, Any] = {}
    for item in fields(options):
        value = getattr(options, item.name)
        if is_dataclass(value):
            value = given(value) or None
        if value is not None:
            values[item.name] = value
    if CHOICE in values:
        chosen = backbone_choice(values.pop(CHOICE))
        values["backbone"] = {**chosen, **values.get("backbone", {})}
    return values


def field_docs(section: type[Any]) -> Mapping[str, str]:
    """The docstring under each field of a dataclass."""
    return _docs_by_class(section.__module__)[section.__name__]


@cache
def _docs_by_class(module: str) -> Mapping[str, Mapping[str, str]]:
    """Docstrings of all classes' fields: one pass over the file, since `--help` must be quick."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    docs: dict[str, dict[str, str]] = {}
    for section in tree.body:
        if not isinstance(section, ast.ClassDef):
            continue
        docs[section.name] = {
            item.target.id: inspect.cleandoc(str(following.value.value))
            for item, following in pairwise(section.body)
            if isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        }
    return docs


@cache
def all_optional(section: type[Any], flags: tuple[str, ...] = ()) -> type[Any]:
    """A dataclass of the same fields, each optional, whose docstrings are its help.

    Args:
        section: The dataclass.
        flags: What the options are called, in the order of the fields; else they have the names of
            the fields.
    """
    return _all_optional(section, flags, None)


def _all_optional(
    section: type[Any], flags: tuple[str, ...], presets: Mapping[str, Any] | None
) -> type[Any]:
    """`all_optional`; help shows the section's values in presets, or its own where None."""
    hints = get_type_hints(section)
    docs = field_docs(section)
    made = [
        (
            item.name,
            Annotated[
                hints[item.name] | None,
                Parameter(
                    name=flag,
                    help=docs[item.name] + _defaults(item.name, presets, item),
                    negative_iterable="",
                    consume_multiple=flag is not None,
                ),
            ],
            field(default=None),
        )
        for item, flag in zip(fields(section), flags or repeat(None), strict=bool(flags))
    ]
    name = section.__name__.removesuffix("Config")
    return make_dataclass(name, made, frozen=True, namespace={"__module__": __name__})


def _defaults(name: str, presets: Mapping[str, Any] | None, item: Any = None) -> str:
    """What help says about the value of an option that is not given.

    Args:
        name: The field.
        presets: The section in each preset; empty where a model has its own values, None where
            the field has a default of its own.
        item: The field of a dataclass, for that default.
    """
    if presets is None:
        own = item.default if item.default is not MISSING else None
        return "" if own is None else f" [default: {_shown(own)}]"
    if not presets:
        return " [default: the model's]"
    by_value: dict[str, list[str]] = {}
    for preset, section in presets.items():
        by_value.setdefault(_shown(getattr(section, name)), []).append(preset)
    if len(by_value) == 1:
        return f" [default: {next(iter(by_value))}]"
    parts = (f"{value} ({', '.join(names)})" for value, names in by_value.items())
    return f" [default: {'; '.join(parts)}]"


def _shown(value: object) -> str:
    """A value as the command line takes it."""
    if isinstance(value, tuple):
        return " ".join(map(_shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
