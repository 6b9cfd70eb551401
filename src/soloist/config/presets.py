"""Presets, YAML files and command-line values that make up a `Config`."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from soloist.checkpoints.published import backbone_choice
from soloist.config import (
    AugmentConfig,
    BackboneConfig,
    Config,
    ExtractConfig,
    FreeMaskConfig,
    InferenceConfig,
    LossConfig,
    ModelConfig,
    SelfTrainingConfig,
    TrainConfig,
)
from soloist.config.retired import is_retired
from soloist.errors import ConfigError, near_names
from soloist.runtime.files import one_line

T = TypeVar("T")

# Photographs at large: nothing says that the sky is on top; a mask that spans the image in
# either direction is background. Selected on generated scenes (docs/results.md).
GENERAL_FREE_MASK = FreeMaskConfig(
    mask_threshold=0.55,
    score_threshold=0.73,
    max_box_height=0.95,
    min_center_height=0.0,
    largest_part=True,
)

# An object and the ring around it have the same maximum projections: at the paper's 0.1 short
# trainings learn many rings (docs/results.md).
SHORT_AVG_PROJECTION = 1.0

# Weight of the masks' dice beside the focal loss of the classes (SOLO, Wang et al., ECCV 2020).
SOLO_MASK_WEIGHT = 3.0

# Everything the paper and its released configuration set; config/ has the source of each value
# beside it. Both leave the backbone's weights to the user: DenseCL's, as a file.
PAPER_R50 = Config()
PAPER_R101 = replace(PAPER_R50, backbone=replace(PAPER_R50.backbone, name="resnet101"))

SMALL = Config(
    backbone=BackboneConfig(name="resnet18", weights="bundled", feature_stride=16, stages=3),
    extract=ExtractConfig(short_side=576, max_side=1152, margin=32),
    free_mask=GENERAL_FREE_MASK,
    model=ModelConfig(
        fpn_channels=128,
        head_channels=128,
        mask_channels=64,
        kernel_channels=128,
        scale_ranges=((1, 48), (24, 96), (48, 192), (96, 384), (192, 2048)),
    ),
    loss=LossConfig(avg_projection=SHORT_AVG_PROJECTION, pairwise_warmup_steps=500),
    augment=AugmentConfig(short_side=(352, 448), max_side=768, crop_size=384),
    train=TrainConfig(
        steps=12_000,
        optimizer="adamw",
        learning_rate=5e-4,
        weight_decay=0.05,
        warmup_steps=300,
        schedule="cosine",
        clip_norm=5.0,
        ema_decay=0.998,
        freeze_norm=False,
    ),
    inference=InferenceConfig(short_side=400, max_side=800, largest_part=True),
)

TINY = Config(
    backbone=BackboneConfig(name="resnet18", weights="bundled", feature_stride=16, stages=3),
    extract=ExtractConfig(short_side=576, max_side=1152, margin=32),
    free_mask=GENERAL_FREE_MASK,
    model=ModelConfig(
        fpn_channels=64,
        head_channels=64,
        mask_channels=64,
        kernel_channels=64,
        tower_depth=3,
        grids=(32, 28, 20, 14, 8),
        scale_ranges=((1, 36), (20, 64), (40, 112), (80, 192), (128, 2048)),
    ),
    loss=LossConfig(avg_projection=SHORT_AVG_PROJECTION, pairwise_warmup_steps=200),
    augment=AugmentConfig(short_side=(240, 320), max_side=512, crop_size=256),
    train=TrainConfig(
        steps=600,
        batch_size=8,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_steps=100,
        schedule="cosine",
        clip_norm=5.0,
        ema_decay=0.995,
        freeze_norm=False,
        frozen_stages=1,
        checkpoint_every=200,
    ),
    inference=InferenceConfig(short_side=288, max_side=576, largest_part=True),
    self_training=SelfTrainingConfig(start_from="previous"),
)

# What gives the best masks in the time of `tiny`; docs/beyond-the-paper.md has what each is worth.
SOLOIST = replace(
    TINY,
    # Regions need no fine map: they have the outlines of the image.
    extract=replace(TINY.extract, proposals="regions", short_side=384, max_side=768),
    # Outlines of regions are good enough to be imitated, which is quicker to learn.
    loss=replace(
        TINY.loss,
        max_projection=0.0,
        avg_projection=0.0,
        pairwise_affinity=0.0,
        full_mask_dice=SOLO_MASK_WEIGHT,
    ),
    # Short trainings have no time for two views of an image, nor for hard ones.
    augment=replace(
        TINY.augment,
        weak=False,
        copy_paste=5,
        paste_scale=(0.3, 1.5),
        color_jitter=0.3,
        gray=0.0,
        blur=0.0,
        erase=0.0,
    ),
    # Regions have the better outlines, the network knows which of them are objects.
    inference=replace(
        TINY.inference, short_side=384, max_side=768, nms_sigma=4.0, masks="reranked"
    ),
    # The time of a round is worth more in one longer training.
    self_training=replace(TINY.self_training, rounds=0),
)

PRESETS: dict[str, Config] = {
    "paper": PAPER_R50,  # a shorter name of the next one
    "paper-r50": PAPER_R50,
    "paper-r101": PAPER_R101,
    "small": SMALL,
    "tiny": TINY,
    "soloist": SOLOIST,
}


def load_config(
    preset: str,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    change: Callable[[Config], Config] = lambda config: config,
) -> Config:
    """A preset, changed by a YAML file, changed by command-line values.

    In both `backbone` may be one word instead of a group, as for `checkpoints/published.py`.

    Args:
        preset: One of `PRESETS`; `paper` is the same as `paper-r50`.
        file: YAML with any of the fields, nested by stage.
        overrides: Nested values that win over both.
        change: What a command makes of the preset before either.

    Raises:
        ConfigError: If a name is unknown or a value does not fit its field.
    """
    if preset not in PRESETS:
        raise ConfigError(f"no preset named {preset!r}; {near_names(preset, PRESETS)}")
    config = change(PRESETS[preset])
    if file is not None:
        config = override(config, _spelt_out(_read_yaml(file)), where=str(file))
    return override(config, _spelt_out(overrides or {}), where="options")


def user_options(file: Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a user gave in a YAML file and on the command line, which wins, nested by stage.

    Raises:
        ConfigError: If the file cannot be read.
    """
    merged: dict[str, Any] = {}
    for given in ({} if file is None else _spelt_out(_read_yaml(file)), _spelt_out(overrides)):
        for stage, values in given.items():
            both = isinstance(values, Mapping) and isinstance(merged.get(stage), Mapping)
            merged[stage] = {**merged[stage], **values} if both else values
    return merged


def _spelt_out(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values whose `backbone` is a group of options, not one word."""
    chosen = values.get("backbone")
    return {**values, "backbone": backbone_choice(chosen)} if isinstance(chosen, str) else values


def load_config_file(path: Path) -> Config:
    """The configuration of a run folder's config.yaml."""
    return override(Config(), _read_yaml(path), where=str(path))


def override(config: T, values: Mapping[str, Any], *, where: str, prefix: str = "") -> T:
    """A copy of a configuration with some fields changed, checked by name and by type."""
    known = {item.name for item in fields(config)}  # type: ignore[arg-type]  # T is a dataclass
    types = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if is_retired(type(config), name, value, where=f"{where}: {prefix}{name}"):
            continue
        if name not in known:
            shown = _short(f"{prefix}{name}")
            hint = near_names(str(name)[:_LONGEST_SHOWN], known)
            raise ConfigError(f"{where}: no option {shown}; {hint}")
        current = getattr(config, name)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {prefix + name} must be a group of options")
            changes[name] = override(current, value, where=where, prefix=f"{prefix}{name}.")
        else:
            changes[name] = _convert(value, types[name], f"{where}: {prefix}{name}")
    return replace(config, **changes)  # type: ignore[type-var]  # T is a dataclass


def differences(left: Config, right: Config) -> list[str]:
    """Fields that differ, as `stage.field left -> right`."""
    return _differences(asdict(left), asdict(right), "")


def _differences(left: Mapping[str, Any], right: Mapping[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for name, value in left.items():
        if isinstance(value, dict):
            found += _differences(value, right[name], f"{prefix}{name}.")
        elif value != right[name]:
            found.append(f"{prefix}{name} {value} -> {right[name]}")
    return found


def _convert(value: Any, wanted: Any, where: str) -> Any:
    """A YAML or command-line value as the type of its field, or a one-line error."""
    origin = get_origin(wanted)
    if origin is Literal:
        if value in get_args(wanted):
            return value
        raise ConfigError(f"{where} must be one of {list(get_args(wanted))}, got {_short(value)}")
    if origin in (Union, UnionType):
        inner = [item for item in get_args(wanted) if item is not type(None)]
        return None if value is None else _convert(value, inner[0], where)
    if origin is tuple:
        return _convert_tuple(value, get_args(wanted), where)
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ConfigError(f"{where} must be a number a float can hold, got {_short(value)}")
        return float(value)
    if wanted is float and isinstance(value, str) and _is_number(value):
        return float(value)
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where} must be of type {wanted.__name__}, got {_short(value)}")


def _short(value: Any) -> str:
    """A value in a message; a file may hold one without end."""
    text = _REPR.repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _convert_tuple(value: Any, inner: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} must be a list, got {_short(value)}")
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(inner) != len(value):
        raise ConfigError(f"{where} must have {len(inner)} values, got {len(value)}")
    return tuple(_convert(item, kind, where) for item, kind in zip(value, inner, strict=True))


def _is_number(text: str) -> bool:
    """Whether a text is a number: YAML reads `1e-4`, without a dot, as text."""
    try:
        float(text)
    except ValueError:
        return False
    return True


class _PlainLoader(yaml.SafeLoader):
    """Makes plain values only, and no more of them than the file spells out."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuses `<<`, by which a short file can stand for a mapping of any size."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "merge keys (<<) are not supported", key.start_mark
                )


_LONGEST_SHOWN = 100
_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _LONGEST_SHOWN

# What PyYAML raises for broken text, and for values such as `!!int x`.
_YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}); check the path") from error
    except _YAML_ERRORS as error:
        raise ConfigError(f"{path} is not valid YAML: {one_line(error)[:500]}") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} must hold options by name, got {type(content).__name__}")
    return content


def supervised(config: Config) -> Config:
    """The configuration for true masks: focal and dice loss as SOLO weighs them, nothing weak."""
    loss = replace(
        config.loss,
        semantic=0.0,
        max_projection=0.0,
        avg_projection=0.0,
        pairwise_affinity=0.0,
        full_mask_dice=SOLO_MASK_WEIGHT,
        compat="none",
    )
    return replace(config, loss=loss)


def released(config: Config) -> Config:
    """The configuration with the switches that follow the released code (docs/fidelity.md)."""
    return replace(
        config,
        free_mask=replace(config.free_mask, compat="released"),
        loss=replace(config.loss, semantic=0.0, compat="released"),
        inference=replace(config.inference, compat="released"),
    )


PRESETS["released"] = released(Config())
