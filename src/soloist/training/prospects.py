"""What can be known early of how a training ends, before its time is spent."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from soloist.config import Config
from soloist.data.coco.types import CocoFile
from soloist.data.sources import ImageRef
from soloist.runtime.progress import duration

logger = logging.getLogger(__name__)

MIN_STEPS = 200
"""Of a training; networks of fewer find next to nothing. A third of the preset `tiny`'s steps."""
MIN_SHARE = 0.5
"""Of the images that should have a coarse mask: a network does not learn from the others."""

_REMEDIES = {
    "regions": "lower --regions.score-threshold",
    "free-mask": "use --preset soloist, or lower --free-mask.score-threshold",
}


def least_steps(images: int, batch_size: int) -> int:
    """Steps below which a training is not worth its time: `MIN_STEPS`, and one pass over all.

    Args:
        images: Images to learn from.
        batch_size: Images of a step.
    """
    return max(MIN_STEPS, -(-images // batch_size))


def warn_of_few_steps(steps: int, wanted: int, seconds_per_step: float) -> None:
    """Warns where a budget leaves a training fewer steps than it needs.

    Args:
        steps: As planned.
        wanted: Of `least_steps`.
        seconds_per_step: As measured.
    """
    if steps < wanted:
        logger.warning(
            "the budget is too small: %d steps are planned, with fewer than %d a network finds "
            "next to nothing; stop now and add %s to --budget for each training, or leave it out",
            steps,
            wanted,
            duration((wanted - steps) * seconds_per_step),
        )


def warn_of_few_masks(coarse: CocoFile, images: Sequence[ImageRef], config: Config) -> None:
    """Warns where coarse masks were found on few of the images.

    Args:
        coarse: The masks.
        images: The images they are of.
        config: Options; who makes the masks decides the remedy.
    """
    having = sum(bool(masks) for masks in coarse.annotations.values())
    if having < MIN_SHARE * len(images):
        logger.warning(
            "coarse masks on only %d of %d images, and a network learns from these alone; stop now "
            "and %s, or look at them with `soloist report RUN/free_masks.json`",
            having,
            len(images),
            _REMEDIES[config.extract.proposals],
        )
