"""Options that have no effect, because of others: they are refused instead of passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soloist.config import Config, InferenceConfig
from soloist.errors import ConfigError

OF_ITS_OWN_MASKS = ("max_before_nms", "nms", "nms_kernel", "nms_sigma", "nms_threshold",
                    "largest_part", "outline_radius")  # fmt: skip
"""Options of `inference` that shape the network's own masks alone."""
STRONG_VIEW = ("copy_paste", "paste_scale", "color_jitter", "gray", "blur", "erase")
"""Options of the strong view alone."""


def flags_of(values: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    """The values of some sections by their flags, such as `--free-mask.max-masks`.

    Args:
        values: As `given` returns them.
        sections: Names of sections.
    """
    return {
        f"--{section}.{name}".replace("_", "-"): value
        for section in sections
        for name, value in values.get(section, {}).items()
    }


def refuse_idle(options: Mapping[str, object], because: str) -> None:
    """Refuses options that have no effect in this mode.

    Args:
        options: Values by flag; None or False where not given.
        because: What the mode is, or what is missing, after `has no effect`.

    Raises:
        ConfigError: If one is given.
    """
    for flag, value in options.items():
        if value is not None and value is not False:
            raise ConfigError(f"{flag} has no effect {because}; leave it out")


def refuse_idle_values(values: Mapping[str, Any], config: Config) -> None:
    """Refuses values of the method that other values switch off.

    Args:
        values: What the user gave, as `given` returns it.
        config: All options of the run.

    Raises:
        ConfigError: If one is given.
    """
    for idle, names, because in (
        (
            config.extract.proposals == "regions",
            ("free_mask",),
            "where masks are merged regions (--extract.proposals)",
        ),
        (
            config.extract.proposals == "free-mask",
            ("regions",),
            "where Free Mask makes the masks (--extract.proposals)",
        ),
        (
            config.self_training.rounds == 0,
            ("self_training",),
            "without a round of self-training (--rounds)",
        ),
        (config.inference.nms == "matrix", ("inference.nms_threshold",), "with Matrix NMS"),
        (
            config.inference.nms == "mask",
            ("inference.nms_kernel", "inference.nms_sigma"),
            "with mask NMS",
        ),
        (
            config.loss.pairwise_affinity == 0,
            ("loss.pairwise_warmup_steps", "loss.color_threshold"),
            "at --loss.pairwise-affinity 0",
        ),
        (
            not config.augment.strong,
            tuple(f"augment.{name}" for name in STRONG_VIEW),
            "without strong views (--augment.strong)",
        ),
        (config.augment.copy_paste == 0, ("augment.paste_scale",), "at --augment.copy-paste 0"),
    ):
        for name in names if idle else ():
            section, _, one = name.partition(".")
            group = values.get(section, {})
            found = {one: group[one]} if one in group else {} if one else group
            found = {key: value for key, value in found.items() if key != "rounds"}
            refuse_idle(flags_of({section: found}, section), because)


def refuse_idle_inference(
    values: Mapping[str, Any], config: InferenceConfig, *, judged: bool
) -> None:
    """Refuses values of `inference` that have no effect on what a segmenter finds.

    Args:
        values: What the user gave of that section, by name.
        config: The segmenter's options, these among them.
        judged: Whether a judge that learned from labels ranks its regions.

    Raises:
        ConfigError: If one is given.
    """
    if judged and config.masks == "reranked":
        asked = {"masks": values.get("masks")}
        refuse_idle(flags_of({"inference": asked}, "inference"), "where a judge ranks the regions")
    if config.masks != "network":
        own = {name: values[name] for name in OF_ITS_OWN_MASKS if name in values}
        because = f"on regions, with --inference.masks {config.masks}"
        refuse_idle(flags_of({"inference": own}, "inference"), because)
