"""A judge of candidates from labelled images: what `finetune` learns in seconds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from soloist.config import Config
from soloist.config.presets import override
from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.data.images import read_image
from soloist.data.sources import ImageRef, spread
from soloist.errors import DataError
from soloist.models.build import load_solo, save_solo
from soloist.ops.resize import HalfCovered
from soloist.proposals.candidate_networks import Example, learn_classes, learn_nodes, look_of
from soloist.proposals.descriptions import class_shares, draw_candidates
from soloist.proposals.hierarchy import hierarchies, normalised_lab
from soloist.proposals.judge import Judge
from soloist.proposals.partition import Floats
from soloist.proposals.pixels import (
    MAX_SAMPLES,
    SAMPLES,
    PixelClassifier,
    PixelSample,
    learn_pixels,
    sample_pixels,
    with_maps,
)
from soloist.proposals.ranking import overlaps_with
from soloist.proposals.scale import working_pixels
from soloist.runtime.files import shown
from soloist.runtime.progress import track
from soloist.runtime.workers import done_ahead, helpers, report_lost_workers

logger = logging.getLogger(__name__)

CANDIDATES = 800
"""Candidates of an image that a judge learns from: up to N of each kind."""
MAX_IMAGES = 64
"""From more labelled images a network learns better; a judge sees this many at most."""
HELPER_BYTES = 5e8
"""Memory that a process takes for what it looks at."""
AROUND = 4
"""How far around its objects an unfinished image is learned from, in pixels."""
NEAR = 0.5
"""Candidates there are known that share so much of themselves, or of an object, with an object."""
MAX_CLASSES = 32
"""More than these need features that know more than colours and edges, and much memory."""


@dataclass(frozen=True)
class LabelledImage:
    """An image and the objects on it, at the size its trees live on.

    Attributes:
        pixels: (H, W, 3) uint8 RGB at that size.
        image_size: (height, width) of the image itself, in pixels.
        masks: (n, H, W) bool.
        classes: (n,) each in [0, K).
        finished: No object is missing; else only what is near those that are there is known.
    """

    pixels: NDArray[np.uint8]
    image_size: tuple[int, int]
    masks: NDArray[np.bool_]
    classes: list[int]
    finished: bool = True

    @property
    def known(self) -> NDArray[np.bool_] | None:
        """(H, W) pixels that are learned from; None: all."""
        if self.finished:
            return None
        near: NDArray[np.bool_] = ndimage.binary_dilation(self.masks.any(axis=0), iterations=AROUND)
        return near


def judge_of(images: Sequence[ImageRef], labels: CocoFile, *, seed: int) -> Judge | None:
    """Learns which pixels are inside objects, and then which candidates are objects.

    Args:
        images: Labelled images, of which up to `MAX_IMAGES` are read, drawn evenly.
        labels: Their objects, and their classes in the order of `labels.categories`. Of those that
            it calls unfinished only what is near their objects is learned from.
        seed: Of the weights it starts from and of the pixels it sees.

    Returns:
        The judge; None if no image has a candidate.
    """
    chosen = spread(images, MAX_IMAGES)
    if len(chosen) < len(images):
        logger.warning(
            "regions are learned from %d of %d labelled images, drawn evenly; --learn network "
            "learns from all",
            len(chosen),
            len(images),
        )
    numbers = {key: number for number, key in enumerate(sorted(labels.categories))}
    by_name = {image.file_name: labels.annotations[image.id] for image in labels.images}
    generator = np.random.default_rng(seed)
    count = min(SAMPLES, MAX_SAMPLES // max(1, len(chosen)))
    samples: list[PixelSample] = []
    examples: list[Example] = []

    def read(image: ImageRef) -> LabelledImage | None:
        finished = image.name not in labels.unfinished
        return _read(image, by_name.get(image.name, ()), numbers, finished=finished)

    workers = helpers(len(chosen), HELPER_BYTES)
    reporting = report_lost_workers("looks at labelled images", "begins this part again")
    with track("learning from labels", 2 * len(chosen)) as tracker, reporting:
        # Read twice: what is known of all pixels of all images would not fit in memory.
        for image in chosen:
            if (one := read(image)) is not None:
                lab = normalised_lab(one.pixels)
                classes = len(numbers) or 1
                samples.append(
                    sample_pixels(lab, one.masks, one.classes, classes, generator, count, one.known)
                )
            tracker.advance()
        if not samples:
            return None
        pixels = learn_pixels(samples, seed=seed)
        del samples

        def make_example(number: int) -> Example | None:
            one = read(chosen[number])
            return None if one is None else example_of(one, pixels)

        made = done_ahead(make_example, end=len(chosen), workers=workers, tensors=False)
        for example in made:
            if example is not None and len(example.prior):
                examples.append(example)
            tracker.advance()
    if not examples:
        return None
    kinds = learn_classes(examples, seed=seed) if len(numbers) > 1 else None
    return Judge(pixels, learn_nodes(examples, seed=seed), kinds)


def settings_of(start: Config, config: Config, options: Mapping[str, Any]) -> Config:
    """The settings of a segmenter, for other images and with what the user gave.

    Args:
        start: Its own.
        config: Of the run; its section `reading` says how the images are read.
        options: Values given by the user, nested by section; `inference` and `regions` are taken.
    """
    given = {name: options[name] for name in ("inference", "regions") if name in options}
    return replace(override(start, given, where="options"), reading=config.reading)


def save_judged(
    model: Path,
    start: Path,
    judge: Judge,
    config: Config,
    options: Mapping[str, Any],
    categories: Mapping[int, str],
) -> None:
    """Writes the model of a start whose regions a judge finds and orders.

    Args:
        model: Folder to write.
        start: The segmenter whose network and settings it keeps.
        judge: What was learned.
        config: As for `settings_of`.
        options: As for `settings_of`.
        categories: Names of the judge's classes by category id, in their order.
    """
    network, own = load_solo(start)
    settings = settings_of(own, config, options)
    # As many as there are, unless the user says otherwise.
    most = {"max_per_image": settings.regions.max_masks, **options.get("inference", {})}
    shown = override(settings.inference, {**most, "masks": "regions"}, where="options")
    settings = replace(settings, inference=shown)
    save_solo(model, network.state_dict(), settings, categories, judge.record())


def _read(
    image: ImageRef,
    objects: Sequence[CocoAnnotation],
    numbers: Mapping[int, int],
    *,
    finished: bool,
) -> LabelledImage | None:
    """An image with its objects; None, which is logged, if it cannot be read."""
    try:
        pixels = read_image(image.path, reading=image.reading)
    except DataError as error:
        logger.warning("left out: %s: %s", shown(image.name), error)
        return None
    return labelled_image(pixels, objects, numbers, finished=finished)


def labelled_image(
    pixels: NDArray[np.uint8],
    objects: Sequence[CocoAnnotation],
    numbers: Mapping[int, int],
    *,
    finished: bool = True,
) -> LabelledImage:
    """An image of (H, W, 3) uint8 RGB with its objects, at the size its trees live on.

    Args:
        pixels: The image.
        objects: Its objects, each with a mask.
        numbers: The class of each category id; those of others are 0.
        finished: No object is missing.
    """
    own = (pixels.shape[0], pixels.shape[1])
    working = working_pixels(pixels)
    size = (working.shape[0], working.shape[1])
    masks = np.zeros((len(objects), *size), dtype=bool)
    resize = HalfCovered(own, size)
    for mask, one in zip(masks, objects, strict=True):
        mask[:] = resize(decode_mask(one.rle))
    classes = [numbers.get(one.category_id, 0) for one in objects]
    return LabelledImage(working, own, masks, classes, finished)


def example_of(one: LabelledImage, pixels: PixelClassifier) -> Example:
    """The candidates of an image, as far as it is known, and how well each fits an object."""
    plain = hierarchies(one.pixels)
    found = with_maps(plain, pixels.maps(plain.lab))
    drawn = draw_candidates(found, one.image_size, CANDIDATES)
    candidates, described = drawn.candidates, drawn.described
    overlaps = overlaps_with(found, candidates, one.masks)
    if not one.finished:
        near = _near(overlaps, candidates.areas, one.masks)
        overlaps, described, candidates = overlaps[near], described[near], candidates.filter(near)
    best, classes = np.zeros(len(overlaps)), np.zeros(len(overlaps), dtype=np.int64)
    if len(one.masks):
        best, classes = overlaps.max(axis=1), np.array(one.classes)[overlaps.argmax(axis=1)]
    means = class_shares(found, candidates)
    return Example(described, candidates.scores, best, classes, means, look_of(plain.lab))


def _near(overlaps: Floats, areas: Floats, masks: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Which of N candidates are known by the n objects of an unfinished image.

    Those that lie in one by half, and those that hold half of one.

    Args:
        overlaps: (N, n) IoU.
        areas: (N,) pixels.
        masks: (n, H, W) of the objects.
    """
    whole = masks.sum(axis=(1, 2))
    shared = overlaps * (areas[:, None] + whole) / (1 + overlaps)
    return np.flatnonzero((shared >= NEAR * np.minimum(areas[:, None], whole)).any(axis=1))
