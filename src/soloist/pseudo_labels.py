"""The labels of a round of self-training: what a trained segmenter says about its own images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.config import Config, SelfTrainingConfig
from soloist.data.coco import (
    CocoAnnotation,
    CocoFile,
    CocoImage,
    annotation_records,
    load_coco,
    write_coco,
)
from soloist.data.journal import is_finished
from soloist.data.rle import rle_iou
from soloist.data.sources import ImageRef, spread
from soloist.engine.build import load_solo
from soloist.engine.distributed import on_main
from soloist.engine.label import each_labelled, label_images, report_labels
from soloist.engine.run_folder import RunFolder
from soloist.engine.runtime import Runtime
from soloist.errors import DataError
from soloist.files import plain_json, shown
from soloist.segmenter import Segmenter
from soloist.structures import Instances

logger = logging.getLogger(__name__)

THRESHOLD_IMAGES = 64
"""Images from which a threshold is estimated."""
SCORE_POWER = 2.0
"""What the score of a proposal counts beside what the network says of it."""


def write_pseudo_labels(
    images: Sequence[ImageRef],
    out: Path,
    model: Path,
    proposals: Path,
    run: RunFolder,
    config: Config,
    runtime: Runtime,
) -> None:
    """The labels of the next round: masks a trained segmenter is sure of (section 3.3).

    With `self_training.labels` `proposals` they are the masks it learned from at first, in the
    order that it gives them (ours).

    Args:
        images: Images to label.
        out: The COCO file to write; a finished one is kept.
        model: Model folder of the segmenter.
        proposals: COCO file of what the first segmenter learned from.
        run: The run folder.
        config: Options.
        runtime: Device and precision.

    Raises:
        DataError: If no image can be read.
        StoppedError: If the process was asked to stop; finished work is kept.
    """
    options, inference = config.self_training, config.inference
    network, trained = load_solo(model)
    settings = {"stage": "pseudo-labels", "self_training": asdict(options)}
    predict = partial(
        label_images,
        images,
        short_side=inference.short_side,
        settings=settings,
        errors=run.errors,
    )
    if options.labels == "proposals":
        segmenter = Segmenter(network, replace(trained, inference=inference), runtime)
        predictions = out.with_name(f"predictions_of_{out.name}")
        if not on_main(partial(is_finished, predictions)):
            report_labels("predictions", predict(segmenter, predictions, title="predictions"))
        on_main(partial(write_rescored, proposals, predictions, out, options, settings))
        return
    inference = replace(inference, max_per_image=options.max_per_image)
    segmenter = Segmenter(network, replace(trained, inference=inference), runtime)
    threshold = options.score_threshold
    if options.masks_per_image > 0:
        threshold = on_main(partial(estimated_threshold, segmenter, images, options))
    sure = replace(inference, score_threshold=threshold)
    labeler = PseudoLabeler(Segmenter(network, replace(trained, inference=sure), runtime), options)
    report_labels("pseudo-labels", predict(labeler, out, title="pseudo-labels"))


class PseudoLabeler:
    """A segmenter whose masks are filtered as pseudo-labels."""

    def __init__(self, segmenter: Segmenter, options: SelfTrainingConfig) -> None:
        self._segmenter = segmenter
        self._options = options

    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Instances:
        """Pseudo-labels of one image; see `Segmenter.__call__`."""
        found = self._segmenter(pixels, size)
        widths = found.boxes[:, 2] - found.boxes[:, 0]
        return found.filter(widths < self._options.max_box_width * size[1])


def estimated_threshold(
    segmenter: Segmenter, images: Sequence[ImageRef], options: SelfTrainingConfig
) -> float:
    """The score that `options.masks_per_image` masks an image reach, on some of the images.

    Raises:
        DataError: If none of those can be read.
    """
    scores: list[float] = []
    count = 0
    labeler = PseudoLabeler(segmenter, options)
    sample = spread(images, THRESHOLD_IMAGES)
    for image, found in each_labelled(sample, labeler, segmenter.config.inference.short_side):
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


def write_rescored(
    proposals: Path,
    predictions: Path,
    out: Path,
    options: SelfTrainingConfig,
    settings: Mapping[str, Any],
) -> None:
    """Writes the proposals with scores that a segmenter has a say in; weak ones are left out.

    Args:
        proposals: COCO file of mask proposals.
        predictions: COCO file of a segmenter's masks on the same images.
        out: The COCO file to write; embeddings are those of the proposals.
        options: Which of them are kept, and how many.
        settings: What the result depends on, for the file's `info`.
    """
    coarse, found = load_coco(proposals), load_coco(predictions)
    records = {record.file_name: record for record in found.images}
    scored = [
        (image, rescored(coarse, image, found, records[image.file_name]))
        for image in coarse.images
        if image.file_name in records
    ]
    threshold = options.score_threshold
    if options.masks_per_image > 0:
        scores = [one.score for _, annotations in scored for one in annotations]
        threshold = least_score(scores, round(options.masks_per_image * len(scored)))
    kept = [
        one
        for image, annotations in scored
        for one in annotations[: options.max_per_image]
        if one.score >= threshold and one.box_xywh[2] < options.max_box_width * image.width
    ]
    embeddings = coarse.embeddings
    write_coco(
        out,
        [image for image, _ in scored],
        annotation_records(kept),
        info=plain_json(settings),
        embeddings=None if embeddings is None else embeddings[[one.index for one in kept]],
    )
    logger.info(
        "pseudo-labels: %d of %d proposals on %d images", len(kept), len(coarse), len(scored)
    )


def rescored(
    proposals: CocoFile, image: CocoImage, predictions: CocoFile, record: CocoImage
) -> list[CocoAnnotation]:
    """The proposals of an image, best first, with scores that a segmenter has a say in.

    The score is the geometric mean of the proposal's own, `SCORE_POWER` times, and of the largest
    product of a prediction's overlap with it (IoU) and that one's score: 0 where the segmenter
    sees nothing.

    Args:
        proposals: The file of the proposals.
        image: One of its images.
        predictions: The file of the segmenter's masks.
        record: The same image there.
    """
    own, seen = proposals.annotations[image.id], predictions.annotations[record.id]
    overlaps = rle_iou([one.rle for one in own], [one.rle for one in seen])
    support = overlaps * np.array([one.score for one in seen])
    best = support.max(axis=1, initial=0.0)
    power = 1 / (SCORE_POWER + 1)
    scored = [
        replace(one, score=(one.score**SCORE_POWER * float(value)) ** power)
        for one, value in zip(own, best, strict=True)
    ]
    return sorted(scored, key=lambda one: one.score, reverse=True)
