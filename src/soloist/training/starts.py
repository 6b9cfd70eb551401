"""What a learning begins with, and whether it learns regions or trains the network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from soloist.errors import ConfigError
from soloist.inference.segmenter import BUNDLED

logger = logging.getLogger(__name__)

SCRATCH, BACKBONE, BUNDLED_SEGMENTER = "scratch", "backbone", "bundled"
"""What a learning may start from besides a segmenter."""
Learner = Literal["auto", "regions", "network"]
"""What learns: a judge of regions, the network, or what suits the labels."""
OF_REGIONS = {"regions", "inference", "reading", "seed"}
"""Sections of options that a judge of regions reads; the others are a training's."""


def fit_start(init: str | None, preset: str, options: Mapping[str, Any]) -> str:
    """Where `fit` starts.

    Args:
        init: As asked for.
        preset: Of its options; all but `soloist` follow the paper, which starts from a backbone.
        options: Values given by the user, nested by section; another network than the bundled
            segmenter's cannot start from it.
    """
    if init is not None:
        return init
    other = preset != "soloist" or options.keys() & {"backbone", "model"}
    return BACKBONE if other else BUNDLED_SEGMENTER


def start_from(init: str) -> Path | None:
    """The path of the segmenter to start from; None where there is none."""
    if init == BUNDLED_SEGMENTER:
        return BUNDLED
    return None if init in (SCRATCH, BACKBONE) else Path(init)


def against_regions(init: str, options: Mapping[str, Any]) -> str | None:
    """Why no judge of regions can be learned, and what to do; None if it can be.

    Args:
        init: As for `finetune_config`.
        options: Values given by the user, nested by section.
    """
    others = sorted(options.keys() - OF_REGIONS)
    asked = options.get("inference", {}).get("masks")
    if start_from(init) is None:
        return f"--init {init} is no segmenter: use --init bundled"
    if others:
        return f"options of {', '.join(others)} have no effect: leave them out"
    if asked not in (None, "regions"):
        return f"--inference.masks {asked} has no effect: leave it out"
    return None


def takes_regions(learn: Learner, wrong: str | None) -> bool:
    """Whether regions are learned, and not the network.

    Args:
        learn: As asked for; `auto` takes regions where nothing is against them.
        wrong: What is against them; see `against_regions`.

    Raises:
        ConfigError: If regions are asked for and cannot be learned.
    """
    if learn not in get_args(Learner):
        raise ConfigError(f"--learn must be one of {list(get_args(Learner))}, got {learn!r}")
    if learn == "regions" and wrong is not None:
        raise ConfigError(f"--learn regions cannot be: {wrong}")
    if learn == "auto" and wrong is not None:
        logger.info("the network is trained; regions are learned in a minute, but %s", wrong)
    return learn != "network" and wrong is None
