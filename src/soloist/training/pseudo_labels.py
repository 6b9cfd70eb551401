"""The labels of a round of self-training: what a trained segmenter says about its own images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.config import Config, SelfTrainingConfig
from soloist.data.sources import ImageRef, spread
from soloist.errors import DataError
from soloist.inference.label import label_images, report_labels
from soloist.inference.reading_ahead import Objects, SplitLabeler, each_labelled
from soloist.inference.segmenter import Segmenter
from soloist.models.build import load_solo
from soloist.runtime.device import Runtime
from soloist.runtime.distributed import on_main
from soloist.runtime.files import shown
from soloist.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

THRESHOLD_IMAGES = 64
"""Images from which a threshold is estimated."""


def write_pseudo_labels(
    images: Sequence[ImageRef],
    out: Path,
    model: Path,
    run: RunFolder,
    config: Config,
    runtime: Runtime,
) -> None:
    """The labels of the next round: masks a trained segmenter is sure of (section 3.3).

    Args:
        images: Images to label.
        out: The COCO file to write; a finished one is kept.
        model: Model folder of the segmenter.
        run: The run folder.
        config: Options.
        runtime: Device and precision.

    Raises:
        DataError: If no image can be read.
        StoppedError: If the process was asked to stop; finished work is kept.
    """
    options = config.self_training
    network, trained = load_solo(model)
    inference = replace(config.inference, max_per_image=options.max_per_image)
    segmenter = Segmenter(network, replace(trained, inference=inference), runtime)
    threshold = options.score_threshold
    if options.masks_per_image > 0:
        threshold = on_main(partial(estimated_threshold, segmenter, images, options))
    sure = replace(inference, score_threshold=threshold)
    segmenter = Segmenter(network, replace(trained, inference=sure), runtime)
    summary = label_images(
        images,
        PseudoLabeler(segmenter.labeler, options),
        out,
        title="pseudo-labels",
        short_side=segmenter.decoded_side,
        settings={"stage": "pseudo-labels", "self_training": asdict(options)},
        errors=run.errors,
    )
    report_labels("pseudo-labels", summary)


class PseudoLabeler:
    """What a segmenter labels images with, its masks filtered as pseudo-labels.

    Args:
        labeler: That of the segmenter.
        options: Which masks are kept.
    """

    def __init__(self, labeler: SplitLabeler, options: SelfTrainingConfig) -> None:
        self._labeler = labeler
        self._options = options

    @property
    def prepares(self) -> bool:
        """As the segmenter's; see `SplitLabeler`."""
        return self._labeler.prepares

    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Objects:
        """Pseudo-labels of one image."""
        return self._narrow(self._labeler(pixels, size))

    def prepare(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Any:
        """What another process does."""
        return self._labeler.prepare(pixels, size)

    def finish(self, pixels: NDArray[np.uint8], prepared: Any) -> Objects:
        """What is left."""
        return self._narrow(self._labeler.finish(pixels, prepared))

    def _narrow(self, found: Objects) -> Objects:
        widths = found.boxes[:, 2] - found.boxes[:, 0]
        return found.filter(widths < self._options.max_box_width * found.image_size[1])


def estimated_threshold(
    segmenter: Segmenter, images: Sequence[ImageRef], options: SelfTrainingConfig
) -> float:
    """The score that `options.masks_per_image` masks an image reach, on some of the images.

    Raises:
        DataError: If none of those can be read.
    """
    scores: list[float] = []
    count = 0
    labeler = PseudoLabeler(segmenter.labeler, options)
    sample = spread(images, THRESHOLD_IMAGES)
    for image, found in each_labelled(sample, labeler, segmenter.decoded_side):
        if isinstance(found, DataError):
            logger.warning("left out of the estimate: %s: %s", shown(image.name), found)
            continue
        scores += found.instances.scores.tolist()
        count += 1
    if count == 0:
        raise DataError(
            f"none of the {len(sample)} images that the threshold of pseudo-labels is estimated "
            "from can be read; check the files"
        )
    return least_score(scores, round(options.masks_per_image * count))


def least_score(scores: Sequence[float], count: int) -> float:
    """The least of the `count` best scores, of all if there are fewer; 0 without any."""
    best = sorted(scores, reverse=True)[: max(count, 1)]
    return best[-1] if best else 0.0
