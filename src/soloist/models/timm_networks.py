"""timm's networks: what they are, found out cheaply, and building them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import timm
import torch

from soloist.checkpoints.names import BACKBONE, flat_name
from soloist.checkpoints.published import PUBLISHED
from soloist.errors import CheckpointError, ConfigError, near_names


@cache
def is_plain(name: str) -> bool:
    """Whether all feature maps of a network have one stride."""
    network = _without_values(name, features_only=True)
    if network is None:
        # Why is reported when it is really built.
        return False
    whole = getattr(network, "model", None)
    one_stride = len(set(network.feature_info.reduction())) == 1
    return one_stride and hasattr(whole, "forward_intermediates")


@cache
def takes_any_size(name: str) -> bool:
    """Whether timm has an option for images of any size; some networks need none."""
    return _without_values(name, dynamic_img_size=True) is not None


def check_sizes(name: str) -> None:
    """Refuses a network that takes images of one size only.

    Raises:
        ConfigError: If it does; with what it says about another size.
    """
    complaint = _size_complaint(name)
    if complaint:
        raise ConfigError(
            f"backbone {name!r} takes images of one size only ({complaint}); choose another, such "
            "as vit_small_patch16_224.dino"
        )


@cache
def _size_complaint(name: str) -> str:
    """Why a network refuses images that are not of its own size; nothing if it takes them."""
    record = timm.get_pretrained_cfg(name)
    if record is None or not record.fixed_input_size:
        return ""
    # Whole patches of 14 and 16 pixels; whole cells of every stage, but not whole windows.
    size = (448, 672) if is_plain(name) else (320, 416)
    any_size = {"dynamic_img_size": True} if is_plain(name) and takes_any_size(name) else {}
    network = _without_values(name, **any_size)
    try:
        if network is not None:
            network(torch.zeros(1, 3, *size, device="meta"))
    except AssertionError as error:
        return str(error).rstrip(".")
    except RuntimeError as error:
        # Positions that do not fit; what else may fail without values is no matter of sizes.
        reason = str(error).partition("\n")[0]
        return "the positions it knows do not fit others" if "match" in reason.lower() else ""
    return ""


def _without_values(name: str, **options: Any) -> Any:
    """A timm network on the meta device, which costs little; None if it cannot be built so."""
    try:
        with torch.device("meta"):
            return timm.create_model(name, **options)
    except (TypeError, NotImplementedError, AssertionError, RuntimeError):
        return None


def check_name(name: str, weights: str) -> None:
    """Refuses a name that timm does not know, and `timm` weights that it has not.

    Raises:
        ConfigError: If there is no such network, or no weights of that tag.
        CheckpointError: If timm's weights are asked for and there are none.
    """
    if not timm.is_model(name):
        hint = near_names(name, {*_timm_names(), *PUBLISHED}, most=0)
        raise ConfigError(f"no backbone named {name!r}; {hint}; `soloist backbones` lists some")
    architecture, _, tag = name.partition(".")
    known = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in known:
        raise ConfigError(f"timm has no weights named {name!r}; {near_names(name, known)}")
    if weights == "timm" and not timm.is_model_pretrained(name):
        raise CheckpointError(
            f"timm has no weights for {name!r}; use --backbone.weights none or a file"
        )


def timm_notice(name: str) -> str:
    """One line on timm's weights of a network: their source and licence, as timm records them."""
    record = timm.get_pretrained_cfg(name)
    source = record and (record.hf_hub_id or record.url)
    licence = (record and record.license) or "not recorded by timm"
    return f"{name}: timm's weights, from {source or 'an unknown source'}; licence: {licence}"


def timm_tensor_names(network: Any, own: Iterable[str]) -> dict[str, str | None]:
    """The names that tensors of a feature extractor have in the whole timm model."""
    whole = timm.create_model(network.pretrained_cfg["architecture"]).state_dict()
    names = {flat_name(BACKBONE + name): name for name in whole}
    return {name: names[flat_name(BACKBONE + name)] for name in own}


def timm_network(name: str, *, features_only: bool = True, **options: Any) -> Any:
    """Builds a feature extractor; untyped, since timm's own types do not name its attributes."""
    try:
        return timm.create_model(name, features_only=features_only, **options)
    except (TypeError, NotImplementedError, AssertionError) as error:
        raise ConfigError(
            f"backbone {name!r} gives no features with {options} ({error}); try "
            "--backbone.output-stride 32 or another backbone"
        ) from error
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the pretrained weights of {name!r} could not be fetched ({reason}); "
            "give --backbone.weights bundled, none or a file"
        ) from error


def _timm_names() -> list[str]:
    names: list[str] = timm.list_models()
    return names
